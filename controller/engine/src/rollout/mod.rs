//! A rollout: change compilers in waves, each one drained, changed, verified and enabled. A value; `apply` moves it,
//! `turn` says when, and a node's part in it is its [`Turn`].

mod action;
mod answers;
mod apply;
mod decide;
mod seen;
mod steps;
mod turn;
mod verdict;
mod waiting;
pub mod waves;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bunraku_common::{Generation, NodeName};
use serde::{Deserialize, Serialize};

pub use self::{
    action::Action,
    verdict::{Says, Trial, Verdict},
    waiting::Waits,
    waves::{Ask, Block, Plan, Wave},
};
use crate::Millis;

/// Names a rollout; numbered from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default, Hash)]
#[serde(transparent)]
pub struct RolloutId(pub u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    pub id: RolloutId,
    pub action: Action,
    pub policy: RolloutPolicy,
    pub who: String,
    pub requested_at: Millis,
    pub waves: Vec<Wave>,
    /// Compilers in no backend: changed without a drain.
    pub undrained: BTreeSet<NodeName>,
    pub turns: BTreeMap<NodeName, Turn>,
    pub phase: RolloutPhase,
    /// What it is to do as soon as no turn is under way; no turn begins before.
    #[serde(default)]
    pub wanted: Option<Action>,
}

/// The numbers that whoever starts a rollout may choose. Times are in milliseconds of controller time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutPolicy {
    /// Compilers of the first wave.
    pub canary: usize,
    pub batch: Batch,
    /// Compilers that must stay in service in each backend; the larger of this and the balancer's own floor rules.
    pub min_available: u32,
    pub drain_deadline: Millis,
    pub on_drain_deadline: OnDrainDeadline,
    /// How long a compiler must stay in service after it was enabled.
    pub bake: Millis,
    /// Where too little was compiled for a verdict by then, it is waited for until here; a shorter time means `bake`.
    pub bake_max: Millis,
    /// Whether the numbers of the compiler decide, too.
    pub judged_by: JudgedBy,
    pub on_inconclusive: OnInconclusive,
    /// For everything else that a node is asked: from the beginning of a phase until it counts as failed.
    pub phase_deadline: Millis,
    /// A compiler on which the action failed is brought back to what was before, where the action can be undone. What
    /// cannot be brought back is refused before the drain, then.
    pub revert: bool,
    /// A package may become older.
    pub downgrade: bool,
    /// A catalog is compiled for this certname before a compiler is enabled; empty: none is.
    pub test_catalog: String,
}

/// Compilers of each wave after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Batch {
    Count(usize),
    /// Of all compilers of the rollout, rounded down; at least one.
    Percent(usize),
}

/// What becomes of a compiler that is still busy at the drain's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDrainDeadline {
    /// It is enabled again, unchanged, and the rollout halts.
    Abort,
    /// It is changed all the same; who still talks to it is cut off.
    Force,
}

/// What a compiler's bake is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JudgedBy {
    /// It stays in service.
    Health,
    /// It stays in service, and does not fare worse than the others over the same time.
    Siblings,
}

