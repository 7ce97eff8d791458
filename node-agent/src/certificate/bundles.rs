//! Keeps the copies of the certificate like their source, and has those told who read them only at a reload.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bunraku_common::{Chain, hint};
use bunraku_files::Reload;
use bunraku_host_certificate::{Bundles, Sources};
use bunraku_puppetserver::doctor::{Finding, Severity};

use super::config;
use crate::{
    changes::{NET, Watched},
    config::Config,
    node::{AgentError, Node},
    reload::Debts,
};

/// The copies that this host's configuration grants.
#[derive(Debug)]
pub(crate) struct Copies {
    /// Held while files are read, written and synced: only [`on_bundles`] takes it.
    bundles: Mutex<Bundles>,
    paths: Vec<PathBuf>,
    /// As it was after the last look.
    told: Mutex<(BTreeMap<PathBuf, String>, Vec<Reload>)>,
    /// Why it is not known where the sources are.
    trouble: Mutex<Option<String>>,
    debts: Debts,
}

impl Copies {
    /// `None`: there are none to keep.
    pub(crate) fn open(config: &Config) -> Result<Option<Self>, AgentError> {
        let granted = config::granted(config).map_err(AgentError::Certificates)?;
        if granted.is_empty() {
            return Ok(None);
        }
        let paths = granted.iter().map(|bundle| bundle.path.clone()).collect();
        let bundles = Bundles::open(&config.data_dir.join("bundles.json"), granted)?;
        Ok(Some(Self {
            told: Mutex::new((BTreeMap::new(), bundles.reloads())),
            bundles: Mutex::new(bundles),
            paths,
            trouble: Mutex::default(),
            debts: Debts::default(),
        }))
    }

    /// For the doctor.
    pub(crate) fn finding(&self) -> Finding {
        let (owed, reloads) = self.told().clone();
        let trouble = self.trouble().clone();
        let files = owed.into_iter().map(|(path, why)| format!("{}: {why}", path.display()));
        let reloads = reloads.into_iter().map(|reload| self.debts.why(&reload.service));
        let all: Vec<String> = trouble.into_iter().chain(files).chain(reloads).collect();
        let (found, mend) = hint::split(&all.join("; "));
        let (severity, found) = match found.as_str() {
            "" => (Severity::Ok, "every copy of the certificate is as it should be".to_owned()),
            _ => (Severity::Error, found),
        };
        Finding { check: "bundles", severity, found, mend, fix: None }
    }

    /// Why this copy is not as it should be.
    pub(super) fn why(&self, path: &Path) -> Option<String> {
        self.told().0.get(path).cloned()
    }

    fn told(&self) -> MutexGuard<'_, (BTreeMap<PathBuf, String>, Vec<Reload>)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For ever: looks whenever a source or a copy has changed, and now and then.
pub(crate) async fn keep(node: Arc<Node>) {
    let Some(copies) = &node.copies else { return };
    let mut watched = Watched::new("the certificate");
    loop {
        if let Some(sources) = sources(&node, copies).await {
            let Sources { certificate, key, ca } = &sources;
            let all = [certificate, key, ca].into_iter().chain(&copies.paths);
            watched.watch(all.cloned());
            on_bundles(&node, move |bundles| bundles.look(&sources)).await;
            copies.debts.changed();
        }
        watched.changed(NET).await;
    }
}

/// For ever: services that have not read their copies.
pub(crate) async fn reload(node: Arc<Node>) {
    let Some(copies) = &node.copies else { return };
    loop {
        let owed = on_bundles(&node, |bundles| bundles.reloads()).await.unwrap_or_default();
        let paid = |reload: Reload| {
            let node = node.clone();
            async move {
                let paid = on_bundles(&node, move |bundles| bundles.reloaded(&reload)).await;
                paid.and_then(Result::err).map(|error| Chain(&error).to_string())
            }
        };
        copies.debts.pay(&node, owed, "its copy of the certificate", paid).await;
        copies.debts.wait().await;
    }
}

async fn sources(node: &Node, copies: &Copies) -> Option<Sources> {
    let settings = node.puppet_settings().await;
    let now = settings.as_ref().err();
    let now = now.map(|error| format!("where the certificate is, is not known: {}", Chain(error)));
    let mut trouble = copies.trouble();
    if let Some(why) = now.as_ref().filter(|now| trouble.as_ref() != Some(now)) {
        tracing::warn!("{why}");
    }
    *trouble = now;
    let settings = settings.ok()?;
    Some(Sources { certificate: settings.hostcert, key: settings.hostprivkey, ca: settings.localcacert })
}

/// `None`: it panicked, which is in the log.
async fn on_bundles<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&mut Bundles) -> T + Send + 'static,
) -> Option<T> {
    let node = node.clone();
    let worked = tokio::task::spawn_blocking(move || {
        let copies = node.copies.as_ref()?;
        let mut bundles = copies.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut bundles);
        *copies.told() = (bundles.owed().clone(), bundles.reloads());
        Some(done)
    });
    worked.await.ok().flatten()
}
