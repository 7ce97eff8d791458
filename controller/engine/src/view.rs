//! What balancers and compilers showed when they were last asked: observations, an argument like the rest of the
//! [`Presence`](crate::Presence), never journalled. Here it is only told what they say together.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Generation, NodeName};

use crate::Millis;

/// What was seen longer ago proves nothing. Balancers are asked every few seconds.
pub const FRESH: Millis = 10_000;

/// Everything that one balancer carries, as it was when it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BalancerView {
    /// When the question was sent: what the answer says was true then or later.
    pub at: Millis,
    pub servers: Vec<ServerSeen>,
    /// By backend: compilers that must stay in service, by the balancer's own configuration.
    pub floors: BTreeMap<String, u32>,
    /// Why the balancer's program could not be asked; empty when it could. The servers' states mean nothing then.
    pub trouble: String,
}

/// One server that a balancer's configuration maps to a compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSeen {
    pub compiler: NodeName,
    pub backend: String,
    pub server: String,
    /// Ready and up.
    pub in_service: bool,
    /// In all workers, old ones included. `None`: only the compiler's own count can tell.
    pub sessions: Option<u64>,
    /// Out of service, and not by us: never enabled by us.
    pub foreign: bool,
    /// What the balancer was last told to make of it. `None`: nothing yet.
    pub wish: Option<Wish>,
}

/// An order that a balancer has remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub drained: bool,
    pub owner: String,
    pub generation: Generation,
}

/// How busy a compiler was when it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdleView {
    /// When the question was sent.
    pub at: Millis,
    /// Established connections on Puppet Server's port, except the node's own.
    pub connections: u32,
    pub jrubies: u32,
    pub jrubies_free: u32,
    /// Wall clock of the node, Unix seconds, when a run of its own Puppet agent that still goes on began.
    pub run_since: Option<u64>,
}

/// What a compiler's node agent has counted of Puppet Server's answers since it began to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthView {
    /// When the question was sent.
    pub at: Millis,
    /// Of two looks with the same number the differences mean something.
    pub epoch: u64,
    pub counted: Health,
}

/// Counts of requests for catalogs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub catalogs: u64,
    /// All of them together, in milliseconds.
    pub catalog_ms: u64,
    /// Answered with 4xx or 5xx.
    pub failed: u64,
    /// Requests of any kind that got no JRuby in time.
    pub borrow_timeouts: u64,
}

impl Health {
    pub fn add(&mut self, other: &Self) {
        self.catalogs = self.catalogs.saturating_add(other.catalogs);
        self.catalog_ms = self.catalog_ms.saturating_add(other.catalog_ms);
        self.failed = self.failed.saturating_add(other.failed);
        self.borrow_timeouts = self.borrow_timeouts.saturating_add(other.borrow_timeouts);
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            catalogs: self.catalogs.saturating_sub(earlier.catalogs),
            catalog_ms: self.catalog_ms.saturating_sub(earlier.catalog_ms),
            failed: self.failed.saturating_sub(earlier.failed),
            borrow_timeouts: self.borrow_timeouts.saturating_sub(earlier.borrow_timeouts),
        }
    }
}

impl HealthView {
    /// What came between; nothing, where nobody knows.
    pub(crate) fn since(&self, earlier: &Self) -> Health {
        if self.epoch == earlier.epoch { self.counted.since(&earlier.counted) } else { Health::default() }
    }
}

impl IdleView {
    /// Whether nobody is served.
    pub fn is_empty(&self) -> bool {
        self.connections == 0 && self.jrubies_free >= self.jrubies
    }
}

impl BalancerView {
    /// The servers of one compiler.
    pub fn servers_of<'a>(&'a self, compiler: &'a NodeName) -> impl Iterator<Item = &'a ServerSeen> {
        self.servers.iter().filter(move |server| server.compiler == *compiler)
    }

    /// Every compiler that this backend carries.
    pub fn compilers_of<'a>(&'a self, backend: &'a str) -> BTreeSet<&'a NodeName> {
        let servers = self.servers.iter().filter(|server| server.backend == backend);
        servers.map(|server| &server.compiler).collect()
    }
}
