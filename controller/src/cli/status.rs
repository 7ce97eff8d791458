//! `bunraku status`: one screen.

use bunraku_proto::v1::{NodeInfo, StatusReply, StatusRequest};

use super::{
    Failure, Reach, client,
    environments::environment_table,
    lb::compiler_line,
    output::{ago, hinted, or_dash, span, table},
    rollout,
};

pub(super) async fn run(reach: &Reach) -> Result<(), Failure> {
    let status = client::connect(reach).await?.status(StatusRequest {}).await?.into_inner();
    reach.output.print(&status, text)
}

pub(super) fn text(status: &StatusReply) -> String {
    let mut out = format!(
        "controller  {} (bunraku {}, fleet {}, term {}, up {})\n            {}\n\n",
        status.controller,
        status.version,
        status.fleet,
        status.term,
        span(status.uptime_s),
        hinted("            ", &status.standing).trim_end()
    );
    out.push_str(&node_table(&status.nodes));
    out.push('\n');
    out.push_str(&environment_table(&status.environments));
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

pub(super) fn node_table(nodes: &[NodeInfo]) -> String {
    table(
        &["NODE", "ROLES", "CONNECTED", "SINCE", "PUPPET SERVER", "STANDING"],
        nodes.iter().map(|node| {
            vec![
                node.name.clone(),
                node.roles.join(","),
                if node.connected { "yes" } else { "no" }.to_owned(),
                ago(node.since_ms),
                puppetserver(node).to_owned(),
                node.standing.clone(),
            ]
        }),
        "no nodes yet\nhint: bunraku token create NODE --role compiler",
    )
}
