//! `bunraku environments …` and `bunraku release`.

use bunraku_proto::v1::{EnvironmentInfo, ListEnvironmentsRequest, ReleaseRequest};
use clap::{Args, Subcommand};

use super::{
    Failure, Reach, client,
    output::{or_dash, short, table},
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
                reach.output.print(&reply, |reply| {
                    let heads = ["ENVIRONMENT", "SNAPSHOT", "COMMIT", "NODE", "SERVES", "STATE"];
                    let mut out = table(&heads, reply.environments.iter().flat_map(environment_rows));
                    for environment in &reply.environments {
                        out.push_str(&branch_note(environment));
                    }
                    out
                })
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
            Some(environment) => format!(
                "{} is released: deploys are taken again\nnext: bunraku deploy {}\n",
                environment.name, environment.name
            ),
            None => String::new(),
        })
    }
}

/// One row a node; the environment's own columns only in the first.
pub(super) fn environment_rows(environment: &EnvironmentInfo) -> Vec<Vec<String>> {
    let own = [
        environment.name.clone(),
        short(&environment.committed).to_owned(),
        short(&environment.commit).to_owned(),
    ];
    if environment.nodes.is_empty() {
        return vec![[own.as_slice(), &["-".to_owned(), "-".to_owned(), "-".to_owned()]].concat()];
    }
    let rows = environment.nodes.iter().enumerate().map(|(row, node)| {
        let own = if row == 0 { own.clone() } else { Default::default() };
        let state =
            if node.note.is_empty() { node.state.clone() } else { format!("{}: {}", node.state, node.note) };
        [own.as_slice(), &[node.node.clone(), short(&node.live).to_owned(), or_dash(&state).to_owned()]]
            .concat()
    });
    rows.collect()
}

/// What an operator must know about an environment beyond the table.
pub(super) fn branch_note(environment: &EnvironmentInfo) -> String {
    if environment.held.is_empty() {
        return String::new();
    }
    format!("{} is held: {} (bunraku release {})\n", environment.name, environment.held, environment.name)
}
