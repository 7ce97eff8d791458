//! This compiler's turns in rollouts: what the controller orders, carried out by a task of the node's own. Whoever asked
//! may go away and ask again under the same order: it goes on, and once done its result is answered.

mod act;
mod action;
mod idle;
mod record;
mod rest;
mod verify;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bunraku_common::{Fence, hint};
use bunraku_proto::v1::{self, turn_reply::Outcome};
use bunraku_services::{Orders, Services, order, puppet_agent::LockFiles};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::record::{Record, RecordError};
pub(crate) use self::{action::Action, idle::idle};
use crate::{
    config::Config,
    node::{Compiler, Node},
};

/// An order is answered within this, if only that it goes on. The controller waits for 30 s.
const ANSWER: Duration = Duration::from_secs(15);

/// What this node keeps for its turns.
#[derive(Debug)]
pub(crate) struct Turns {
    services: Services,
    orders: Orders,
    record: Mutex<Record>,
    /// The newest order, also when it has ended.
    work: Mutex<Option<Work>>,
    /// Where Puppet's agent keeps its locks, with the time at which puppet.conf had last changed.
    locks: tokio::sync::Mutex<Option<(Option<std::time::SystemTime>, LockFiles)>>,
    directory: PathBuf,
}

/// What is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Prepare(Action),
    /// Puppet's own agent is to rest.
    Hold {
        owner: String,
    },
    Release,
    Act(Action),
    Verify {
        certname: String,
    },
}

/// A step that a task of its own carries out.
#[derive(Debug)]
struct Work {
    fence: Fence,
    step: Step,
    answer: watch::Receiver<Option<Answer>>,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// With what an operator should know though it went well.
    Done(String),
    /// What it waits for.
    GoingOn(String),
    Failed {
        reason: String,
        /// It serves as it did before the order.
        unchanged: bool,
    },
}

impl Answer {
    fn unchanged(reason: impl fmt::Display) -> Self {
        Self::Failed { reason: reason.to_string(), unchanged: true }
    }

    fn changed(reason: impl fmt::Display) -> Self {
        Self::Failed { reason: reason.to_string(), unchanged: false }
    }

    fn wire(self) -> v1::TurnReply {
        let outcome = match self {
            Self::Done(note) => Outcome::Done(v1::TurnDone { note }),
            Self::GoingOn(what) => Outcome::GoingOn(v1::TurnGoingOn { what }),
            Self::Failed { reason, unchanged } => {
                let (reason, hint) = hint::split(&reason);
                Outcome::Failed(v1::TurnFailed { reason, hint, unchanged })
            }
        };
        v1::TurnReply { outcome: Some(outcome) }
    }
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
            directory,
        })
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to this step, that of a task that is under way or has done it, or of a new one. `Err`: what was
    /// ordered before is not over.
    fn begin(
        &self,
        node: &Arc<Node>,
        fence: Fence,
        step: Step,
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
        let node = node.clone();
        tokio::spawn(async move {
            let answer = carry_out(&node, fence, &step).await;
            if let Answer::Failed { reason, .. } = &answer {
                tracing::warn!(%step, reason, "not done");
            }
            sender.send_replace(Some(answer));
        });
        Ok(answer)
    }
}

/// Carries a step out, or says how far it is.
pub(crate) async fn ask(node: &Arc<Node>, fence: Fence, step: Step) -> v1::TurnReply {
    let what = step.to_string();
    let mut answer = match node.turns.begin(node, fence, step) {
        Ok(answer) => answer,
        Err(before) => {
            return Answer::GoingOn(format!("{before}, ordered before, has not ended yet")).wire();
        }
    };
    let answered = tokio::time::timeout(ANSWER, answer.wait_for(Option::is_some)).await;
    let known = answered.ok().and_then(|known| known.ok()?.clone());
    known.unwrap_or(Answer::GoingOn(what)).wire()
}

async fn carry_out(node: &Node, fence: Fence, step: &Step) -> Answer {
    let Some(compiler) = &node.compiler else {
        return Answer::unchanged("this node's configuration grants no code");
    };
    match step {
        Step::Prepare(action) => action.prepare(node, compiler).await,
        Step::Hold { owner } => rest::hold(node, compiler, owner).await,
        Step::Release => rest::release(node, compiler).await,
        Step::Act(action) => act::once(node, compiler, fence, action).await,
        Step::Verify { certname } => verify::verify(node, compiler, certname).await,
    }
}

/// Why Puppet Server could not be addressed.
async fn server(
    node: &Node,
    compiler: &Compiler,
) -> Result<(bunraku_puppetserver::Settings, bunraku_puppetserver::PuppetServer), String> {
    let settings = node.settings(compiler).await;
    let settings = settings.map_err(|error| bunraku_common::Chain(&error).to_string())?;
    let server = node.server(&settings)?;
    Ok((settings, server))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare(action) => write!(f, "the check before {action}"),
            Self::Hold { .. } => f.write_str("the rest of Puppet's agent"),
            Self::Release => f.write_str("the release of Puppet's agent"),
            Self::Act(action) => action.fmt(f),
            Self::Verify { .. } => f.write_str("the check of Puppet Server"),
        }
    }
}