/// What becomes of a rollout when nothing can be said of a compiler's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnInconclusive {
    Pause,
    /// It goes on, and that nothing could be said is recorded.
    Continue,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum RolloutPhase {
    Running,
    /// No turn begins; those under way are finished.
    Paused {
        reason: String,
        since: Millis,
    },
    /// No turn begins; those under way are brought back as soon as that is safe.
    Aborting {
        reason: String,
    },
    Ended {
        outcome: RolloutOutcome,
        at: Millis,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum RolloutOutcome {
    Done,
    /// It went on to its end over failed turns.
    Incomplete {
        failed: BTreeSet<NodeName>,
    },
    Aborted {
        reason: String,
    },
}

/// One compiler's part in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub phase: TurnPhase,
    pub since: Millis,
    /// Of the orders of this phase.
    pub generation: Generation,
    /// It is on its way back: how it ends then.
    pub retreat: Option<Retreat>,
    /// What its numbers said while it baked, if they were asked.
    #[serde(default)]
    pub verdict: Option<Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TurnPhase {
    Waiting,
    /// What can be checked before the drain is checked.
    Preparing,
    /// Its own Puppet agent is to be at rest, and stay so.
    Settling,
    Draining,
    /// By force: the balancers are told to close the sessions that are left.
    Closing,
    Acting,
    /// What was before the action is brought back.
    Reverting,
    Verifying,
    /// Ready is told to the balancers, and it is watched coming into service.
    Enabling,
    /// Its own Puppet agent may run again.
    Releasing,
    Baking,
    Done,
    /// It ended as its retreat says.
    Failed,
    Skipped,
}

/// Why a turn goes back, and how it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retreat {
    pub reason: String,
    /// Nothing failed: it was asked for.
    pub skip: bool,
}

impl Default for RolloutPolicy {
    fn default() -> Self {
        const MINUTE: Millis = 60_000;
        Self {
            canary: 1,
            batch: Batch::Count(1),
            min_available: 0,
            drain_deadline: 10 * MINUTE,
            on_drain_deadline: OnDrainDeadline::Abort,
            bake: MINUTE / 2,
            bake_max: 10 * MINUTE,
            judged_by: JudgedBy::Health,
            on_inconclusive: OnInconclusive::Pause,
            phase_deadline: 10 * MINUTE,
            revert: true,
            downgrade: false,
            test_catalog: String::new(),
        }
    }
}

impl RolloutPolicy {
    /// How long a bake lasts at most.
    pub(crate) fn longest_bake(&self) -> Millis {
        match self.judged_by {
            JudgedBy::Health => self.bake,
            JudgedBy::Siblings => self.bake.max(self.bake_max),
        }
    }
}

impl Rollout {
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, RolloutPhase::Ended { .. })
    }

    /// As people and the wire see it.
    pub fn phase_name(&self) -> &'static str {
        match &self.phase {
            RolloutPhase::Running => "running",
            RolloutPhase::Paused { .. } => "paused",
            RolloutPhase::Aborting { .. } => "aborting",
            RolloutPhase::Ended { outcome, .. } => outcome.name(),
        }
    }

    /// The wave whose turn it is: the first that has not ended.
    pub fn wave(&self) -> Option<(usize, &Wave)> {
        let open = |node: &NodeName| self.turns.get(node).is_some_and(|turn| !turn.phase.is_over());
        self.waves.iter().enumerate().find(|(_, wave)| wave.nodes.iter().any(open))
    }

    /// How turns end while it is being aborted.
    pub(crate) fn retreat(&self) -> Option<Retreat> {
        match &self.phase {
            RolloutPhase::Aborting { reason } => {
                Some(Retreat { reason: format!("aborted by {reason}"), skip: true })
            }
            RolloutPhase::Running | RolloutPhase::Paused { .. } | RolloutPhase::Ended { .. } => None,
        }
    }

    /// Whether anything is being done to a compiler, or watched after it was done.
    pub(crate) fn is_under_way(&self) -> bool {
        self.turns.values().any(|turn| turn.phase != TurnPhase::Waiting && !turn.phase.is_over())
    }

    /// Whether a compiler whose action failed is brought back.
    pub(crate) fn reverts(&self) -> bool {
        self.policy.revert && self.action.is_revertible()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.turns.values().any(|turn| turn.phase == TurnPhase::Failed)
    }
}

impl Turn {
    /// Why it goes back; empty: it does not.
    pub(crate) fn reason(&self) -> &str {
        self.retreat.as_ref().map_or("", |retreat| retreat.reason.as_str())
    }

    /// What was done is to be undone because of its verdict, which takes another drain.
    pub(crate) fn goes_back(&self) -> bool {
        self.retreat.is_some() && self.verdict.as_ref().is_some_and(|verdict| verdict.says == Says::Fail)
    }
}

impl RolloutOutcome {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Incomplete { .. } => "incomplete",
            Self::Aborted { .. } => "aborted",
        }
    }
}

impl TurnPhase {
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Skipped)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Preparing => "preparing",
            Self::Settling => "settling",
            Self::Draining => "draining",
            Self::Closing => "closing",
            Self::Acting => "acting",
            Self::Reverting => "reverting",
            Self::Verifying => "verifying",
            Self::Enabling => "enabling",
            Self::Releasing => "releasing",
            Self::Baking => "baking",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "R{}", self.0)
    }
}
