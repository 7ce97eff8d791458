//! A unit of systemd as a [`Service`].

use std::time::Duration;

use bunraku_common::Chain;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::timeout;

use super::{Bus, BusError, Properties};
use crate::service::{Mark, Service, ServiceError, State, Status, UnitName, Verb};

/// For a question; systemd answers at once, also while a unit starts.
const ASKING: Duration = Duration::from_secs(10);

/// One unit, told and asked over D-Bus.
#[derive(Debug)]
pub(crate) struct SystemdUnit {
    unit: UnitName,
}

impl SystemdUnit {
    pub(crate) fn new(unit: UnitName) -> Self {
        Self { unit }
    }

    async fn run_job(&self, verb: Verb) -> Result<(), ServiceError> {
        let method = match verb {
            Verb::Start => "StartUnit",
            Verb::Stop => "StopUnit",
            Verb::Restart => "RestartUnit",
            Verb::Reload => "ReloadUnit",
        };
        let bus = Bus::connect().await.map_err(|error| self.bus(error))?;
        let mut jobs = bus.jobs().await.map_err(|error| self.bus(error))?;
        let job = bus.queue(method, self.unit.as_str()).await.map_err(|error| self.refused(verb, error))?;
        let result = jobs.result(&job).await.map_err(|error| self.unknown(verb, &error))?;
        match result.as_str() {
            "done" => Ok(()),
            // Another job took its place, or systemd waited long enough: what the unit does is for its status to say.
            "canceled" | "timeout" => {
                Err(self.unknown_because(verb, format!("systemd ended the job: {result}")))
            }
            _ => {
                let properties = bus.properties(self.unit.as_str()).await;
                let detail = properties.map_or_else(|_| "in a state not known".into(), |it| detail(&it));
                Err(ServiceError::Failed {
                    verb,
                    service: self.unit.to_string(),
                    result: format!("systemd's job ended with `{result}`"),
                    detail,
                    hint: format!("journalctl -u {} -n 50", self.unit),
                })
            }
        }
    }

    async fn ask(&self) -> Result<Status, ServiceError> {
        let asking = async { Bus::connect().await?.properties(self.unit.as_str()).await };
        let asked = timeout(ASKING, asking).await.unwrap_or(Err(BusError::Deadline(ASKING)));
        let properties = asked.map_err(|error| self.bus(error))?;
        if properties.text("LoadState") == "not-found" {
            return Err(ServiceError::NoUnit { unit: self.unit.clone() });
        }
        Ok(read(&properties))
    }

    fn bus(&self, source: BusError) -> ServiceError {
        ServiceError::Bus { service: self.unit.to_string(), source }
    }

    /// What was said when the job should have been queued.
    fn refused(&self, verb: Verb, error: BusError) -> ServiceError {
        let BusError::Refused { name, message, .. } = &error else { return self.unknown(verb, &error) };
        let hint = if error.is("NoSuchUnit") {
            return ServiceError::NoUnit { unit: self.unit.clone() };
        } else if error.is("UnitMasked") {
            format!("systemctl unmask {}", self.unit)
        } else if error.is("JobTypeNotApplicable") {
            "this unit has no ExecReload=: restart it".into()
        } else if error.is("AccessDenied") || error.is("InteractiveAuthorizationRequired") {
            "the agent must run as root".into()
        } else {
            format!("systemctl status {}", self.unit)
        };
        let reason = if message.is_empty() { name } else { message };
        ServiceError::Refused { verb, service: self.unit.to_string(), reason: reason.clone(), hint }
    }

    fn unknown(&self, verb: Verb, error: &BusError) -> ServiceError {
        self.unknown_because(verb, Chain(error).to_string())
    }

    fn unknown_because(&self, verb: Verb, why: String) -> ServiceError {
        ServiceError::Unknown { verb, service: self.unit.to_string(), why }
    }
}

impl Service for SystemdUnit {
    fn act(&self, verb: Verb, deadline: Duration) -> BoxFuture<'_, Result<(), ServiceError>> {
        async move {
            let late = || self.unknown_because(verb, format!("it took longer than {deadline:?}"));
            timeout(deadline, self.run_job(verb)).await.unwrap_or_else(|_| Err(late()))
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, ServiceError>> {
        self.ask().boxed()
    }
}

fn read(properties: &Properties) -> Status {
    let state = match properties.text("ActiveState") {
        "active" => State::Running,
        "activating" => State::Starting,
        "reloading" | "refreshing" => State::Reloading,
        "deactivating" => State::Stopping,
        "failed" => State::Failed,
        _ => State::Stopped,
    };
    let mark = Mark {
        invocation: properties.hex("InvocationID"),
        changed: properties.number("StateChangeTimestampMonotonic"),
    };
    let main_pid = u32::try_from(properties.number("MainPID")).ok().filter(|pid| *pid > 0);
    let reloaded = matches!(properties.text("ReloadResult"), "" | "success");
    Status { state, detail: detail(properties), mark, main_pid, reloaded }
}

/// As `systemctl status` puts it; of a failure the kind (`exit-code`, `oom-kill`, `timeout`).
fn detail(properties: &Properties) -> String {
    let (active, result) = (properties.text("ActiveState"), properties.text("Result"));
    let more = if active == "failed" { result } else { properties.text("SubState") };
    format!("{active} ({more})")
}
