//! Puppet's CRLs on this node: the files that its configuration grants, between the wire, the disk and Puppet Server.

mod config;
mod debts;
mod orders;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bunraku_common::{Chain, hint};
use bunraku_crl::{Keeper, Place, Reload, Seen};
use bunraku_proto::v1;
use bunraku_puppetserver::doctor::{Finding, Severity};
use tonic::Status;

use self::config::Granted;
pub use self::config::{CrlConfig, CrlFile};
pub(crate) use self::{
    debts::reload,
    orders::{install, prove},
    watch::watch,
};
use crate::{
    config::Config,
    node::{AgentError, Node},
    reload::Debts,
    service::wire_term,
};

/// Of every order about CRLs.
pub(crate) const SUBJECT: &str = "crl";

/// What this node keeps of CRLs.
#[derive(Debug)]
pub(crate) struct Crl {
    /// Held while files are read, written and synced: only [`on_keeper`] takes it.
    keeper: Mutex<Keeper>,
    /// As it was after the last work of the keeper. A disk that hangs must not keep the node from being observed.
    told: Mutex<(Seen, Vec<Reload>)>,
    /// Whether Puppet Server's own file is among the files.
    puppetserver: bool,
    files: Vec<Granted>,
    /// Why it is not known where the files are.
    trouble: Mutex<Option<String>>,
    debts: Debts,
    /// One proof at a time: each asks Puppet Server twenty times a second.
    proving: tokio::sync::Mutex<()>,
}

impl Crl {
    /// `None`: nothing is granted.
    pub(crate) fn open(config: &Config) -> Result<Option<Self>, AgentError> {
        let files = config::granted(config).map_err(AgentError::Crl)?;
        let puppetserver = config.code.is_some();
        if !config.crl.enabled || (!puppetserver && files.is_empty()) {
            return Ok(None);
        }
        let keeper = Keeper::open(&config.data_dir.join("crl"))?;
        Ok(Some(Self {
            told: Mutex::new((keeper.seen(), keeper.reloads())),
            keeper: Mutex::new(keeper),
            puppetserver,
            files,
            trouble: Mutex::default(),
            debts: Debts::default(),
            proving: tokio::sync::Mutex::default(),
        }))
    }

    fn told(&self) -> MutexGuard<'_, (Seen, Vec<Reload>)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the files are, as Puppet's settings are now.
    async fn places(&self, node: &Node) -> Result<Vec<Place>, String> {
        let asks = self.puppetserver || self.files.iter().any(|granted| granted.file.ca.is_none());
        let settings = match asks {
            true => Some(node.puppet_settings().await.map_err(|error| Chain(&error).to_string())?),
            false => None,
        };
        let mut places = Vec::new();
        if let Some(settings) = settings.as_ref().filter(|_| self.puppetserver) {
            let (path, ca) = (settings.hostcrl.clone(), settings.localcacert.clone());
            // A table for it says more.
            if self.files.iter().all(|granted| granted.file.path != path) {
                places.push(Place { path, owner: None, group: None, mode: None, ca, reload: None });
            }
        }
        for Granted { file, owner, group } in &self.files {
            let Some(ca) = file.ca.as_ref().or(settings.as_ref().map(|settings| &settings.localcacert))
            else {
                continue;
            };
            places.push(Place {
                path: file.path.clone(),
                owner: *owner,
                group: *group,
                mode: file.mode.map(|mode| mode.0),
                ca: ca.clone(),
                reload: file.reload.clone(),
            });
        }
        Ok(places)
    }

    /// The same, kept as the reason why nothing can be done where it fails.
    async fn known_places(&self, node: &Node) -> Result<Vec<Place>, String> {
        let places = self.places(node).await;
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let now = places.as_ref().err().map(|why| format!("where the CRLs belong is not known: {why}"));
        if let Some(why) = now.as_ref().filter(|now| trouble.as_ref() != Some(now)) {
            tracing::warn!("{why}");
        }
        *trouble = now;
        places
    }

    /// What is told to the controller.
    pub(crate) fn seen(&self) -> v1::CrlOnNode {
        let (Seen { digest, fence, written_ms, .. }, _) = self.told().clone();
        v1::CrlOnNode {
            digest: digest.map(|digest| digest.to_string()).unwrap_or_default(),
            term: fence.map(|fence| wire_term(fence.term)),
            generation: fence.map_or(0, |fence| fence.generation.0),
            provable: self.puppetserver,
            owed: self.owed(),
            written_ms,
        }
    }

    /// For the doctor.
    pub(crate) fn finding(&self) -> Finding {
        let (found, mend) = hint::split(&self.owed());
        let (severity, found) = match found.as_str() {
            "" => (Severity::Ok, "every file of CRLs is as it should be".to_owned()),
            _ => (Severity::Error, found),
        };
        Finding { check: "crl-files", severity, found, mend, fix: None }
    }

    fn owed(&self) -> String {
        let (Seen { owed: files, .. }, reloads) = self.told().clone();
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut owed: Vec<String> = trouble.into_iter().chain((!files.is_empty()).then_some(files)).collect();
        owed.extend(reloads.into_iter().map(|reload| self.debts.why(&reload.service)));
        owed.join("; ")
    }
}

pub(crate) fn no_crl() -> Status {
    Status::failed_precondition(
        "this node's configuration grants no file of CRLs (hint: add a [code] table or [[crl.files]] to agent.toml)",
    )
}

/// The keeper works on a thread of its own: it reads and writes files, and syncs them. `None`: it panicked, which is in
/// the log.
async fn on_keeper<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node, &mut Keeper) -> T + Send + 'static,
) -> Option<T> {
    let node = node.clone();
    let worked = tokio::task::spawn_blocking(move || {
        let crl = node.crl.as_ref()?;
        let mut keeper = crl.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&node, &mut keeper);
        *crl.told() = (keeper.seen(), keeper.reloads());
        Some(done)
    });
    worked.await.ok().flatten()
}
