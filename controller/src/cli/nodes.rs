//! `bunraku nodes …` and `bunraku heal`.

use bunraku_common::hint;
use bunraku_proto::v1::{
    EnvironmentOnNode, HealNodeRequest, HoldNodeRequest, LabelNodeRequest, ListNodesRequest, NodeInfo,
    NodeRequest, RevokeNodeRequest,
};
use clap::{Args, Subcommand};

use super::{
    Exit, Failure, Reach, client,
    output::{ago, columns, confirm, count, given, hinted, or_dash, short, since},
    status::node_table,
    tokens::clock_time,
};

#[derive(Debug, Subcommand)]
pub(super) enum Nodes {
    /// All nodes
    #[command(after_help = "Example: bunraku nodes list")]
    List,
    /// One node with all that it holds
    #[command(after_help = "Example: bunraku nodes show c1.example.com")]
    Show {
        /// The node's name
        node: String,
    },
    /// Put a node aside: deploys do not wait for it and do not reach it
    #[command(after_help = "Example: bunraku nodes hold c1.example.com --reason 'new disk'")]
    Hold {
        /// The node's name
        node: String,
        /// Shown to everybody who meets the hold
        #[arg(long)]
        reason: String,
    },
    /// Take a node back: it is brought to the committed snapshots at once
    #[command(after_help = "Example: bunraku nodes release c1.example.com")]
    Release {
        /// The node's name
        node: String,
    },
    /// Cut a node off within two seconds and bar its name until `nodes allow`
    #[command(after_help = "Example: bunraku nodes revoke c1.example.com --reason 'disk stolen' --yes")]
    Revoke {
        /// The node's name
        node: String,
        /// Shown to everybody who meets it
        #[arg(long)]
        reason: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Let a revoked name enrol again
    #[command(after_help = "Example: bunraku nodes allow c1.example.com")]
    Allow {
        /// The node's name
        node: String,
    },
    /// Put labels on a node, to choose compilers by them: `bunraku rollout start restart --label dc=paris`
    #[command(
        after_help = "A label is one word, with or without a value. Labels say nothing to the node itself.\n\n\
                      Examples:\n  bunraku nodes label c1.example.com dc=paris rack-b2\n  \
                      bunraku nodes label c1.example.com dc=rome --remove dc=paris"
    )]
    Label {
        /// The node's name
        node: String,
        /// Labels that it gets
        #[arg(value_name = "LABEL", value_parser = given(), required_unless_present = "remove")]
        add: Vec<String>,
        /// Labels that it loses
        #[arg(long, num_args = 1.., value_name = "LABEL", value_parser = given())]
        remove: Vec<String>,
    },
    /// Forget a node that does not exist any more
    #[command(after_help = "Example: bunraku nodes remove c1.example.com --yes")]
    Remove {
        /// The node's name
        node: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

impl Nodes {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let (node, text): (_, fn(&NodeInfo) -> String) = match self {
            Self::List => {
                let reply = client.list_nodes(ListNodesRequest {}).await?.into_inner();
                return reach.output.print(&reply, |reply| node_table(&reply.nodes, false));
            }
            Self::Remove { node, yes } => {
                confirm(&format!("Forget {node}? Its identity ends and it must enrol again."), yes)?;
                let reply = client.remove_node(NodeRequest { node: node.clone() }).await?.into_inner();
                return reach.output.print(&reply, |_| format!("{node} is forgotten\n"));
            }
            Self::Revoke { node, reason, yes } => {
                confirm(&format!("Revoke {node}? Its connections are cut and its name is barred."), yes)?;
                (client.revoke_node(RevokeNodeRequest { node, reason }).await?, revoked)
            }
            Self::Show { node } => (client.show_node(NodeRequest { node }).await?, node_text),
            Self::Hold { node, reason } => (client.hold_node(HoldNodeRequest { node, reason }).await?, held),
            Self::Release { node } => (client.release_node(NodeRequest { node }).await?, released),
            Self::Label { node, add, remove } => {
                (client.label_node(LabelNodeRequest { node, add, remove }).await?, labelled)
            }
            Self::Allow { node } => (client.allow_node(NodeRequest { node }).await?, allowed),
        };
        reach.output.print(&node.into_inner(), text)
    }
}

pub(super) fn held(node: &NodeInfo) -> String {
    format!(
        "{0} is {1}: deploys go on without it\nnext: bunraku nodes release {0}, when it may come back\n",
        node.name, node.standing
    )
}

pub(super) fn released(node: &NodeInfo) -> String {
    if node.unchanged {
        return format!("{} was not put aside: it takes part\n", node.name);
    }
    let then = if node.connected { "is brought" } else { "will be brought, once it is connected," };
    format!("{0} takes part again and {then} to what is committed\nnext: bunraku nodes show {0}\n", node.name)
}

pub(super) fn revoked(node: &NodeInfo) -> String {
    let already = if node.unchanged { " already" } else { "" };
    format!(
        "{0} is{already} {1}\nnext: bunraku nodes allow {0}, before it may enrol again\n",
        node.name, node.standing
    )
}

