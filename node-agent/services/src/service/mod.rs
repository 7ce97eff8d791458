//! One service of this host: what may be asked of it, and what is known about it afterwards.
//!
//! Two drivers: units of systemd, and plain processes. [`Services`] are those that the node's configuration names;
//! nothing else can be asked for.

mod plain;
mod units;

use std::{collections::BTreeMap, fmt, io, path::PathBuf, time::Duration};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use plain::{PlainConfig, PlainService};
pub use units::{InvalidUnitName, UnitName};

use crate::systemd::{BusError, SystemdUnit};

/// What a service is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    Start,
    Stop,
    Restart,
    Reload,
}

/// What a service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    Starting,
    Reloading,
    Stopping,
    Stopped,
    Failed,
}

/// A point in a service's life, noted before it is told to do something and compared after a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// systemd's InvocationID, or `PID:START` of a plain process: another one after every start. Empty: never started.
    pub invocation: String,
    /// When its state last changed, in microseconds since the boot; a reload changes this alone. 0: not known.
    pub changed: u64,
}

/// What a service was seen to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub state: State,
    /// For a person: `active (running)`, `failed (exit-code)`.
    pub detail: String,
    pub mark: Mark,
    pub main_pid: Option<u32>,
    /// False: the last reload failed, though the service may run on.
    pub reloaded: bool,
}

/// What a service has done since a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acted {
    /// It did what was asked, and is where that leads.
    Yes,
    /// It is as it was.
    No,
    /// It is on its way.
    GoingOn,
    /// It is not where the verb leads: it failed, or it stopped and did not start.
    Amiss(String),
    /// This driver cannot tell (the reload of a plain process): look at what the service answers.
    CannotTell,
}

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(
        "this node does not grant the service `{asked}` \
         (hint: name it under [services] in the agent's configuration; granted are: {granted})"
    )]
    NotGranted { asked: String, granted: String },
    #[error("there is no unit {unit} on this host (hint: `systemctl list-units --all` names what there is)")]
    NoUnit { unit: UnitName },
    #[error("could not {verb} {service}: {reason} (hint: {hint})")]
    Refused { verb: Verb, service: String, reason: String, hint: String },
    #[error("could not {verb} {service}: {result}; it is {detail} (hint: {hint})")]
    Failed { verb: Verb, service: String, result: String, detail: String, hint: String },
    /// It may or may not have happened: ask for the status.
    #[error("whether {service} did {verb} is not known: {why}")]
    Unknown { verb: Verb, service: String, why: String },
    #[error("could not ask systemd about {service}")]
    Bus {
        service: String,
        #[source]
        source: BusError,
    },
    #[error(
        "{} names process {pid}, which is younger than that file and may be a stranger \
         (hint: if it is not {service}, remove the file)", pid_file.display()
    )]
    Stranger { service: String, pid_file: PathBuf, pid: u32 },
    #[error("could not {doing} of {service}")]
    Io {
        doing: String,
        service: String,
        #[source]
        source: io::Error,
    },
}

impl ServiceError {
    /// Whether the service may have done what it was told.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// One service, whatever runs it.
pub trait Service: fmt::Debug + Send + Sync {
    /// Does it and waits for the result. After the deadline the result is unknown, never failed.
    fn act(&self, verb: Verb, deadline: Duration) -> BoxFuture<'_, Result<(), ServiceError>>;

    fn status(&self) -> BoxFuture<'_, Result<Status, ServiceError>>;
}

impl dyn Service + '_ {
    /// What became of `verb` since `mark` was noted: for an agent that was interrupted and must not do it twice.
    pub async fn acted_since(&self, verb: Verb, mark: &Mark) -> Result<Acted, ServiceError> {
        Ok(compare(verb, mark, &self.status().await?))
    }
}

fn compare(verb: Verb, mark: &Mark, now: &Status) -> Acted {
    let other_run = now.mark.invocation != mark.invocation && !now.mark.invocation.is_empty();
    match (now.state, verb) {
        (State::Starting | State::Reloading | State::Stopping, _) => Acted::GoingOn,
        (State::Stopped, Verb::Stop) => Acted::Yes,
        (State::Running, Verb::Stop) => Acted::No,
        (State::Stopped | State::Failed, _) if mark.invocation.is_empty() && !other_run => Acted::No,
        (State::Stopped | State::Failed, _) => Acted::Amiss(now.detail.clone()),
        (State::Running, Verb::Start | Verb::Restart) if other_run => Acted::Yes,
        (State::Running, Verb::Start | Verb::Restart) => Acted::No,
        (State::Running, Verb::Reload) if other_run => Acted::Yes,
        (State::Running, Verb::Reload) if now.mark.changed == 0 => Acted::CannotTell,
        (State::Running, Verb::Reload) if now.mark.changed == mark.changed => Acted::No,
        (State::Running, Verb::Reload) if now.reloaded => Acted::Yes,
        (State::Running, Verb::Reload) => Acted::Amiss(format!("{}, the reload failed", now.detail)),
    }
}

