//! `bunraku environments …` and `bunraku release`.

use bunraku_proto::v1::{EnvironmentInfo, ListEnvironmentsReply, ListEnvironmentsRequest, ReleaseRequest};
use clap::{Args, Subcommand};

use super::{
    Failure, Reach, client,
    output::{alike, given, hinted, or_dash, short, table},
};

#[derive(Debug, Subcommand)]
pub(super) enum Environments {
    /// Which snapshot each compiler serves
    #[command(after_help = "Example: bunraku environments list")]
    List,
}

impl Environments {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        match self {
            Self::List => {
                let mut client = client::connect(reach).await?;
                let reply = client.list_environments(ListEnvironmentsRequest {}).await?.into_inner();
                reach.output.print(&reply, list_text)
            }
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Release {
    /// The environment
    environment: String,
}

impl Release {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let reply = client.release(ReleaseRequest { environment: self.environment }).await?.into_inner();
        reach.output.print(&reply, |reply| match &reply.environment {
            Some(environment) if !reply.was_held => {
                format!("{} was not held: deploys are taken\n", environment.name)
            }
            Some(environment) => format!(
                "{} is released: deploys are taken again\nnext: bunraku deploy {}\n",
                environment.name, environment.name
            ),
            None => String::new(),
        })
    }
}

fn list_text(reply: &ListEnvironmentsReply) -> String {
    let mut out = environment_table(&reply.environments, false);
    for environment in &reply.environments {
        for node in environment.nodes.iter().filter(|node| !node.note.is_empty()) {
            let why = format!("{} in {}: {}", node.node, environment.name, node.note);
            out.push_str(&hinted("", &why));
        }
    }
    out
}

/// With `counted`, compilers that serve the same share a row.
pub(super) fn environment_table(environments: &[EnvironmentInfo], counted: bool) -> String {
    let mut out = table(
        &["ENVIRONMENT", "SNAPSHOT", "COMMIT", "NODE", "SERVES", "STATE"],
        environments.iter().flat_map(|environment| environment_rows(environment, counted)),
        "no environments yet\nhint: bunraku deploy --all",
    );
    for environment in environments {
        out.push_str(&branch_note(environment));
    }
    out
}

/// One row a node, or a group of them; the environment's own columns only in the first.
pub(super) fn environment_rows(environment: &EnvironmentInfo, counted: bool) -> Vec<Vec<String>> {
    let own = [
        environment.name.clone(),
        short(&environment.committed).to_owned(),
        short(&environment.commit).to_owned(),
    ];
    if environment.nodes.is_empty() {
        return vec![[own.as_slice(), &["-".to_owned(), "-".to_owned(), "-".to_owned()]].concat()];
    }
    let nodes = &environment.nodes;
    let groups = if counted {
        alike(nodes, |node| (node.live.clone(), node.state.clone()))
    } else {
        nodes.iter().map(|node| vec![node]).collect()
    };
    let rows = groups.iter().enumerate().map(|(row, group)| {
        let node = group[0];
        let name = if group.len() == 1 { node.node.clone() } else { format!("{} compilers", group.len()) };
        let own = if row == 0 { own.clone() } else { Default::default() };
        // The table of nodes says since when.
        let state = or_dash(&node.state).replace("not connected", "away");
        let of_node = [name, short(&node.live).to_owned(), state];
        [own.as_slice(), &of_node].concat()
    });
    rows.collect()
}

/// Lists that can be narrowed to one environment take it in the same two ways.
#[derive(Debug, Args)]
pub(super) struct InEnvironment {
    /// Only this environment
    #[arg(value_name = "ENV", value_parser = given())]
    environment: Option<String>,
    /// The same as an option
    #[arg(long = "environment", value_name = "ENV", hide = true, conflicts_with = "environment", value_parser = given())]
    named: Option<String>,
}

impl InEnvironment {
    /// What is said instead of an empty list; a name may be mistyped.
    pub(super) fn nothing(&self, of: &str) -> String {
        match self.environment.as_ref().or(self.named.as_ref()) {
            Some(name) => format!("no {of} of {name}\nhint: bunraku environments list"),
            None => format!("no {of} yet\nhint: bunraku deploy --all"),
        }
    }

    /// Empty: all.
    pub(super) fn name(self) -> String {
        self.environment.or(self.named).unwrap_or_default()
    }
}

/// What an operator must know about an environment beyond the table.
pub(super) fn branch_note(environment: &EnvironmentInfo) -> String {
    if environment.held.is_empty() {
        return String::new();
    }
    format!("{0} is held {1}\nhint: bunraku release {0}\n", environment.name, environment.held)
}
