//! What is to be done to this host, as the controller says it.

use std::fmt;

use bunraku_certificates::Fingerprint;
use bunraku_proto::v1::{self, action::Kind};
use serde::{Deserialize, Serialize};
use tonic::Status;

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
    /// What was staged takes the place of the host's own: the SHA-256 of its DER, in lower-case hex.
    Certificate(String),
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
            Kind::Certificate => {
                let fingerprint = action.certificate.parse::<Fingerprint>();
                Self::Certificate(
                    fingerprint.map_err(|error| Status::invalid_argument(error.to_string()))?.hex(),
                )
            }
            Kind::Unspecified => {
                return Err(Status::invalid_argument("this agent does not know that action"));
            }
        })
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
            Self::Certificate(fingerprint) => {
                write!(f, "the certificate {}", fingerprint.get(..16).unwrap_or(fingerprint))
            }
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
        let certificate = |certificate: &str| v1::Action {
            kind: Kind::Certificate.into(),
            certificate: certificate.to_owned(),
            ..v1::Action::default()
        };
        let known = Action::parse(Some(certificate(&"AB".repeat(32)))).unwrap();
        assert_eq!(known, Action::Certificate("ab".repeat(32)));
        assert!(Action::parse(Some(certificate("ab"))).is_err());
        let unknown = v1::Action { kind: 99, ..v1::Action::default() };
        for bad in [None, Some(unknown), Some(exec("")), Some(exec("a b")), Some(exec("a\u{1b}[2J"))] {
            assert!(Action::parse(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
