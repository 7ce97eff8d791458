//! What this host keeps of copies of the certificate.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bunraku_common::hint;
use bunraku_files::Reload;
use bunraku_host_certificate::Bundles;
use bunraku_puppetserver::doctor::{Finding, Severity};

use super::grants::granted;
use crate::{config::Config, error::AgentError, reload::Debts};

/// The copies that this host's configuration grants.
#[derive(Debug)]
pub(crate) struct Copies {
    /// Held while files are read, written and synced: only [`on_bundles`](super::bundles) takes it.
    pub(super) bundles: Mutex<Bundles>,
    pub(super) paths: Vec<PathBuf>,
    /// As it was after the last look.
    pub(super) told: Mutex<(BTreeMap<PathBuf, String>, Vec<Reload>)>,
    /// Why it is not known where the sources are.
    trouble: Mutex<Option<String>>,
    pub(super) debts: Debts,
}

impl Copies {
    /// `None`: there are none to keep.
    pub(crate) fn open(config: &Config) -> Result<Option<Self>, AgentError> {
        let granted = granted(config).map_err(AgentError::Certificates)?;
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
            debts: Debts::of(config.bundles.iter().filter_map(|bundle| bundle.restart.clone())),
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

    pub(super) fn told(&self) -> MutexGuard<'_, (BTreeMap<PathBuf, String>, Vec<Reload>)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
