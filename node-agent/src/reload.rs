//! Services that read a file only at a reload, or only at their start: each is told until it has done so, also after a
//! restart of this agent. Only what `[services]` grants can be told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
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

/// What is known of services that are owed a reload or a restart.
#[derive(Debug)]
pub(crate) struct Debts {
    /// Services that are restarted; the others are reloaded.
    restarted: BTreeSet<String>,
    /// Why a service has not read its file.
    not_reloaded: Mutex<BTreeMap<String, String>>,
    /// Wakes whoever reloads services.
    changed: Notify,
}

impl Debts {
    pub(crate) fn of(restarted: impl Iterator<Item = String>) -> Self {
        Self { restarted: restarted.collect(), not_reloaded: Mutex::default(), changed: Notify::new() }
    }

    /// Something may be owed.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }

    /// Until something may be owed, or it is time to try again.
    pub(crate) async fn wait(&self) {
        let _or_again = timeout(AGAIN, self.changed.notified()).await;
    }

    /// Why a service that is owed a reload has not read its file.
    pub(crate) fn why(&self, service: &str) -> String {
        let known = self.not_reloaded.lock().unwrap_or_else(PoisonError::into_inner);
        let why = known.get(service).map_or("it is about to be told", String::as_str);
        format!("{service} has not read its file yet: {why}")
    }

    /// Tells all of them. `paid` puts on record that one was told, and gives the trouble with that.
    pub(crate) async fn pay<F: Future<Output = Option<String>>>(
        &self,
        turns: &Turns,
        owed: Vec<Reload>,
        what: &str,
        paid: impl Fn(Reload) -> F,
    ) {
        for reload in owed {
            let service = reload.service.clone();
            let trouble = match self.tell(turns, &service).await {
                Ok(()) => {
                    tracing::info!(service, "it was told to read {what} again");
                    paid(reload).await
                }
                Err(why) => Some(why),
            };
            let mut known = self.not_reloaded.lock().unwrap_or_else(PoisonError::into_inner);
            match trouble {
                Some(why) => {
                    if known.insert(service.clone(), why.clone()).as_ref() != Some(&why) {
                        tracing::warn!(service, why, "it has not read {what} again");
                    }
                }
                None => drop(known.remove(&service)),
            }
        }
    }

    async fn tell(&self, turns: &Turns, name: &str) -> Result<(), String> {
        let service = turns.service(name).map_err(|error| Chain(&error).to_string())?;
        let (verb, deadline) = match self.restarted.contains(name) {
            true => (Verb::Restart, RESTART),
            false => (Verb::Reload, RELOAD),
        };
        // One that does not run reads the file when it starts, which is for whoever stopped it; unless a restart of ours did.
        let is_ours = || {
            let known = self.not_reloaded.lock().unwrap_or_else(PoisonError::into_inner);
            known.contains_key(name)
        };
        if verb == Verb::Restart && !is_ours() && is_down(service).await {
            return Ok(());
        }
        let Err(error) = service.act(verb, deadline).await else { return Ok(()) };
        match verb == Verb::Reload && is_down(service).await {
            true => Ok(()),
            false => Err(Chain(&error).to_string()),
        }
    }
}

async fn is_down(service: &dyn Service) -> bool {
    service.status().await.is_ok_and(|status| matches!(status.state, State::Stopped | State::Failed))
}
