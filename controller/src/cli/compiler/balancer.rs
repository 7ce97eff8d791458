//! Step 5, and what comes before it: no agent is sent to a compiler that is not ready, and to one that is, all balancers do.

use bunraku_common::hint;
use bunraku_proto::v1::{
    BalanceStatusReply, BalanceStatusRequest, BalancerInfo, CompilerBalance, DrainCompilerRequest,
    EnableCompilerRequest, EnvironmentInfo, ListEnvironmentsRequest,
};
use tonic::Code;

use super::told::Step;
use crate::cli::{
    Exit, Failure,
    waiting::{Look, Waiting},
};

const STEP: &str = "balancer";
/// Whoever drained it for one of these meant this command, or the one that it undoes.
pub(super) const BEING_ADDED: &str = "it is being added";
pub(super) const BEING_REMOVED: &str = "it is being removed";

/// How it ends.
pub(super) struct End {
    pub(super) step: Step,
    pub(super) state: &'static str,
    pub(super) text: String,
    pub(super) exit: Option<Exit>,
}

/// A balancer that carries it already is told to leave it out until it is ready.
pub(super) async fn keep_out(waiting: &mut Waiting) -> Result<(), Failure> {
    let node = waiting.node.clone();
    let now = of(&status(waiting).await?, &node);
    if now.state == "not carried" || now.wanted == "drained" && !is_owned_by_wants(&now) {
        return Ok(());
    }
    if now.state == "in service" && serves_everything(waiting).await? {
        return Ok(());
    }
    let request =
        DrainCompilerRequest { compiler: node.clone(), reason: BEING_ADDED.to_owned(), min_available: 0 };
    match waiting.client.drain_compiler(request).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::FailedPrecondition => {
            let (why, then) = hint::split(status.message());
            let told = format!("{node} is carried by a balancer before it is ready, and {why}");
            let or = "or take it out of [balancer.compilers] of the balancer's agent.toml until it is ready";
            Err(Failure::new(Exit::Refused, told).hint(format!("{then}; {or}")))
        }
        Err(status) => Err(status.into()),
    }
}

/// For want of a revocation it comes back as soon as it has it, whatever else it lacks.
fn is_owned_by_wants(now: &CompilerBalance) -> bool {
    now.owner == "revocation"
}

async fn serves_everything(waiting: &mut Waiting) -> Result<bool, Failure> {
    let all = waiting.client.list_environments(ListEnvironmentsRequest {}).await?.into_inner().environments;
    let proven = |environment: &EnvironmentInfo| {
        let mut on_node = environment.nodes.iter().filter(|on_node| on_node.node == waiting.node);
        environment.committed.is_empty() || on_node.any(|on_node| on_node.proven)
    };
    Ok(all.iter().all(proven))
}

pub(super) async fn into_service(waiting: &mut Waiting, again: &str) -> Result<End, Failure> {
    let node = waiting.node.clone();
    let known = status(waiting).await?;
    if known.balancers.is_empty() {
        let text =
            format!("{node} is a compiler; no balancer is enrolled here, so yours must be told by hand\n");
        let step = Step::skipped(STEP, "no balancer is enrolled");
        return Ok(End { step, state: "ready", text, exit: None });
    }
    let now = of(&known, &node);
    if now.state == "not carried" {
        let step = Step::skipped(STEP, "no balancer carries it yet").with(by_hand(&node, &known.balancers));
        let text =
            format!("{node} is ready, and gets no agents before a balancer carries it\nnext: {again}\n");
        return Ok(End { step, state: "not carried", text, exit: Some(Exit::Refused) });
    }
    let ours = [BEING_ADDED, BEING_REMOVED].contains(&now.reason.as_str()) || is_owned_by_wants(&now);
    if now.wanted == "drained" && !ours {
        let why = format!("{node} is ready, and is kept out by {}: {}", now.owner, now.reason);
        return Err(Failure::new(Exit::Refused, why).hint(format!("bunraku lb enable {node}")));
    }
    let was = now.state == "in service";
    if !was {
        waiting.client.enable_compiler(EnableCompilerRequest { compiler: node.clone() }).await?;
        waiting
            .until(async |client, node| {
                let reply = client.balancer_status(BalanceStatusRequest {}).await?.into_inner();
                Ok(look(&of(&reply, node)))
            })
            .await?;
    }
    let note = at(&known, &node);
    let step = if was { Step::already(STEP, note) } else { Step::done(STEP, note) };
    Ok(End { step, state: "in service", text: format!("{node} is in service\n"), exit: None })
}

