//! What a load balancer can be asked. Implemented for HAProxy, for nginx, and for a command of the operator's.

use std::{fmt, io};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::name::ServerName;

/// A load balancer. Every call ends within the driver's deadline, and each can be repeated.
pub trait Driver: fmt::Debug + Send + Sync {
    /// As in the configuration: `haproxy`, …
    fn kind(&self) -> &'static str;

    /// Every server that the balancer has, as it is now.
    fn observe(&self) -> BoxFuture<'_, Result<Observed, Trouble>>;

    /// Takes servers out for new sessions, or back in. What the balancer needs to remember that over its own restart is
    /// on disk when this answers.
    fn set<'a>(&'a self, servers: &'a [ServerName], wanted: Wanted) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Ends the sessions that servers still have, in all processes of the balancer. They are drained: no new one comes.
    fn close<'a>(&'a self, servers: &'a [ServerName]) -> BoxFuture<'a, Result<(), Trouble>> {
        let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let what = format!("{} cannot close the sessions of {}", self.kind(), names.join(", "));
        Box::pin(async move { Err(Trouble::CannotDo { what }) })
    }

    /// Ends sessions of these servers that are older than its configuration allows; asked every second. How many there
    /// were.
    fn end_old<'a>(&'a self, _servers: &'a [ServerName]) -> BoxFuture<'a, Result<usize, Trouble>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    /// Whether the balancer can give a server a part of its weight.
    fn weighs(&self) -> bool {
        false
    }

    /// Gives a server so many hundredths of the weight that its configuration gives it.
    fn weigh<'a>(&'a self, server: &'a ServerName, _percent: u32) -> BoxFuture<'a, Result<(), Trouble>> {
        let kind = self.kind();
        Box::pin(async move { Err(Trouble::CannotDo { what: format!("{kind} cannot weigh {server}") }) })
    }

    /// Gives a running balancer one more server, ready and checked.
    fn add<'a>(&'a self, new: &'a NewServer) -> BoxFuture<'a, Result<(), Trouble>> {
        let what = format!("{} cannot be given the server {} while it runs", self.kind(), new.name);
        Box::pin(async move { Err(Trouble::CannotDo { what }) })
    }

    /// Takes a server away from a running balancer; it must be out of service, without sessions.
    fn remove<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<(), Trouble>> {
        let what = format!("{} cannot lose the server {server} while it runs", self.kind());
        Box::pin(async move { Err(Trouble::CannotDo { what }) })
    }

    /// What the driver does by itself, such as health checks. For ever.
    fn background(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// What the driver itself still owes (a file that could not be written); asked every second.
    fn settle(&self) -> BoxFuture<'_, Result<(), Trouble>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// In or out, for new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    Ready,
    Drained,
}

impl Wanted {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drained => "drained",
        }
    }
}

/// What a balancer said of itself at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Changes when the balancer was reloaded or restarted, and may have forgotten what it was told.
    pub incarnation: String,
    pub servers: Vec<Server>,
}

impl Observed {
    pub fn server(&self, name: &ServerName) -> Option<&Server> {
        self.servers.iter().find(|server| server.name == *name)
    }
}

/// One server in one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub name: ServerName,
    pub admin: Admin,
    pub health: Health,
    /// In all processes of the balancer.
    pub sessions: u64,
    /// False: there may be more sessions than that.
    pub sessions_known: bool,
    pub weight: u32,
    /// Gets nothing while another server of its backend is up.
    pub backup: bool,
}

impl Server {
    /// Gets new sessions: ready and up.
    pub fn in_service(&self) -> bool {
        self.admin == Admin::Ready && self.health == Health::Up && !self.backup
    }
}

/// What an operator (or this agent) set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    Ready,
    Drain,
    Maint,
}

impl Admin {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// What health checks say. Without checks nothing is known, and what is not known is not up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Up,
    Down,
    Unknown,
}

impl Health {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

/// A server for a running balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewServer {
    pub name: ServerName,
    /// `HOST:PORT` and the driver's own parameters, as the configuration has them.
    pub address: String,
    pub parameters: Vec<String>,
}

/// Why a balancer did not do what it was asked. Nothing follows from it about what the balancer does now.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("could not {doing}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },
    #[error("{who} did not answer within {seconds} s")]
    Silent { who: String, seconds: u64 },
    #[error("{who} ended in the middle of an answer")]
    Half { who: String },
    #[error("{who} answered what is not understood: {why}")]
    Garbled { who: String, why: String },
    #[error("{who} refused `{command}`: {answer}")]
    Refused { who: String, command: String, answer: String },
    #[error("{what}")]
    CannotDo { what: String },
    #[error("{who} was told {wanted}, and still shows {shown}")]
    Unconfirmed { who: String, wanted: &'static str, shown: String },
}

impl Trouble {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