/// How the node's configuration grants one service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Grant {
    /// A unit of systemd.
    Systemd { unit: UnitName },
    /// A process that this agent starts and knows by a pid file, for hosts without systemd.
    Process(PlainConfig),
}

/// The services that the node's configuration grants, by the names it gives them.
#[derive(Debug)]
pub struct Services {
    granted: BTreeMap<String, Box<dyn Service>>,
}

impl Services {
    pub fn new(grants: BTreeMap<String, Grant>) -> Self {
        let driver = |name: &str, grant| -> Box<dyn Service> {
            match grant {
                Grant::Systemd { unit } => Box::new(SystemdUnit::new(unit)),
                Grant::Process(config) => Box::new(PlainService::new(name, config)),
            }
        };
        let granted = grants.into_iter().map(|(name, grant)| (name.clone(), driver(&name, grant))).collect();
        Self { granted }
    }

    /// The one of this name, or a refusal that names those there are.
    pub fn granted(&self, name: &str) -> Result<&dyn Service, ServiceError> {
        let not_granted = || {
            let names: Vec<&str> = self.granted.keys().map(String::as_str).collect();
            let granted = if names.is_empty() { "none".into() } else { names.join(", ") };
            ServiceError::NotGranted { asked: name.chars().take(80).collect(), granted }
        };
        self.granted.get(name).map(Box::as_ref).ok_or_else(not_granted)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.granted.keys().map(String::as_str)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: State, invocation: &str, changed: u64) -> Status {
        let mark = Mark { invocation: invocation.into(), changed };
        Status { state, detail: "seen".into(), mark, main_pid: None, reloaded: true }
    }

    #[test]
    fn what_was_done_before_a_crash_is_told_by_the_invocation_and_the_time_of_the_last_change() {
        let mark = Mark { invocation: "a".into(), changed: 5 };
        let table = [
            (Verb::Restart, seen(State::Running, "b", 9), Acted::Yes),
            (Verb::Restart, seen(State::Running, "a", 5), Acted::No),
            (Verb::Restart, seen(State::Starting, "b", 9), Acted::GoingOn),
            (Verb::Restart, seen(State::Failed, "b", 9), Acted::Amiss("seen".into())),
            (Verb::Restart, seen(State::Stopped, "a", 9), Acted::Amiss("seen".into())),
            (Verb::Reload, seen(State::Running, "a", 9), Acted::Yes),
            (Verb::Reload, seen(State::Running, "a", 5), Acted::No),
            (Verb::Reload, seen(State::Running, "a", 0), Acted::CannotTell),
            (Verb::Reload, seen(State::Running, "b", 9), Acted::Yes),
            (Verb::Stop, seen(State::Stopped, "a", 9), Acted::Yes),
            (Verb::Stop, seen(State::Running, "a", 5), Acted::No),
        ];
        for (verb, now, expected) in table {
            assert_eq!(compare(verb, &mark, &now), expected, "{verb} {now:?}");
        }
        let failed = Status { reloaded: false, ..seen(State::Running, "a", 9) };
        assert!(matches!(compare(Verb::Reload, &mark, &failed), Acted::Amiss(why) if why.contains("reload")));
        let never = Mark::default();
        assert_eq!(compare(Verb::Start, &never, &seen(State::Stopped, "", 0)), Acted::No);
    }

    #[test]
    fn a_grant_names_its_driver_and_nothing_that_is_not_known() {
        let read = |text: &str| serde_json::from_str::<Grant>(text).map_err(|error| error.to_string());
        assert!(matches!(
            read(r#"{"driver":"systemd","unit":"puppetserver"}"#),
            Ok(Grant::Systemd { unit }) if unit.as_str() == "puppetserver.service"
        ));
        let plain = r#"{"driver":"process","pid_file":"/run/a.pid","command":["/bin/a"]}"#;
        assert!(matches!(read(plain), Ok(Grant::Process(config)) if config.stop_seconds == 60));
        for bad in [
            r#"{"unit":"puppetserver"}"#,
            r#"{"driver":"systemd","unit":"a b"}"#,
            r#"{"driver":"systemd","unit":"a","user":"root"}"#,
            r#"{"driver":"process","pid_file":"/run/a.pid","command":["/bin/a"],"shell":true}"#,
            r#"{"driver":"process","pid_file":"/run/a.pid","command":[]}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_config_does_not_grant_is_refused_with_what_it_does() {
        let services = Services::new(BTreeMap::from([(
            "puppetserver".to_owned(),
            Grant::Systemd { unit: UnitName::parse("puppetserver.service").unwrap() },
        )]));
        assert!(services.granted("puppetserver").is_ok());
        let error = services.granted("sshd").unwrap_err().to_string();
        assert!(error.contains("does not grant the service `sshd`"), "{error}");
        assert!(error.contains("hint:") && error.ends_with("granted are: puppetserver)"), "{error}");
    }
}