fn look(now: &CompilerBalance) -> Look<()> {
    let never = |why: String, hint: &str| Look::Never(Failure::new(Exit::Refused, why).hint(hint));
    let node = &now.compiler;
    match (now.wanted.as_str(), now.state.as_str()) {
        ("drained", _) => {
            never(format!("{node} is drained again by {}: {}", now.owner, now.reason), "bunraku lb status")
        }
        (_, "in service") => Look::Is(()),
        (_, "out of service") if now.waits_for.is_empty() => never(
            format!("somebody else has put out of service: {}", now.foreign.join(", ")),
            "bunraku enables only what it has drained: enable it at that balancer itself",
        ),
        (_, state) if now.waits_for.is_empty() => {
            Look::Not(format!("{node} to come into service: it is {state}"))
        }
        _ => Look::Not(format!("{node} to come into service: {}", now.waits_for)),
    }
}

pub(super) async fn status(waiting: &mut Waiting) -> Result<BalanceStatusReply, Failure> {
    Ok(waiting.client.balancer_status(BalanceStatusRequest {}).await?.into_inner())
}

pub(super) fn of(reply: &BalanceStatusReply, node: &str) -> CompilerBalance {
    let found = reply.compilers.iter().find(|known| known.compiler == node).cloned();
    let state = "not carried".to_owned();
    found.unwrap_or_else(|| CompilerBalance {
        compiler: node.to_owned(),
        state,
        ..CompilerBalance::default()
    })
}

/// Where it is carried.
fn at(reply: &BalanceStatusReply, node: &str) -> String {
    let mut places = Vec::new();
    for balancer in &reply.balancers {
        let servers = balancer.status.iter().flat_map(|status| &status.servers);
        let own = servers.filter(|server| server.compiler == node);
        places.extend(
            own.map(|server| format!("{}/{} at {}", server.backend, server.server, balancer.balancer)),
        );
    }
    places.join(", ")
}

/// What somebody has to write on each balancer, as far as that can be known here.
pub(crate) fn by_hand(node: &str, balancers: &[BalancerInfo]) -> Vec<String> {
    let mut out = Vec::new();
    for balancer in balancers {
        let known = balancer.status.clone().unwrap_or_default();
        let mut backends: Vec<&str> = known.servers.iter().map(|server| server.backend.as_str()).collect();
        backends.sort_unstable();
        backends.dedup();
        if backends.is_empty() {
            backends.push("BACKEND");
        }
        out.push(format!("on {}:", balancer.balancer));
        for backend in &backends {
            match known.driver.as_str() {
                "haproxy" => {
                    out.push(format!(
                        "  haproxy.cfg, in `backend {backend}`, as its other servers are written:"
                    ));
                    out.push(format!("    server {node} {node}:8140 check weight 100"));
                }
                "nginx" => {
                    out.push(format!(
                        "  nginx.conf, in the group {backend}, as its other servers are written:"
                    ));
                    out.push(format!("    server {node}:8140;"));
                }
                _ => out.push(format!("  the balancer's own configuration: a server {node} in {backend}")),
            }
        }
        let servers: Vec<String> = backends.iter().map(|backend| format!("\"{backend}/{node}\"")).collect();
        out.push("  /etc/bunraku/agent.toml, below [balancer.compilers]:".to_owned());
        out.push(format!("    \"{node}\" = [{}]", servers.join(", ")));
        let reload = match known.driver.as_str() {
            driver @ ("haproxy" | "nginx") => format!("systemctl reload {driver} && "),
            _ => String::new(),
        };
        out.push(format!("  then: {reload}systemctl restart bunraku-agent"));
    }
    out
}
