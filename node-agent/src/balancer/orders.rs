//! `Balance` and `BalancerStatus`, between the wire and the keeper.

use std::{sync::Arc, time::Duration};

use bunraku_balancer::{BalanceError, Health, Keeper, ServerStatus, Wanted, Wish};
use bunraku_common::{Chain, Fence, NodeName};
use bunraku_proto::v1;
use tonic::Status;

use crate::node::Node;

/// Names and ids of rollouts; a sentence.
pub(crate) const LONGEST_OWNER: usize = 200;
const LONGEST_REASON: usize = 1000;
/// A server whose weight grows for an hour has grown.
const LONGEST_SLOW_START_S: u32 = 3600;

/// An order about one compiler, parsed at the door.
#[derive(Debug)]
pub(crate) struct Balance {
    compiler: NodeName,
    wanted: Wanted,
    owner: String,
    reason: String,
    min_available: u32,
    slow_start: Duration,
    close: bool,
}

impl Balance {
    pub(crate) fn parse(request: v1::BalanceRequest, subject: &str) -> Result<Self, Status> {
        let compiler: NodeName = request
            .compiler
            .parse()
            .map_err(|error: bunraku_common::names::BadName| Status::invalid_argument(error.to_string()))?;
        let balance = Self {
            compiler,
            wanted: if request.drained { Wanted::Drained } else { Wanted::Ready },
            owner: text(request.owner, "owner", LONGEST_OWNER)?,
            reason: text(request.reason, "reason", LONGEST_REASON)?,
            min_available: request.min_available,
            slow_start: Duration::from_secs(request.slow_start_s.min(LONGEST_SLOW_START_S).into()),
            close: request.close_sessions,
        };
        if balance.close && balance.wanted != Wanted::Drained {
            return Err(Status::invalid_argument("only sessions of a drained compiler are closed"));
        }
        if subject == balance.subject() {
            Ok(balance)
        } else {
            Err(Status::invalid_argument(format!("the order's subject is not `{}`", balance.subject())))
        }
    }

    /// What the order is about, as the node's memory knows it.
    pub(crate) fn subject(&self) -> String {
        format!("server {}", self.compiler)
    }

    /// Nothing is remembered of compilers that are none of this balancer's.
    pub(crate) fn is_mapped(&self, keeper: &Keeper) -> Result<(), Status> {
        if keeper.carries(&self.compiler) {
            Ok(())
        } else {
            Err(status_of(&BalanceError::Unmapped(self.compiler.clone())))
        }
    }

    pub(crate) async fn run(
        self,
        node: Arc<Node>,
        keeper: Arc<Keeper>,
        fence: Fence,
    ) -> Result<v1::BalanceReply, Status> {
        let subject = self.subject();
        let still = || node.memory().is_newest_about(&subject, fence);
        let compiler = self.compiler.clone();
        let wish = Wish {
            compiler: self.compiler,
            wanted: self.wanted,
            owner: self.owner,
            reason: self.reason,
            fence,
            min_available: self.min_available,
            slow_start: self.slow_start,
        };
        let done = keeper.balance(wish, still).await;
        let servers =
            done.inspect_err(|error| tracing::warn!(subject, reason = %Chain(error), "not balanced"));
        let servers = servers.map_err(|error| status_of(&error))?;
        let not_closed = match self.close {
            true => keeper.close(&compiler, still).await.map_err(|error| status_of(&error))?,
            false => String::new(),
        };
        Ok(v1::BalanceReply { servers: servers.into_iter().map(server).collect(), not_closed })
    }
}

/// What a person reads; it must not move the cursor of a terminal.
pub(crate) fn text(text: String, what: &str, longest: usize) -> Result<String, Status> {
    if text.len() <= longest && !text.contains(char::is_control) {
        Ok(text)
    } else {
        Err(Status::invalid_argument(format!(
            "the {what} is longer than {longest} bytes, or holds control characters"
        )))
    }
}

/// A balancer that does not answer is *unknown*; all else is a clear no.
fn status_of(error: &BalanceError) -> Status {
    let reason = Chain(error).to_string();
    match error {
        BalanceError::Unmapped(_) | BalanceError::Missing(_) | BalanceError::BelowFloor(_) => {
            Status::failed_precondition(reason)
        }
        BalanceError::Overtaken => Status::aborted(reason),
        BalanceError::Trouble(_) => Status::unavailable(reason),
        BalanceError::NotRemembered(_) => Status::internal(reason),
    }
}

pub(crate) fn no_balancer() -> Status {
    Status::failed_precondition(
        "this node's configuration names no balancer (hint: add a [balancer] table to agent.toml)",
    )
}

pub(crate) async fn status(keeper: &Keeper) -> v1::BalancerStatusReply {
    let status = keeper.status().await;
    let backend = |backend: bunraku_balancer::BackendStatus| v1::BalancedBackend {
        backend: backend.backend,
        floor: backend.floor,
        in_service: u32::try_from(backend.in_service).unwrap_or(u32::MAX),
    };
    v1::BalancerStatusReply {
        driver: status.driver.to_owned(),
        servers: status.servers.into_iter().map(server).collect(),
        unmapped: status.unmapped.iter().map(ToString::to_string).collect(),
        backends: status.backends.into_iter().map(backend).collect(),
        trouble: status.trouble.unwrap_or_default(),
        alarms: status.alarms,
    }
}

fn server(status: ServerStatus) -> v1::BalancedServer {
    let (admin, in_service) = (status.admin().to_owned(), status.in_service());
    let seen = status.seen.as_ref();
    let asked = status.asked.as_ref();
    v1::BalancedServer {
        compiler: status.compiler.to_string(),
        backend: status.name.backend().to_owned(),
        server: status.name.server().to_owned(),
        admin,
        health: seen.map_or(Health::Unknown, |seen| seen.health).as_str().to_owned(),
        sessions: seen.map_or(0, |seen| seen.sessions),
        sessions_known: seen.is_some_and(|seen| seen.sessions_known),
        weight: seen.map_or(0, |seen| seen.weight),
        in_service,
        foreign: status.foreign,
        wanted: asked.map(|asked| asked.wanted.as_str().to_owned()).unwrap_or_default(),
        owner: asked.map(|asked| asked.owner.clone()).unwrap_or_default(),
        reason: asked.map(|asked| asked.reason.clone()).unwrap_or_default(),
        generation: asked.map_or(0, |asked| asked.generation.0),
    }
}
