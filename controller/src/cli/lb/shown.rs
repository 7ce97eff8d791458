//! `bunraku lb status`: one table, and below it everything that is not as it should be.

use bunraku_proto::v1::{
    BalanceStatusReply, BalancedBackend, BalancedServer, BalancerInfo, BalancerStatusReply, CompilerBalance,
};

use super::super::output::{ago, hinted, or_dash, since, span, table};
use crate::clock::wall_ms;

pub(crate) fn status_text(reply: &BalanceStatusReply) -> String {
    if reply.balancers.is_empty() {
        return "no balancers yet\nhint: bunraku token create NODE --role load-balancer\n".to_owned();
    }
    let rows = reply.balancers.iter().flat_map(rows);
    let heads =
        ["BALANCER", "SERVER", "COMPILER", "ADMIN", "HEALTH", "SESSIONS", "WANTED", "OWNER", "REASON"];
    let mut out = table(&heads, rows, "no balancer has said yet what it carries");
    for balancer in &reply.balancers {
        out.push_str(&remarks(balancer));
    }
    let open: Vec<_> = reply.compilers.iter().filter(|c| c.wanted == "drained" || !is_well(c)).collect();
    if !open.is_empty() {
        out.push_str("\ncompilers\n");
        open.iter().for_each(|compiler| out.push_str(&compiler_line(compiler)));
    }
    out
}

fn is_well(compiler: &CompilerBalance) -> bool {
    matches!(compiler.state.as_str(), "in service" | "not carried") && compiler.undone.is_empty()
}

fn said(balancer: &BalancerInfo) -> impl Iterator<Item = &BalancerStatusReply> {
    balancer.status.iter()
}

fn rows(balancer: &BalancerInfo) -> impl Iterator<Item = Vec<String>> {
    said(balancer).flat_map(|status| &status.servers).map(|server| {
        vec![
            balancer.balancer.clone(),
            format!("{}/{}", server.backend, server.server),
            server.compiler.clone(),
            or_dash(&server.admin).to_owned(),
            or_dash(&server.health).to_owned(),
            sessions(server),
            or_dash(&server.wanted).to_owned(),
            or_dash(&server.owner).to_owned(),
            reason(server),
        ]
    })
}

/// What a balancer cannot count may be more.
fn sessions(server: &BalancedServer) -> String {
    if server.sessions_known { server.sessions.to_string() } else { format!("{} or more", server.sessions) }
}

fn reason(server: &BalancedServer) -> String {
    match (server.foreign, server.reason.as_str()) {
        (true, _) => "out, and not by bunraku".to_owned(),
        (false, reason) => or_dash(reason).to_owned(),
    }
}

fn remarks(balancer: &BalancerInfo) -> String {
    let name = &balancer.balancer;
    let mut out = String::new();
    if !balancer.trouble.is_empty() {
        let old = if balancer.seen_ms == 0 {
            String::new()
        } else {
            format!(" (what it shows here is of {})", ago(balancer.seen_ms))
        };
        out.push_str(&format!("! {name} cannot be relied on, so nothing is drained{old}: "));
        out.push_str(&hinted("  ", &balancer.trouble));
    }
    for status in said(balancer) {
        let few = |backend: &&BalancedBackend| backend.in_service <= backend.floor;
        for BalancedBackend { backend, floor, in_service } in status.backends.iter().filter(few) {
            out.push_str(&format!(
                "{backend} at {name}: {in_service} in service, and {floor} must stay: no drain is possible there\n"
            ));
        }
        for unmapped in &status.unmapped {
            out.push_str(&format!("{unmapped} at {name} is mapped to no compiler\n"));
        }
        if !status.unmapped.is_empty() {
            out.push_str(&format!(
                "hint: name them under [balancer.compilers] in /etc/bunraku/agent.toml on {name}\n"
            ));
        }
        for alarm in &status.alarms {
            out.push_str(&format!("! {name}: {}", hinted("  ", alarm)));
        }
    }
    out
}

/// One compiler that is not simply in service; also in `bunraku status`.
pub(crate) fn compiler_line(compiler: &CompilerBalance) -> String {
    let mut out = format!("  {}: {}", compiler.compiler, compiler.state);
    if compiler.wanted == "drained" {
        out.push_str(&format!(
            ", drained by {} for {}: {}",
            compiler.owner,
            since(compiler.since_ms),
            compiler.reason
        ));
    } else if !compiler.undone.is_empty() {
        out.push_str(&format!(", the drain was undone {}: {}", ago(compiler.since_ms), compiler.undone));
    }
    out.push('\n');
    if !compiler.waits_for.is_empty() {
        out.push_str(&format!("    waits for {}", compiler.waits_for));
        if compiler.waits_until_ms != 0 {
            let left = span(compiler.waits_until_ms.saturating_sub(wall_ms()).div_ceil(1000));
            out.push_str(&format!(", at most {left}; then {}", compiler.then));
        }
        out.push('\n');
    }
    for foreign in &compiler.foreign {
        out.push_str(&format!("    {foreign} was put out by somebody else, and stays so\n"));
    }
    out
}
