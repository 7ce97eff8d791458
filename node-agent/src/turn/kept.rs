//! What this node keeps for its turns: what its configuration grants, the order that is under way, and what is on record.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bunraku_common::Fence;
use bunraku_services::{Orders, Service, ServiceError, Services, order, puppet_agent::LockFiles};
use tokio::sync::watch;

use super::{
    counting::Counting,
    record::{Record, RecordError},
    step::{Answer, Step},
};
use crate::config::Config;

/// What this node keeps for its turns.
#[derive(Debug)]
pub(crate) struct Turns {
    pub(super) services: Services,
    pub(super) orders: Orders,
    record: Mutex<Record>,
    /// The newest order, also when it has ended.
    work: Mutex<Option<Work>>,
    /// Where Puppet's agent keeps its locks, with the time at which puppet.conf had last changed.
    pub(super) locks: tokio::sync::Mutex<Option<(Option<std::time::SystemTime>, LockFiles)>>,
    /// How Puppet Server fares, since somebody first asked.
    pub(super) counting: tokio::sync::Mutex<Option<Counting>>,
    pub(super) directory: PathBuf,
}

/// A step that a task of its own carries out.
#[derive(Debug)]
struct Work {
    fence: Fence,
    step: Step,
    answer: watch::Receiver<Option<Answer>>,
}

impl Work {
    /// A task that panicked has ended, too.
    fn goes_on(&self) -> bool {
        self.answer.borrow().is_none() && self.answer.has_changed().is_ok()
    }
}

impl Turns {
    pub(crate) fn open(config: &Config, data_dir: &Path) -> Result<Self, RecordError> {
        let directory = data_dir.join("turns");
        let record = Record::open(&directory)?;
        let launch: Box<dyn order::Launch> = match Path::new("/run/systemd/system").is_dir() {
            true => Box::new(order::TransientUnits),
            false => Box::new(order::Detached),
        };
        Ok(Self {
            services: Services::new(config.services.clone()),
            orders: Orders::new(directory.join("orders"), launch),
            record: Mutex::new(record),
            work: Mutex::default(),
            locks: tokio::sync::Mutex::default(),
            counting: tokio::sync::Mutex::default(),
            directory,
        })
    }

    /// One of `[services]`.
    pub(crate) fn service(&self, name: &str) -> Result<&dyn Service, ServiceError> {
        self.services.granted(name)
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to this step, that of a task that is under way or has done it, or of a new one. `Err`: what was
    /// ordered before is not over.
    pub(super) fn begin(
        &self,
        fence: Fence,
        step: Step,
        carried_out: impl Future<Output = Answer> + Send + 'static,
    ) -> Result<watch::Receiver<Option<Answer>>, String> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(work) = &*work {
            let same = work.fence.generation == fence.generation && work.step == step;
            match work.goes_on() {
                true if same => return Ok(work.answer.clone()),
                true => return Err(work.step.to_string()),
                false => {}
            }
        }
        let (sender, answer) = watch::channel(None);
        *work = Some(Work { fence, step: step.clone(), answer: answer.clone() });
        tokio::spawn(async move {
            let answer = carried_out.await;
            if let Answer::Failed { reason, .. } = &answer {
                tracing::warn!(%step, reason, "not done");
            }
            sender.send_replace(Some(answer));
        });
        Ok(answer)
    }
}
