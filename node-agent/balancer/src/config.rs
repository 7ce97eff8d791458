//! The section `[balancer]` of the node agent's configuration: which balancer, and which of its servers are compilers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
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
    #[serde(default)]
    pub nginx: NginxConfig,
    #[serde(default)]
    pub hook: HookConfig,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    Haproxy,
    Nginx,
    Hook,
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
    /// Sessions of compilers that are open for longer, in seconds, are ended: one from before a revocation of its Puppet
    /// certificate would be served for as long as its holder likes. 0: none is.
    #[serde(skip_serializing_if = "is_zero")]
    pub longest_session_s: u64,
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
            longest_session_s: 0,
            add: BTreeMap::new(),
        }
    }
}

/// nginx with its `stream` module on this host.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NginxConfig {
    /// The file that this agent writes; `include` it in nginx's `stream` block.
    pub include: PathBuf,
    /// A loopback address on which nginx says which of these files it has loaded.
    pub probe: SocketAddr,
    pub program: PathBuf,
    /// Arguments before `-t` and `-s reload`, such as `["-c", "/srv/nginx.conf"]`.
    pub arguments: Vec<String>,
    /// How nginx chooses: `least_conn`, `random two least_conn`, or empty for round robin.
    pub balance: String,
    /// Parameters of every `server` line.
    pub parameters: String,
    /// Puppet's CA bundle, by which health checks know the compilers.
    pub ca: PathBuf,
    #[serde(deserialize_with = "positive")]
    pub check_every_s: u64,
    /// Failed checks in a row until a server is down.
    #[serde(deserialize_with = "positive")]
    pub fall: u32,
    /// Good checks in a row until it is up again.
    #[serde(deserialize_with = "positive")]
    pub rise: u32,
    /// Address and port of every mapped server.
    pub servers: BTreeMap<ServerName, SocketAddr>,
}

impl Default for NginxConfig {
    fn default() -> Self {
        Self {
            include: "/etc/nginx/bunraku-stream.conf".into(),
            probe: SocketAddr::from(([127, 0, 0, 1], 8141)),
            program: "nginx".into(),
            arguments: Vec::new(),
            balance: "least_conn".into(),
            parameters: "max_fails=2 fail_timeout=10s".into(),
            ca: "/etc/puppetlabs/puppet/ssl/certs/ca.pem".into(),
            check_every_s: 2,
            fall: 3,
            rise: 2,
            servers: BTreeMap::new(),
        }
    }
}

/// A balancer that a command of the operator's knows.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HookConfig {
    /// Program and arguments; no shell is involved.
    pub command: Vec<String>,
    /// Seconds that one call may take. Without the key 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
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
    #[error("[balancer.nginx.servers] lacks {0}\nhint: \"{0}\" = \"ADDRESS:8140\"")]
    NoAddress(ServerName),
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
        match self.driver {
            DriverKind::Haproxy => self.check_haproxy(&owners),
            DriverKind::Nginx => self.check_nginx(&owners),
            DriverKind::Hook if self.hook.command.is_empty() => Err(Misconfigured::Missing(
                "[balancer.hook] names no command\nhint: command = [\"/usr/local/sbin/balancer\"]",
            )),
            DriverKind::Hook => Ok(()),
        }
    }

    fn check_haproxy(&self, owners: &BTreeMap<&ServerName, &NodeName>) -> Result<(), Misconfigured> {
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

    fn check_nginx(&self, owners: &BTreeMap<&ServerName, &NodeName>) -> Result<(), Misconfigured> {
        let servers = &self.nginx.servers;
        if let Some(server) = servers.keys().find(|server| !owners.contains_key(server)) {
            return Err(Misconfigured::Unmapped { what: "[balancer.nginx.servers]", server: server.clone() });
        }
        if let Some(server) = owners.keys().find(|server| !servers.contains_key(server)) {
            return Err(Misconfigured::NoAddress((*server).clone()));
        }
        if !self.nginx.probe.ip().is_loopback() {
            return Err(Misconfigured::Missing(
                "[balancer.nginx] probe is no loopback address\nhint: probe = \"127.0.0.1:8141\"",
            ));
        }
        if is_words(&self.nginx.balance) && is_words(&self.nginx.parameters) {
            Ok(())
        } else {
            Err(Misconfigured::Missing(
                "[balancer.nginx] balance or parameters hold what could end a directive: words are expected",
            ))
        }
    }

    /// Every server that is mapped to a compiler.
    pub(crate) fn mapped(&self) -> Vec<ServerName> {
        self.compilers.values().flatten().cloned().collect()
    }

    /// Servers that the balancer is given while it runs.
    pub(crate) fn declared(&self) -> Vec<NewServer> {
        let haproxy = (self.driver == DriverKind::Haproxy).then_some(&self.haproxy.add);
        let declared = haproxy.into_iter().flatten().map(|(name, line)| {
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

/// Words that may stand in nginx's configuration: nothing that ends a directive or names a variable.
fn is_words(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'=' | b' '))
}
