//! `bunraku compiler remove`: out of service, its certificate ended if that is asked, forgotten.

use std::time::Duration;

use bunraku_common::hint;
use bunraku_proto::v1::{BalanceStatusRequest, CompilerBalance, DrainCompilerRequest, NodeRequest};
use clap::Args;
use tonic::Code;

use super::{
    GOES_ON,
    balancer::{BEING_REMOVED, of, status},
    told::{Step, Told},
};
use crate::cli::{
    Exit, Failure, Reach, client,
    output::{confirm, count, given},
    tokens::parse_span,
    waiting::{Look, Waiting, interruptible},
};

const DRAIN: &str = "drain";
const REVOKE: &str = "certificate";
const FORGET: &str = "forget";

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The compiler's node name
    #[arg(value_parser = given())]
    node: String,
    /// Also have Puppet's CA revoke its Puppet certificate: no host believes it any more
    #[arg(long)]
    revoke_certificate: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// How long to wait until nobody is served by it any more: 90s, 10m, 1h
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_span)]
    timeout: u64,
}

impl Remove {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut again = format!("bunraku compiler remove {}", self.node);
        if self.revoke_certificate {
            again.push_str(" --revoke-certificate");
        }
        let mut client = client::connect(reach).await?;
        let known = client.show_node(NodeRequest { node: self.node.clone() }).await?.into_inner();
        if !known.roles.iter().any(|role| role == "compiler") {
            let why = format!("{} is no compiler", self.node);
            return Err(Failure::new(Exit::Refused, why).hint(format!("bunraku nodes remove {}", self.node)));
        }
        let also = if self.revoke_certificate { " Its Puppet certificate is revoked." } else { "" };
        confirm(&format!("Take {} out of service and forget it?{also}", self.node), self.yes)?;
        let timeout = Duration::from_secs(self.timeout);
        let waiting = Waiting::new(client, &self.node, again.clone(), timeout, reach.output);
        interruptible(GOES_ON, &again, self.steps(waiting, reach)).await
    }

    async fn steps(&self, mut waiting: Waiting, reach: &Reach) -> Result<(), Failure> {
        let node = &self.node;
        let mut told = Told::new(reach.output, node, 3);
        let carried = left_at(&mut waiting, node).await?;
        told.step(drain(&mut waiting).await?)?;
        told.step(self.revoke(&mut waiting).await?)?;
        let forgotten = waiting.client.remove_node(NodeRequest { node: node.clone() }).await;
        forgotten.map_err(|status| Failure::of_change(status, &format!("bunraku nodes show {node}")))?;
        told.step(Step::done(FORGET, format!("the identity of {node} has ended")).with(carried))?;
        let text = format!(
            "{node} is no compiler any more\nhint: there: systemctl disable --now bunraku-agent puppetserver; to have it \
             back: bunraku compiler add {node}\n"
        );
        told.end("removed", &text)
    }

    async fn revoke(&self, waiting: &mut Waiting) -> Result<Step, Failure> {
        if !self.revoke_certificate {
            return Ok(Step::skipped(REVOKE, "it stays valid; --revoke-certificate would have ended it"));
        }
        let asked = waiting.client.revoke_puppet_certificate(NodeRequest { node: self.node.clone() }).await;
        let reply =
            asked.map_err(|status| Failure::of_change(status, "puppetserver ca list --all"))?.into_inner();
        Ok(match reply.unchanged {
            true => Step::already(REVOKE, "Puppet's CA has none of it"),
            false => Step::done(REVOKE, "revoked by Puppet's CA"),
        })
    }
}

/// What remains in balancers' configurations, where it does no harm: the drain stays.
async fn left_at(waiting: &mut Waiting, node: &str) -> Result<Vec<String>, Failure> {
    let reply = status(waiting).await?;
    let mut left = Vec::new();
    for balancer in &reply.balancers {
        let servers = balancer.status.iter().flat_map(|status| &status.servers);
        for server in servers.filter(|server| server.compiler == node) {
            left.push(format!(
                "left to be taken out by hand, and drained until then: {}/{} at {}, in its configuration and in \
                 [balancer.compilers] of agent.toml",
                server.backend, server.server, balancer.balancer
            ));
        }
    }
    Ok(left)
}

async fn drain(waiting: &mut Waiting) -> Result<Step, Failure> {
    let node = waiting.node.clone();
    let now = of(&status(waiting).await?, &node);
    match (now.state.as_str(), now.wanted.as_str()) {
        ("not carried", _) => return Ok(Step::already(DRAIN, "no balancer carries it")),
        ("drained", "drained") => return Ok(Step::already(DRAIN, format!("by {}", now.owner))),
        (_, "drained") => {}
        (state, _) => {
            let request = DrainCompilerRequest {
                compiler: node.clone(),
                reason: BEING_REMOVED.into(),
                min_available: 0,
            };
            match waiting.client.drain_compiler(request).await {
                Ok(_) => {}
                Err(status) if status.code() == Code::FailedPrecondition && state == "out of service" => {
                    let (why, _) = hint::split(status.message());
                    return Ok(Step::skipped(DRAIN, format!("it is not in service; {why}")));
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
    let drained = waiting.until(async |client, node| {
        let reply = client.balancer_status(BalanceStatusRequest {}).await?.into_inner();
        Ok(look(of(&reply, node)))
    });
    let drained = drained.await?;
    Ok(match drained.sessions_known {
        true => Step::done(DRAIN, "nobody is served by it"),
        false => {
            Step::done(DRAIN, "out of service everywhere; whether sessions are left, a balancer cannot tell")
        }
    })
}

fn look(now: CompilerBalance) -> Look<CompilerBalance> {
    match (now.wanted.as_str(), now.state.as_str()) {
        ("drained", "drained") => Look::Is(now),
        ("drained", _) => {
            let sessions = count(now.sessions, "session");
            Look::Not(format!("{} to be drained: {sessions}, {}", now.compiler, now.waits_for))
        }
        _ if now.undone.is_empty() => {
            let why = format!("somebody has enabled {} meanwhile", now.compiler);
            Look::Never(Failure::new(Exit::Failed, why).hint("bunraku events"))
        }
        _ => {
            let why = format!("the drain of {} was undone everywhere: {}", now.compiler, now.undone);
            Look::Never(Failure::new(Exit::Refused, why).hint("bunraku lb status"))
        }
    }
}
