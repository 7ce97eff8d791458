//! What the keeper says of every mapped server, backend and alarm.

use bunraku_common::{Generation, NodeName};

use super::{
    floor::in_service,
    wishes::{Kept, Part},
};
use crate::{
    config::BalancerConfig,
    driver::{Admin, Health, Observed, Server, Wanted},
    name::ServerName,
};

/// All that is known of the balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub driver: &'static str,
    pub servers: Vec<ServerStatus>,
    /// Servers that no compiler is mapped to.
    pub unmapped: Vec<ServerName>,
    pub backends: Vec<BackendStatus>,
    /// Why the balancer could not be asked.
    pub trouble: Option<String>,
    /// What is not as it should be, and stays so until somebody looks.
    pub alarms: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendStatus {
    pub backend: String,
    pub floor: u32,
    pub in_service: usize,
}

/// One mapped server, as observed, and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    pub compiler: NodeName,
    pub name: ServerName,
    /// `None`: the balancer has no such server, or could not be asked.
    pub seen: Option<Server>,
    /// Out of service, and not by us: never enabled by us.
    pub foreign: bool,
    /// `None`: nobody ever asked.
    pub asked: Option<Asked>,
}

/// What was asked for a compiler last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub wanted: Wanted,
    pub owner: String,
    pub reason: String,
    pub generation: Generation,
}

impl ServerStatus {
    pub fn admin(&self) -> &'static str {
        self.seen.as_ref().map_or("missing", |server| server.admin.as_str())
    }

    pub fn health(&self) -> Health {
        self.seen.as_ref().map_or(Health::Unknown, |server| server.health)
    }

    pub fn in_service(&self) -> bool {
        self.seen.as_ref().is_some_and(Server::in_service)
    }
}

pub(super) fn servers(
    compiler: &NodeName,
    names: &[ServerName],
    observed: &Observed,
    kept: &Kept,
) -> Vec<ServerStatus> {
    let record = kept.compilers.get(compiler);
    let status = |name: &ServerName| {
        let seen = observed.server(name).cloned();
        let owed = record.is_some_and(|record| record.ours.get(name) == Some(&Part::Out));
        ServerStatus {
            compiler: compiler.clone(),
            name: name.clone(),
            foreign: !owed && seen.as_ref().is_some_and(|server| server.admin != Admin::Ready),
            seen,
            asked: record.map(|record| Asked {
                wanted: record.wanted,
                owner: record.owner.clone(),
                reason: record.reason.clone(),
                generation: record.fence.generation,
            }),
        }
    };
    names.iter().map(status).collect()
}

pub(super) fn backends(config: &BalancerConfig, observed: &Observed) -> Vec<BackendStatus> {
    let mapped = config.mapped();
    let serving = in_service(observed, &mapped);
    let mut names: Vec<&str> = mapped.iter().map(ServerName::backend).collect();
    names.sort_unstable();
    names.dedup();
    let status = |name: &str| BackendStatus {
        backend: name.to_owned(),
        floor: config.floor(name),
        in_service: serving.get(name).map_or(0, Vec::len),
    };
    names.into_iter().map(status).collect()
}

/// Only those of backends that carry compilers: others are none of Bunraku's business.
pub(super) fn unmapped(config: &BalancerConfig, observed: &Observed) -> Vec<ServerName> {
    let mapped = config.mapped();
    let names = observed.servers.iter().map(|server| &server.name);
    let ours = |name: &&ServerName| mapped.iter().any(|known| known.backend() == name.backend());
    names.filter(ours).filter(|name| !mapped.contains(name)).cloned().collect()
}
