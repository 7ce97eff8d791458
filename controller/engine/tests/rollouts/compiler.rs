//! A model of a compiler's node agent: what it remembers of the orders of its turn, and Puppet Server beside it.

use std::collections::BTreeSet;

use bunraku_common::{Fence, Generation, NodeName};
use bunraku_engine::{Health, IdleView, Step};

#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    pub(crate) name: NodeName,
    pub(crate) idle: IdleView,
    /// Puppet Server serves.
    pub(crate) up: bool,
    /// It does not come up after the next restart.
    pub(crate) breaks: bool,
    pub(crate) refuses_to_prepare: bool,
    pub(crate) cannot_stage: bool,
    /// The restart fails; whether Puppet Server is as it was.
    pub(crate) cannot_act: Option<bool>,
    /// Nor can what was before be brought back.
    pub(crate) cannot_revert: bool,
    /// By us.
    pub(crate) puppet_disabled: bool,
    /// A run of its own Puppet agent goes on.
    pub(crate) puppet_runs: bool,
    /// Restarts that were really made.
    pub(crate) restarts: usize,
    /// Times that what was before was really brought back.
    pub(crate) reverts: usize,
    /// What comes to its counts between two looks.
    pub(crate) fares: Health,
    pub(crate) counted: Health,
    acted: BTreeSet<(u64, Generation)>,
    fence: Option<Fence>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    Done,
    Failed {
        reason: String,
        unchanged: bool,
    },
    /// Not yet: ask again.
    Waits,
    /// It has seen a newer order.
    Stale,
}

impl Compiler {
    pub(crate) fn new(name: NodeName) -> Self {
        Self {
            name,
            idle: IdleView { jrubies: 2, jrubies_free: 2, ..IdleView::default() },
            up: true,
            breaks: false,
            refuses_to_prepare: false,
            cannot_stage: false,
            cannot_act: None,
            cannot_revert: false,
            puppet_disabled: false,
            puppet_runs: false,
            restarts: 0,
            reverts: 0,
            fares: Health::default(),
            counted: Health::default(),
            acted: BTreeSet::new(),
            fence: None,
        }
    }

    /// Agents ask for catalogs, all of which take a tenth of a second; some of the answers are errors.
    pub(crate) fn carries(&mut self, catalogs: u64, failed: u64) {
        self.fares = Health { catalogs, catalog_ms: catalogs * 100, failed, borrow_timeouts: 0 };
    }

    /// What it has counted when it is asked.
    pub(crate) fn count(&mut self) -> Health {
        self.counted.add(&self.fares);
        self.counted
    }

    pub(crate) fn obey(&mut self, step: &Step, fence: Fence) -> Did {
        if self.fence.is_some_and(|seen| !seen.admits(&fence)) {
            return Did::Stale;
        }
        self.fence = Some(fence);
        match step {
            Step::Prepare { .. } if self.refuses_to_prepare => {
                Did::Failed { reason: "conf.d cannot be parsed".into(), unchanged: true }
            }
            Step::Prepare { .. } => Did::Done,
            Step::Settle { hold: true, .. } if self.puppet_runs => Did::Waits,
            Step::Settle { hold, .. } => {
                self.puppet_disabled = *hold;
                Did::Done
            }
            Step::Act { back: true, .. } if self.cannot_revert => {
                Did::Failed { reason: "the old package is gone".into(), unchanged: false }
            }
            Step::Act { back: true, generation, .. } => {
                if self.acted.insert((0, *generation)) {
                    self.reverts += 1;
                    self.up = true;
                }
                Did::Done
            }
            Step::Act { .. } if let Some(unchanged) = self.cannot_act => {
                self.up = unchanged;
                Did::Failed { reason: "the restart failed".into(), unchanged }
            }
            Step::Act { generation, .. } => {
                // The same order again, perhaps from the next process of the controller, is answered and not done.
                if self.acted.insert((0, *generation)) {
                    self.restarts += 1;
                    self.up = !self.breaks;
                }
                Did::Done
            }
            Step::Verify { .. } if self.up => Did::Done,
            Step::Verify { .. } => {
                Did::Failed { reason: "its Puppet Server is down".into(), unchanged: false }
            }
            other => panic!("no order to a compiler: {other:?}"),
        }
    }
}
