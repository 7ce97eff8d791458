//! `bunraku nodes …` and `bunraku heal`.

use bunraku_proto::v1::{
    HealNodeRequest, HoldNodeRequest, ListNodesRequest, NodeInfo, NodeRequest, RevokeNodeRequest,
};
use clap::{Args, Subcommand};

use super::{
    Exit, Failure, Reach, client,
    output::{ago, confirm, or_dash, short},
    status::node_table,
};

#[derive(Debug, Subcommand)]
pub(super) enum Nodes {
    /// All nodes
    #[command(after_help = "Example: bunraku nodes list")]
    List,
    /// One node with all that it holds
    #[command(after_help = "Example: bunraku nodes show c1.example.com")]
    Show { node: String },
    /// Put a node aside: deploys do not wait for it and do not reach it
    #[command(after_help = "Example: bunraku nodes hold c1.example.com --reason 'new disk'")]
    Hold {
        node: String,
        /// Shown to everybody who meets the hold
        #[arg(long)]
        reason: String,
    },
    /// Take a node back: it is brought to the committed snapshots at once
    #[command(after_help = "Example: bunraku nodes release c1.example.com")]
    Release { node: String },
    /// Cut a node off within two seconds and bar its name until `nodes allow`
    #[command(after_help = "Example: bunraku nodes revoke c1.example.com --reason 'disk stolen' --yes")]
    Revoke {
        node: String,
        #[arg(long)]
        reason: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Let a revoked name enrol again
    #[command(after_help = "Example: bunraku nodes allow c1.example.com")]
    Allow { node: String },
    /// Forget a node that does not exist any more
    #[command(after_help = "Example: bunraku nodes remove c1.example.com --yes")]
    Remove {
        node: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

impl Nodes {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let node = match self {
            Self::List => {
                let reply = client.list_nodes(ListNodesRequest {}).await?.into_inner();
                return reach.output.print(&reply, |reply| node_table(&reply.nodes));
            }
            Self::Remove { node, yes } => {
                confirm(&format!("Forget {node}? Its identity ends and it must enrol again."), yes)?;
                let reply = client.remove_node(NodeRequest { node: node.clone() }).await?.into_inner();
                return reach.output.print(&reply, |_| format!("{node} is forgotten\n"));
            }
            Self::Revoke { node, reason, yes } => {
                confirm(&format!("Revoke {node}? Its connections are cut and its name is barred."), yes)?;
                client.revoke_node(RevokeNodeRequest { node, reason }).await?
            }
            Self::Show { node } => client.show_node(NodeRequest { node }).await?,
            Self::Hold { node, reason } => client.hold_node(HoldNodeRequest { node, reason }).await?,
            Self::Release { node } => client.release_node(NodeRequest { node }).await?,
            Self::Allow { node } => client.allow_node(NodeRequest { node }).await?,
        };
        reach.output.print(&node.into_inner(), node_text)
    }
}

fn node_text(node: &NodeInfo) -> String {
    let connected = if node.connected { "yes, since" } else { "no, since" };
    let mut out = format!(
        "{}\n  roles          {}\n  standing       {}\n  connected      {connected} {}\n  address        {}\n  \
         agent          {}\n  puppet server  {}\n  enrolled by    {}\n",
        node.name,
        node.roles.join(", "),
        node.standing,
        ago(node.since_ms),
        or_dash(&node.address),
        or_dash(&node.version),
        or_dash(&node.puppetserver),
        or_dash(&node.enrolled_by),
    );
    for environment in &node.environments {
        let proven = if environment.proven { "proven" } else { "not proven" };
        let serves = short(&environment.live);
        out.push_str(&format!(
            "  {:<14} {serves} {proven}, {} kept",
            environment.environment,
            environment.versions.len()
        ));
        if !environment.owed.is_empty() {
            out.push_str(&format!(", owed: {}", environment.owed));
        }
        out.push('\n');
    }
    for path in &node.drift {
        out.push_str(&format!("  changed by hand: {path}\n"));
    }
    if !node.drift.is_empty() {
        out.push_str(&format!("  mend it with: bunraku heal {}\n", node.name));
    }
    for alarm in &node.alarms {
        out.push_str(&format!("  ! {alarm}\n"));
    }
    out
}

#[derive(Debug, Args)]
pub(super) struct Heal {
    node: String,
    /// Only this environment
    #[arg(long, value_name = "ENV")]
    environment: Option<String>,
}

impl Heal {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let request =
            HealNodeRequest { node: self.node.clone(), environment: self.environment.unwrap_or_default() };
        let reply = client.heal_node(request).await?.into_inner();
        reach.output.print(&reply, |reply| {
            let mut out = String::new();
            for healed in &reply.environments {
                if !healed.error.is_empty() {
                    out.push_str(&format!("{}: could not heal: {}\n", healed.environment, healed.error));
                    continue;
                }
                let (files, mended) = (healed.checked_files, healed.mended.len());
                out.push_str(&format!("{}: {files} files checked, {mended} mended\n", healed.environment));
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
