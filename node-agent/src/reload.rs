//! Services that read a file only at a reload, or only at their start: each is told until it has done so, also after a
//! restart of this agent. Only what `[services]` grants can be told.
//!
//! A service that is stopped is left so, and reads its file when somebody starts it. One that went down because it was
//! told is owed until it runs again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bunraku_common::Chain;
use bunraku_files::Reload;
use bunraku_services::{Service, State, Verb};
use tokio::{sync::Notify, time::timeout};

use crate::turn::kept::Turns;

/// A reload of a balancer takes a second.
const RELOAD: Duration = Duration::from_secs(60);
/// PuppetDB needs half a minute, on a loaded machine more.
const RESTART: Duration = Duration::from_secs(300);
/// Until one that failed is told again.
const AGAIN: Duration = Duration::from_secs(10);
/// Who revokes two hundred certificates in a night wants PuppetDB to answer meanwhile.
const BETWEEN_RESTARTS: Duration = Duration::from_secs(300);
/// Until one that did not come back from its restart is restarted again.
const AFTER_A_FALL: Duration = Duration::from_secs(60);

/// How a service is told. Nobody who is reloaded waits for one that is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Reload,
    Restart,
}

/// What is known of services that are owed a reload or a restart.
#[derive(Debug)]
pub(crate) struct Debts {
    /// Services that are restarted; the others are reloaded.
    restarted: BTreeSet<String>,
    known: Mutex<BTreeMap<String, Known>>,
    /// Wakes whoever reloads services, and whoever restarts them.
    changed: [Notify; 2],
}

/// Of one service, in this process.
#[derive(Debug, Default, Clone)]
struct Known {
    /// Why it has not read its file.
    why: Option<String>,
    /// The newest change that it was told of: what cannot be put on record is not told twice.
    told: Option<u64>,
    /// It went down when it was told of this change.
    fell: Option<u64>,
    restarted: Option<Instant>,
}

impl Debts {
    pub(crate) fn of(restarted: impl Iterator<Item = String>) -> Self {
        Self { restarted: restarted.collect(), known: Mutex::default(), changed: Default::default() }
    }

    /// Something may be owed.
    pub(crate) fn changed(&self) {
        self.changed.iter().for_each(Notify::notify_one);
    }

    /// Why a service that is owed a reload has not read its file.
    pub(crate) fn why(&self, service: &str) -> String {
        let why = self.of_service(service).why;
        let why = why.as_deref().unwrap_or("it is about to be told");
        format!("{service} has not read its file yet: {why}")
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_service(&self, name: &str) -> Known {
        self.known().get(name).cloned().unwrap_or_default()
    }

    fn note(&self, name: &str, change: impl FnOnce(&mut Known)) {
        change(self.known().entry(name.to_owned()).or_default());
    }

    /// Until something may be owed, or it is time to try again. `None`: no service is told so.
    pub(crate) async fn wait(&self, how: How) -> Option<()> {
        if how == How::Restart && self.restarted.is_empty() {
            return None;
        }
        let _or_again = timeout(AGAIN, self.changed[how as usize].notified()).await;
        Some(())
    }

    /// Tells those that are told so. `paid` puts on record that one was told, and gives the trouble with that.
    pub(crate) async fn pay<F: Future<Output = Option<String>>>(
        &self,
        how: How,
        turns: &Turns,
        owed: Vec<Reload>,
        what: &str,
        paid: impl Fn(Reload) -> F,
    ) {
        for reload in owed.into_iter().filter(|reload| self.how(&reload.service) == how) {
            let (service, change) = (reload.service.clone(), reload.change);
            let trouble = match self.tell(turns, &service, change).await {
                Ok(()) => {
                    self.note(&service, |known| known.told = Some(change));
                    paid(reload).await
                }
                Err(why) => Some(why),
            };
            match trouble {
                Some(why) if self.of_service(&service).why.as_ref() != Some(&why) => {
                    tracing::warn!(service, why, "it has not read {what} again");
                    self.note(&service, |known| known.why = Some(why));
                }
                Some(_) => {}
                None => {
                    tracing::info!(service, "it was told to read {what} again");
                    self.note(&service, |known| known.why = None);
                }
            }
        }
    }

    fn how(&self, service: &str) -> How {
        if self.restarted.contains(service) { How::Restart } else { How::Reload }
    }

    async fn tell(&self, turns: &Turns, name: &str, change: u64) -> Result<(), String> {
        let known = self.of_service(name);
        if known.told == Some(change) {
            return Ok(());
        }
        let service = turns.service(name).map_err(|error| Chain(&error).to_string())?;
        let (verb, deadline) = match self.how(name) {
            How::Restart => (Verb::Restart, RESTART),
            How::Reload => (Verb::Reload, RELOAD),
        };
        match (down(service).await, verb) {
            // Somebody has started it since, and it has read the file then.
            (None, _) if known.fell == Some(change) => {
                self.note(name, |known| known.fell = None);
                return Ok(());
            }
            (None, _) => {}
            (Some(_), Verb::Restart) if known.fell.is_some() => {}
            // A start that failed may have been ours, before this agent was restarted.
            (Some(State::Failed), Verb::Restart) => {}
            (Some(_), _) if known.fell.is_some() => {
                return Err(format!(
                    "it went down when it was told to {verb} (hint: systemctl start {name}; `restart` in agent.toml, where \
                     it does not survive that)"
                ));
            }
            (Some(_), _) => return Ok(()),
        }
        if verb == Verb::Restart {
            let lately = |rest: Duration| known.restarted.is_some_and(|at| at.elapsed() < rest);
            if known.fell.is_some() && lately(AFTER_A_FALL) {
                return Err(known.why.unwrap_or_else(|| "its restart failed".to_owned()));
            }
            if known.fell.is_none() && lately(BETWEEN_RESTARTS) {
                let minutes = BETWEEN_RESTARTS.as_secs() / 60;
                return Err(format!(
                    "it was restarted less than {minutes} minutes ago, and is again after that"
                ));
            }
            self.note(name, |known| known.restarted = Some(Instant::now()));
        }
        let Err(error) = service.act(verb, deadline).await else {
            self.note(name, |known| known.fell = None);
            return Ok(());
        };
        let fell = down(service).await.map(|_| change);
        self.note(name, |known| known.fell = fell);
        Err(Chain(&error).to_string())
    }
}

/// Stopped or failed; `None`: neither, or nobody knows.
async fn down(service: &dyn Service) -> Option<State> {
    let state = service.status().await.ok()?.state;
    matches!(state, State::Stopped | State::Failed).then_some(state)
}