pub(super) fn allowed(node: &NodeInfo) -> String {
    if node.unchanged {
        return format!("{} is not revoked: there is nothing to allow\n", node.name);
    }
    format!(
        "{0} may enrol again\nnext: bunraku token create {0} --role {1}\n",
        node.name,
        node.roles.first().map_or("compiler", String::as_str)
    )
}

pub(super) fn labelled(node: &NodeInfo) -> String {
    let already = if node.unchanged { " as before" } else { "" };
    match node.labels.is_empty() {
        true => format!("{} has no label{already}\n", node.name),
        false => format!("{} has these labels{already}: {}\n", node.name, node.labels.join(", ")),
    }
}

pub(super) fn node_text(node: &NodeInfo) -> String {
    let connected = match (node.connected, node.since_ms) {
        (true, since_ms) => format!("for {}", since(since_ms)),
        (false, 0) => "no, and not since the controller started".to_owned(),
        (false, since_ms) => format!("no, last seen {}", ago(since_ms)),
    };
    let expires = match node.certificate_expires {
        0 => String::new(),
        s => clock_time(s),
    };
    let (puppetserver, hint) = hint::split(&node.puppetserver);
    // What a node that is away said last may be true no more.
    let last = if node.connected { "" } else { ", when it was last asked" };
    let puppetserver = if puppetserver.is_empty() { puppetserver } else { puppetserver + last };
    let about = [
        ("roles", node.roles.join(", ")),
        ("labels", node.labels.join(", ")),
        ("standing", node.standing.clone()),
        ("connected", connected),
        ("address", node.address.clone()),
        ("agent", node.version.clone()),
        ("enrolled by", node.enrolled_by.clone()),
        ("identity until", expires),
        ("puppet server", puppetserver),
        ("hint", hint),
        ("turn", node.turn.clone()),
    ];
    let mut out = format!("{}\n", node.name);
    for (head, text) in
        about.iter().filter(|(head, text)| !matches!(*head, "hint" | "turn" | "labels") || !text.is_empty())
    {
        out.push_str(&format!("  {head:<14}  {}\n", or_dash(text)));
    }
    if !node.environments.is_empty() {
        out.push_str(&format!("environments{last}\n"));
    }
    for line in columns(node.environments.iter().map(environment_line)) {
        out.push_str(&format!("{line}\n"));
    }
    for environment in node.environments.iter().filter(|environment| !environment.owed.is_empty()) {
        out.push_str(&format!("{} is owed: {}", environment.environment, hinted("", &environment.owed)));
    }
    if !node.drift.is_empty() {
        out.push_str("changed by hand\n");
        for path in &node.drift {
            out.push_str(&format!("  {path}\n"));
        }
    }
    if !node.alarms.is_empty() {
        out.push_str("alarms\n");
        for alarm in &node.alarms {
            out.push_str(&format!("  ! {}", hinted("    ", alarm)));
        }
    }
    out
}

fn environment_line(on_node: &EnvironmentOnNode) -> [String; 3] {
    let kept = format!("{} kept", count(on_node.versions.len() as u64, "version"));
    let serves = match (on_node.unmanaged, on_node.live.is_empty(), on_node.proven) {
        (true, ..) => "a directory that bunraku does not manage yet".to_owned(),
        (false, true, _) => "serves nothing".to_owned(),
        (false, false, true) => format!("serves {}, proven", short(&on_node.live)),
        (false, false, false) => format!("serves {}, not proven", short(&on_node.live)),
    };
    [on_node.environment.clone(), serves, kept]
}

#[derive(Debug, Args)]
pub(super) struct Heal {
    /// The node's name
    node: String,
    /// Only this environment
    #[arg(long, value_name = "ENV", value_parser = given())]
    environment: Option<String>,
}

impl Heal {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let request =
            HealNodeRequest { node: self.node.clone(), environment: self.environment.unwrap_or_default() };
        let reply = client.heal_node(request).await?.into_inner();
        reach.output.print(&reply, |reply| {
            if reply.environments.is_empty() {
                return "nothing is committed yet, so there is nothing to heal\n".to_owned();
            }
            let mut out = String::new();
            for healed in &reply.environments {
                if !healed.error.is_empty() {
                    let why = format!("{}: could not heal: {}", healed.environment, healed.error);
                    out.push_str(&hinted("", &why));
                    continue;
                }
                let files = count(healed.checked_files, "file");
                out.push_str(&format!(
                    "{}: {files} checked, {} mended\n",
                    healed.environment,
                    healed.mended.len()
                ));
                for path in &healed.mended {
                    out.push_str(&format!("  {path}\n"));
                }
            }
            out
        })?;
        if reply.environments.iter().any(|healed| !healed.error.is_empty()) {
            return Err(Failure::silent(Exit::Failed));
        }
        Ok(())
    }
}
