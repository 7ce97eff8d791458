//! The section `[balancer]` of the node agent's configuration: which balancer, and which of its servers are compilers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use bunraku_common::{NodeName, config::positive};
use serde::{Deserialize, Serialize};

use crate::{driver::NewServer, name::ServerName};

/// What this host grants as a load balancer.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BalancerConfig {
    pub driver: DriverKind,
    /// Servers that must stay in service in each backend, whoever asks.
    #[serde(default = "one", deserialize_with = "positive")]
    pub floor: u32,
    /// Backends with a floor of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floors: BTreeMap<String, u32>,
    /// Each compiler's servers, in every backend that carries it. Nothing else is ever touched.
    pub compilers: BTreeMap<NodeName, Vec<ServerName>>,
    #[serde(default)]
    pub haproxy: HaproxyConfig,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    Haproxy,
}

/// HAProxy on this host.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HaproxyConfig {
    /// The runtime API: `stats socket … level admin`.
    pub socket: PathBuf,
    /// The master's socket (`haproxy -S`): only it shows sessions of workers from before a reload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_socket: Option<PathBuf>,
    /// HAProxy's `server-state-file`, rewritten after every change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_file: Option<PathBuf>,
    /// Servers that HAProxy is given while it runs, where its own configuration lacks them: `ADDRESS:PORT`, then
    /// parameters as in a `server` line.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<ServerName, String>,
}

impl Default for HaproxyConfig {
    fn default() -> Self {
        Self {
            socket: "/run/haproxy/admin.sock".into(),
            master_socket: None,
            state_file: None,
            add: BTreeMap::new(),
        }
    }
}

/// What cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misconfigured {
    #[error(
        "[balancer.compilers] maps no compiler\nhint: add a line such as \"c1.example.com\" = [\"puppet/c1\"]"
    )]
    Nothing,
    #[error("[balancer.compilers] gives {0} no server\nhint: name its servers, or remove the line")]
    NoServer(NodeName),
    #[error(
        "[balancer.compilers] maps {server} to {first} and to {second}\nhint: a server is one compiler's"
    )]
    Twice { server: ServerName, first: NodeName, second: NodeName },
    #[error("[balancer.floors] names {0}, and no compiler is mapped there\nhint: correct the backend's name")]
    UnknownBackend(String),
    #[error(
        "{what} names {server}, and [balancer.compilers] maps it to nobody\nhint: map it to its compiler"
    )]
    Unmapped { what: &'static str, server: ServerName },
    #[error("{what} of {server} is `{shown}`: {rule}")]
    BadValue { what: &'static str, server: ServerName, shown: String, rule: &'static str },
    #[error("{0}")]
    Missing(&'static str),
}

impl BalancerConfig {
    /// What the file format cannot say: names that contradict each other.
    pub fn check(&self) -> Result<(), Misconfigured> {
        if self.compilers.is_empty() {
            return Err(Misconfigured::Nothing);
        }
        let mut owners: BTreeMap<&ServerName, &NodeName> = BTreeMap::new();
        for (compiler, servers) in &self.compilers {
            if servers.is_empty() {
                return Err(Misconfigured::NoServer(compiler.clone()));
            }
            for server in servers {
                if let Some(first) = owners.insert(server, compiler) {
                    let (server, first, second) = (server.clone(), first.clone(), compiler.clone());
                    return Err(Misconfigured::Twice { server, first, second });
                }
            }
        }
        let backends: BTreeSet<&str> = owners.keys().map(|server| server.backend()).collect();
        if let Some(unknown) = self.floors.keys().find(|name| !backends.contains(name.as_str())) {
            return Err(Misconfigured::UnknownBackend(unknown.clone()));
        }
        for (server, line) in &self.haproxy.add {
            if !owners.contains_key(server) {
                return Err(Misconfigured::Unmapped {
                    what: "[balancer.haproxy.add]",
                    server: server.clone(),
                });
            }
            if !is_server_line(line) {
                return Err(Misconfigured::BadValue {
                    what: "[balancer.haproxy.add]",
                    server: server.clone(),
                    shown: line.escape_debug().to_string(),
                    rule: "an address and the parameters of a `server` line are expected, without `;`, quotes or line breaks",
                });
            }
        }
        Ok(())
    }

    /// Every server that is mapped to a compiler.
    pub(crate) fn mapped(&self) -> Vec<ServerName> {
        self.compilers.values().flatten().cloned().collect()
    }

    /// Servers that the balancer is given while it runs.
    pub(crate) fn declared(&self) -> Vec<NewServer> {
        let declared = self.haproxy.add.iter().map(|(name, line)| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let address = words.next().unwrap_or_default();
            NewServer { name: name.clone(), address, parameters: words.collect() }
        });
        declared.collect()
    }

    pub(crate) fn floor(&self, backend: &str) -> u32 {
        self.floors.get(backend).copied().unwrap_or(self.floor).max(1)
    }
}

/// Words that end up in one command on HAProxy's socket.
fn is_server_line(line: &str) -> bool {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let word = |word: &str| {
        word.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(b, b'.' | b'_' | b'-' | b':' | b'/' | b'[' | b']' | b'%' | b',')
        })
    };
    words.next().is_some_and(|address| word(address) && address.contains(':')) && words.all(word)
}
