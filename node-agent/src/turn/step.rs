//! An order of a turn, and what comes of it.

use std::fmt;

use bunraku_common::hint;
use bunraku_proto::v1::{self, turn_reply::Outcome};
use serde::{Deserialize, Serialize};

use super::action::Action;

/// What is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Prepare {
        action: Action,
        consent: Consent,
        /// A catalog is compiled for it; empty: none is.
        certname: String,
    },
    /// Puppet's own agent is to rest.
    Hold {
        owner: String,
    },
    Release,
    Act(Action),
    /// Back to what was before the action.
    Revert(Action),
    Verify {
        /// What must be so by now; `None`: nothing of it need be.
        action: Option<Action>,
        /// On the way back: what was before it must be so.
        back: bool,
        certname: String,
    },
}

/// What whoever started the rollout has said yes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Consent {
    /// A package may become older.
    pub downgrade: bool,
    /// It may be done though there is no way back.
    pub no_revert: bool,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
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
    pub(super) fn unchanged(reason: impl fmt::Display) -> Self {
        Self::Failed { reason: reason.to_string(), unchanged: true }
    }

    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Done(text) | Self::GoingOn(text) | Self::Failed { reason: text, .. } => text,
        }
    }

    pub(super) fn changed(reason: impl fmt::Display) -> Self {
        Self::Failed { reason: reason.to_string(), unchanged: false }
    }

    pub(super) fn wire(self) -> v1::TurnReply {
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

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare { action, .. } => write!(f, "the check before {action}"),
            Self::Hold { .. } => f.write_str("the rest of Puppet's agent"),
            Self::Release => f.write_str("the release of Puppet's agent"),
            Self::Act(action) => action.fmt(f),
            Self::Revert(action) => write!(f, "the way back from {action}"),
            Self::Verify { .. } => f.write_str("the check of Puppet Server"),
        }
    }
}
