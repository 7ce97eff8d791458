//! What a rollout does to each compiler. Names and versions are checked here for their form; whether the node may do it
//! is for the node's own configuration to say.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::JudgedBy;

/// Of a name or a version.
const LONGEST: usize = 200;

/// What is done to each compiler while it is out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    Restart,
    Reload,
    /// The JRuby pool alone.
    FlushPool,
    /// A package to exactly this version.
    Update {
        package: String,
        version: String,
    },
    /// The compiler's own Puppet agent, once.
    PuppetRun,
    /// The node agent itself.
    AgentUpdate {
        version: String,
    },
    /// A command that the node's own configuration names.
    Exec {
        command: String,
    },
    /// A Puppet certificate that lies on the compiler takes the place of the one in service. It begins with its request,
    /// and nobody asks for the rollout by itself.
    Certificate {
        /// SHA-256 of the DER, hex.
        certificate: String,
    },
}

impl Action {
    /// As people write it and [`Display`](fmt::Display) shows it. `None`: it is none, or of no possible form.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, what) = text.split_once(' ').unwrap_or((text, ""));
        let action = match (name, what) {
            ("restart", "") => Self::Restart,
            ("reload", "") => Self::Reload,
            ("flush-pool", "") => Self::FlushPool,
            ("puppet-run", "") => Self::PuppetRun,
            ("update", what) => {
                let (package, version) = what.split_once('=')?;
                Self::Update { package: package.to_owned(), version: version.to_owned() }
            }
            ("agent-update", version) => Self::AgentUpdate { version: version.to_owned() },
            ("exec", command) => Self::Exec { command: command.to_owned() },
            _ => return None,
        };
        action.is_well_formed().then_some(action)
    }

    /// Whether its names and versions are such that a package or a command could have.
    pub fn is_well_formed(&self) -> bool {
        match self {
            Self::Restart | Self::Reload | Self::FlushPool | Self::PuppetRun => true,
            Self::Update { package, version } => is_word(package, "+._-") && is_word(version, VERSION),
            Self::AgentUpdate { version } => is_word(version, VERSION),
            Self::Exec { command } => is_word(command, "._-"),
            Self::Certificate { certificate } => is_word(certificate, ""),
        }
    }

    /// The same with another version; `None`: it has none.
    pub fn with_version(&self, version: &str) -> Option<Self> {
        let version = version.to_owned();
        match self {
            Self::Update { package, .. } => Some(Self::Update { package: package.clone(), version }),
            Self::AgentUpdate { .. } => Some(Self::AgentUpdate { version }),
            Self::Restart
            | Self::Reload
            | Self::FlushPool
            | Self::PuppetRun
            | Self::Exec { .. }
            | Self::Certificate { .. } => None,
        }
    }

    /// Whether a node can bring back what was before it.
    pub fn is_revertible(&self) -> bool {
        match self {
            Self::Update { .. } | Self::AgentUpdate { .. } | Self::Certificate { .. } => true,
            Self::Restart | Self::Reload | Self::FlushPool | Self::PuppetRun | Self::Exec { .. } => false,
        }
    }

    /// Whether a compiler that an operator keeps out gets it there, and stays out: one that is being added gets its
    /// first certificate before its first agent.
    pub(crate) fn may_lean_on_a_drain(&self) -> bool {
        match self {
            Self::Certificate { .. } => true,
            Self::Restart
            | Self::Reload
            | Self::FlushPool
            | Self::Update { .. }
            | Self::PuppetRun
            | Self::AgentUpdate { .. }
            | Self::Exec { .. } => false,
        }
    }

    /// Whether every interpreter is a new one after it. An update may restart Puppet Server, or not.
    pub(crate) fn renews_interpreters(&self) -> bool {
        match self {
            Self::Restart | Self::Reload | Self::FlushPool => true,
            Self::Update { .. }
            | Self::PuppetRun
            | Self::AgentUpdate { .. }
            | Self::Exec { .. }
            | Self::Certificate { .. } => false,
        }
    }

    /// What its bake is judged by where nobody says otherwise. What changes no code of Puppet Server needs no numbers: a
    /// site with few agents would be stopped every night.
    pub fn judged_by(&self) -> JudgedBy {
        match self {
            Self::Update { .. } | Self::PuppetRun | Self::Exec { .. } => JudgedBy::Siblings,
            Self::Restart
            | Self::Reload
            | Self::FlushPool
            | Self::AgentUpdate { .. }
            | Self::Certificate { .. } => JudgedBy::Health,
        }
    }

    /// Its kind, in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::FlushPool => "flush-pool",
            Self::Update { .. } => "update",
            Self::PuppetRun => "puppet-run",
            Self::AgentUpdate { .. } => "agent-update",
            Self::Exec { .. } => "exec",
            Self::Certificate { .. } => "certificate",
        }
    }
}

/// What Debian's and rpm's versions hold beside letters and digits.
const VERSION: &str = ".+-~:^_";

/// It begins with a letter or a digit, so that no program takes it for an option.
fn is_word(text: &str, also: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= LONGEST
        && text.chars().all(allowed)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Restart | Self::Reload | Self::FlushPool | Self::PuppetRun => Ok(()),
            Self::Update { package, version } => write!(f, " {package}={version}"),
            Self::AgentUpdate { version } => write!(f, " {version}"),
            Self::Exec { command } => write!(f, " {command}"),
            Self::Certificate { certificate } => {
                write!(f, " {}", certificate.get(..12).unwrap_or(certificate))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_is_parsed() {
        for text in [
            "restart",
            "reload",
            "flush-pool",
            "update puppetserver=7.9.5-2+deb12u1",
            "update puppetserver=1:8.6.0~rc1-1",
            "puppet-run",
            "agent-update 0.2.0",
            "exec clear-cache",
        ] {
            let action = Action::parse(text).unwrap();
            assert_eq!(action.to_string(), text);
            let journalled = serde_json::to_string(&action).unwrap();
            assert_eq!(serde_json::from_str::<Action>(&journalled).unwrap(), action, "{journalled}");
        }
    }

    #[test]
    fn what_could_be_an_option_or_a_command_line_is_no_action() {
        for text in [
            "",
            "restart now",
            "update",
            "update puppetserver",
            "update =1",
            "update puppetserver=",
            "update -y=1",
            "update a=-1",
            "update a=1 b=2",
            "update a=$(id)",
            "update a/b=1",
            "agent-update ",
            "agent-update --yes",
            "exec ../sh",
            "exec a;b",
            "sleep",
        ] {
            assert_eq!(Action::parse(text), None, "{text}");
        }
    }
}
