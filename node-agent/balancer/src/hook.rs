//! A balancer that this agent does not know: a command of the operator's, asked in JSON. docs/load-balancers.md has the
//! contract.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bunraku_common::NodeName;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{
    command,
    config::BalancerConfig,
    driver::{Admin, Driver, Health, Observed, Server, Trouble, Wanted},
    name::ServerName,
};

const DEADLINE_S: u64 = 10;

/// The operator's command.
#[derive(Debug)]
pub struct Hook {
    program: PathBuf,
    arguments: Vec<String>,
    deadline: Duration,
    compilers: BTreeMap<NodeName, Vec<ServerName>>,
}

/// What the command reads, as one JSON object.
#[derive(Debug, Serialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Request<'a> {
    Status,
    Drain { compiler: &'a NodeName, servers: Vec<&'a ServerName> },
    Ready { compiler: &'a NodeName, servers: Vec<&'a ServerName> },
    Close { compiler: &'a NodeName, servers: Vec<&'a ServerName> },
}

/// What it answers to `status`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    #[serde(default)]
    incarnation: String,
    servers: Vec<Told>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    backend: String,
    server: String,
    admin: Admin,
    health: Health,
    /// Left out: the balancer does not know.
    sessions: Option<u64>,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    backup: bool,
}

fn one() -> u32 {
    1
}

impl Hook {
    /// The configuration was checked.
    pub(crate) fn new(config: &BalancerConfig) -> Self {
        let mut words = config.hook.command.iter().cloned();
        Self {
            program: words.next().unwrap_or_default().into(),
            arguments: words.collect(),
            deadline: Duration::from_secs(config.hook.deadline_s.unwrap_or(DEADLINE_S).max(1)),
            compilers: config.compilers.clone(),
        }
    }

    async fn ask(&self, request: &Request<'_>) -> Result<String, Trouble> {
        let input = serde_json::to_string(request).map_err(|error| self.garbled(error.to_string()))?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let said = command::run(&self.program, &arguments, input.as_bytes(), self.deadline).await?;
        if said.success {
            Ok(said.out)
        } else {
            Err(Trouble::Refused { who: self.who(), command: input, answer: said.complaint })
        }
    }

    /// One request for each compiler that has one of the servers.
    async fn order<'a>(
        &'a self,
        servers: &[ServerName],
        request: impl Fn(&'a NodeName, Vec<&'a ServerName>) -> Request<'a>,
    ) -> Result<(), Trouble> {
        for (compiler, names) in &self.compilers {
            let servers: Vec<&ServerName> = names.iter().filter(|name| servers.contains(name)).collect();
            if !servers.is_empty() {
                self.ask(&request(compiler, servers)).await?;
            }
        }
        Ok(())
    }

    fn who(&self) -> String {
        self.program.display().to_string()
    }

    fn garbled(&self, why: String) -> Trouble {
        Trouble::Garbled { who: self.who(), why }
    }

    async fn observed(&self) -> Result<Observed, Trouble> {
        let said = self.ask(&Request::Status).await?;
        let reply: Reply = serde_json::from_str(&said).map_err(|error| self.garbled(error.to_string()))?;
        let mut servers = Vec::new();
        for told in reply.servers {
            let name = ServerName::parse(&format!("{}/{}", told.backend, told.server));
            servers.push(Server {
                name: name.map_err(|error| self.garbled(error.to_string()))?,
                admin: told.admin,
                health: told.health,
                sessions: told.sessions.unwrap_or(0),
                sessions_known: told.sessions.is_some(),
                weight: told.weight,
                backup: told.backup,
            });
        }
        Ok(Observed { incarnation: reply.incarnation, servers })
    }
}

impl Driver for Hook {
    fn kind(&self) -> &'static str {
        "hook"
    }

    fn observe(&self) -> BoxFuture<'_, Result<Observed, Trouble>> {
        Box::pin(self.observed())
    }

    fn set<'a>(&'a self, servers: &'a [ServerName], wanted: Wanted) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(self.order(servers, move |compiler, servers| match wanted {
            Wanted::Drained => Request::Drain { compiler, servers },
            Wanted::Ready => Request::Ready { compiler, servers },
        }))
    }

    fn close<'a>(&'a self, servers: &'a [ServerName]) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(self.order(servers, |compiler, servers| Request::Close { compiler, servers }))
    }
}
