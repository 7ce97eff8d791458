//! What may be done to this host, as far as its own configuration grants it.

use std::{fmt, path::Path};

use bunraku_common::Chain;
use bunraku_proto::v1::{self, action::Kind};
use bunraku_services::puppetserver::ConfigCheck;
use serde::{Deserialize, Serialize};
use tonic::Status;

use super::{Answer, server};
use crate::node::{Compiler, Node};

/// Names of commands and packages, and versions, are short.
const LONGEST: usize = 200;

/// What a rollout does to a compiler while it is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    Restart,
    Reload,
    FlushPool,
    PuppetRun,
    /// A command by its name in this node's configuration.
    Exec(String),
    Update {
        package: String,
        version: String,
    },
    AgentUpdate {
        version: String,
    },
}

impl Action {
    pub(crate) fn parse(action: Option<v1::Action>) -> Result<Self, Status> {
        let action = action.ok_or_else(|| Status::invalid_argument("the action is missing"))?;
        let kind = action.kind();
        let text = |text: String, what: &str| {
            let fits =
                !text.is_empty() && text.len() <= LONGEST && text.chars().all(|c| c.is_ascii_graphic());
            if fits { Ok(text) } else { Err(Status::invalid_argument(format!("not usable as {what}"))) }
        };
        Ok(match kind {
            Kind::Restart => Self::Restart,
            Kind::Reload => Self::Reload,
            Kind::FlushPool => Self::FlushPool,
            Kind::PuppetRun => Self::PuppetRun,
            Kind::Exec => Self::Exec(text(action.command, "the name of a command")?),
            Kind::Update => Self::Update {
                package: text(action.package, "a package")?,
                version: text(action.version, "a version")?,
            },
            Kind::AgentUpdate => Self::AgentUpdate { version: text(action.version, "a version")? },
            Kind::Unspecified => {
                return Err(Status::invalid_argument("this agent does not know that action"));
            }
        })
    }

    /// Whether this node's configuration grants it; else why not, and what to do.
    pub(super) fn granted(&self, node: &Node) -> Result<(), String> {
        let rollout = &node.config.rollout;
        let not = |what: &str, hint: &str| {
            Err(format!(
                "this node does not grant {what} (hint: {hint} in agent.toml, and restart bunraku-agent)"
            ))
        };
        match self {
            Self::Restart | Self::Reload | Self::FlushPool => {
                let granted = node.turns.services.granted(&rollout.service);
                granted.map(drop).map_err(|error| Chain(&error).to_string())
            }
            Self::PuppetRun if !rollout.puppet_run => not("Puppet runs", "puppet_run = true below [rollout]"),
            Self::PuppetRun => Ok(()),
            Self::Exec(name) => match rollout.exec.get(name) {
                None => {
                    let known: Vec<&str> = rollout.exec.keys().map(String::as_str).collect();
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    not(&format!("the command `{name}`, only {known}"), "name it below [rollout.exec]")
                }
                Some(words) if !words.first().is_some_and(|program| Path::new(program).is_file()) => {
                    let program = words.first().map_or("", String::as_str);
                    Err(format!("there is no program {program}, which [rollout.exec] names for `{name}`"))
                }
                Some(_) => Ok(()),
            },
            Self::Update { .. } | Self::AgentUpdate { .. } => {
                Err("this agent does not change packages".to_owned())
            }
        }
    }

    /// What can be found out before the drain. Nothing changes.
    pub(super) async fn prepare(&self, node: &Node, compiler: &Compiler) -> Answer {
        if let Err(why) = self.granted(node) {
            return Answer::unchanged(why);
        }
        match self {
            Self::Restart | Self::Reload => self.prepare_service(node, compiler).await,
            Self::FlushPool => match server(node, compiler).await {
                Ok((_, server)) => match server.pool().await {
                    Ok(_) => Answer::Done(String::new()),
                    Err(error) => Answer::unchanged(Chain(&error)),
                },
                Err(why) => Answer::unchanged(why),
            },
            Self::PuppetRun | Self::Exec(_) | Self::Update { .. } | Self::AgentUpdate { .. } => {
                Answer::Done(String::new())
            }
        }
    }

    async fn prepare_service(&self, node: &Node, compiler: &Compiler) -> Answer {
        let service = match node.turns.services.granted(&node.config.rollout.service) {
            Ok(service) => service,
            Err(error) => return Answer::unchanged(Chain(&error)),
        };
        if let Err(error) = service.status().await {
            return Answer::unchanged(Chain(&error));
        }
        let conf_d = match node.settings(compiler).await {
            Ok(settings) => node.server_places(&settings),
            Err(error) => return Answer::unchanged(Chain(&error)),
        };
        let check = match &conf_d {
            Ok(places) => ConfigCheck { puppet: &node.puppet, conf_d: &places.conf_d, ruby: None },
            Err(error) => return Answer::unchanged(Chain(error)),
        };
        match check.run().await {
            Ok(()) => Answer::Done(String::new()),
            Err(error) => Answer::unchanged(Chain(&error)),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restart => f.write_str("the restart of Puppet Server"),
            Self::Reload => f.write_str("the reload of Puppet Server"),
            Self::FlushPool => f.write_str("the flush of the JRuby pool"),
            Self::PuppetRun => f.write_str("the Puppet run"),
            Self::Exec(name) => write!(f, "the command {name}"),
            Self::Update { package, version } => write!(f, "the update of {package} to {version}"),
            Self::AgentUpdate { version } => write!(f, "the update of the node agent to {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_that_is_missing_unknown_or_of_strange_letters_is_refused_at_the_door() {
        let exec = |command: &str| v1::Action {
            kind: Kind::Exec.into(),
            command: command.to_owned(),
            ..v1::Action::default()
        };
        assert_eq!(Action::parse(Some(exec("warm"))).unwrap(), Action::Exec("warm".to_owned()));
        let unknown = v1::Action { kind: 99, ..v1::Action::default() };
        for bad in [None, Some(unknown), Some(exec("")), Some(exec("a b")), Some(exec("a\u{1b}[2J"))] {
            assert!(Action::parse(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
