//! `bunraku status`: one screen.

use bunraku_proto::v1::{NodeInfo, StatusReply, StatusRequest};
use clap::Args;

use super::{
    Failure, Reach, client,
    environments::environment_table,
    lb::compiler_line,
    output::{ago, alike, hinted, or_dash, span, table},
    rollout,
};

/// A table of more rows counts what is alike.
pub(super) const ROWS: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Name every compiler, also where many are alike
    #[arg(long)]
    wide: bool,
}

impl Status {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let status = client::connect(reach).await?.status(StatusRequest {}).await?.into_inner();
        reach.output.print(&status, |status| screen(status, self.wide))
    }
}

#[cfg(test)]
pub(super) fn text(status: &StatusReply) -> String {
    screen(status, false)
}

pub(super) fn screen(status: &StatusReply, wide: bool) -> String {
    let mut out = format!(
        "controller  {} (bunraku {}, fleet {}, term {}, up {})\n            {}\n\n",
        status.controller,
        status.version,
        status.fleet,
        status.term,
        span(status.uptime_s),
        hinted("            ", &status.standing).trim_end()
    );
    let rows: usize = status.environments.iter().map(|environment| environment.nodes.len().max(1)).sum();
    let (count_nodes, count_serving) = (!wide && status.nodes.len() > ROWS, !wide && rows > ROWS);
    out.push_str(&node_table(&status.nodes, count_nodes));
    out.push('\n');
    out.push_str(&environment_table(&status.environments, count_serving));
    if count_nodes || count_serving {
        out.push_str("what is alike is counted; by name: bunraku status --wide\n");
    }
    if !status.out_of_service.is_empty() {
        out.push_str("\nat the balancers\n");
        status.out_of_service.iter().for_each(|compiler| out.push_str(&compiler_line(compiler)));
    }
    if !(status.active.is_empty() && status.rollouts.is_empty()) {
        out.push_str("\ngoing on\n");
        status.rollouts.iter().for_each(|rollout| out.push_str(&rollout::status_lines(rollout)));
        for deploy in &status.active {
            out.push_str(&format!("  deploy {} of {}: {}\n", deploy.id, deploy.environment, deploy.phase));
            out.push_str(&format!("    waits {}\n", deploy.waiting));
        }
    }
    if !status.alarms.is_empty() {
        out.push_str("\nalarms\n");
        for alarm in &status.alarms {
            out.push_str(&format!("  ! {}", hinted("    ", alarm)));
        }
    }
    out
}

/// `running`, `starting`, `down`, …; why is shown by `nodes show`. A node that is away cannot tell.
fn puppetserver(node: &NodeInfo) -> &str {
    let word = node.puppetserver.split(':').next().unwrap_or_default();
    if node.connected || word.is_empty() { or_dash(word) } else { "unknown" }
}

/// With `counted`, nodes that are alike share a row.
pub(super) fn node_table(nodes: &[NodeInfo], counted: bool) -> String {
    let like = |node: &NodeInfo| {
        (node.roles.clone(), node.connected, puppetserver(node).to_owned(), node.standing.clone())
    };
    let groups = if counted { alike(nodes, like) } else { nodes.iter().map(|node| vec![node]).collect() };
    table(
        &["NODE", "ROLES", "CONNECTED", "SINCE", "PUPPET SERVER", "STANDING"],
        groups.iter().map(|group| {
            let node = group[0];
            let (name, since) = match group.len() {
                1 => (node.name.clone(), ago(node.since_ms)),
                many => (format!("{many} nodes"), "-".to_owned()),
            };
            vec![
                name,
                node.roles.join(","),
                if node.connected { "yes" } else { "no" }.to_owned(),
                since,
                puppetserver(node).to_owned(),
                node.standing.clone(),
            ]
        }),
        "no nodes yet\nhint: bunraku token create NODE --role compiler",
    )
}
