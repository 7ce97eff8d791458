//! What this node keeps of CRLs, and what it tells of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bunraku_common::hint;
use bunraku_crl::{Keeper, Reload, Seen};
use bunraku_proto::v1;
use bunraku_puppetserver::doctor::{Finding, Severity};

use super::grants::{Granted, granted};
use crate::{config::Config, error::AgentError, reload::Debts};

/// What this node keeps of CRLs.
#[derive(Debug)]
pub(crate) struct Crl {
    /// Held while files are read, written and synced: only [`on_keeper`](super::on_disk::on_keeper) takes it.
    pub(super) keeper: Mutex<Keeper>,
    /// As it was after the last work of the keeper. A disk that hangs must not keep the node from being observed.
    pub(super) told: Mutex<(Seen, Vec<Reload>)>,
    /// Whether Puppet Server's own file is among the files.
    pub(super) puppetserver: bool,
    pub(super) files: Vec<Granted>,
    /// Why it is not known where the files are.
    pub(super) trouble: Mutex<Option<String>>,
    pub(super) debts: Debts,
    /// One proof at a time: each asks Puppet Server twenty times a second.
    pub(super) proving: tokio::sync::Mutex<()>,
}

impl Crl {
    /// `None`: nothing is granted.
    pub(crate) fn open(config: &Config) -> Result<Option<Self>, AgentError> {
        let files = granted(config).map_err(AgentError::Crl)?;
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
            debts: Debts::of(config.crl.files.iter().filter_map(|file| file.restart.clone())),
            proving: tokio::sync::Mutex::default(),
        }))
    }

    pub(super) fn told(&self) -> MutexGuard<'_, (Seen, Vec<Reload>)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is told to the controller.
    pub(crate) fn seen(&self) -> v1::CrlOnNode {
        let (Seen { digest, fence, written_ms, .. }, _) = self.told().clone();
        v1::CrlOnNode {
            digest: digest.map(|digest| digest.to_string()).unwrap_or_default(),
            term: fence.map(|fence| fence.term.into()),
            generation: fence.map_or(0, |fence| fence.generation.0),
            provable: self.puppetserver,
            owed: self.owed(),
            unread: self.unread(),
            written_ms,
        }
    }

    /// For the doctor.
    pub(crate) fn finding(&self) -> Finding {
        let all = [self.owed(), self.unread()].into_iter().filter(|why| !why.is_empty());
        let (found, mend) = hint::split(&all.collect::<Vec<_>>().join("; "));
        let (severity, found) = match found.as_str() {
            "" => (Severity::Ok, "every file of CRLs is as it should be".to_owned()),
            _ => (Severity::Error, found),
        };
        Finding { check: "crl-files", severity, found, mend, fix: None }
    }

    /// Which file is not as it should be.
    fn owed(&self) -> String {
        let (Seen { owed: files, .. }, _) = self.told().clone();
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let owed: Vec<String> = trouble.into_iter().chain((!files.is_empty()).then_some(files)).collect();
        owed.join("; ")
    }

    /// Which service has not read its file since it changed.
    fn unread(&self) -> String {
        let (_, reloads) = self.told().clone();
        let unread: Vec<String> = reloads.iter().map(|reload| self.debts.why(&reload.service)).collect();
        unread.join("; ")
    }
}
