//! What is known of one environment, whoever serves it.

use std::collections::BTreeSet;

use bunraku_common::{Digest, Generation, NodeName};
use serde::{Deserialize, Serialize};

use crate::{DeployId, Millis};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub branch: String,
    /// The number of the newest decision: raised when staging starts and again when a staging is abandoned. Each
    /// number stands for exactly one snapshot, so that a late order can be told from a newer one.
    pub generation: Generation,
    pub committed: Option<Committed>,
    pub held: Option<Held>,
    /// Committed snapshots that can be rolled back to, newest first.
    pub retained: Vec<Retained>,
    /// Building, staging or committing.
    pub active: Option<DeployId>,
    /// The one deploy that comes next: the newest accepted request.
    pub next: Option<DeployId>,
    /// The one plan that comes after it. A plan moves nothing, so it never takes a deploy's place.
    pub next_plan: Option<DeployId>,
    /// What an abandoned deploy left staged.
    pub discard: Option<Discard>,
    /// After a takeover the nodes know better: nobody is brought to `committed` until a deploy is committed again.
    pub adopting: bool,
}

/// The snapshot that every compiler should serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    pub snapshot: Digest,
    /// Of the decision. A proof of an earlier generation proves nothing, even of the same snapshot.
    pub generation: Generation,
    pub at: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub who: String,
    pub why: String,
    pub since: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    pub snapshot: Digest,
    pub commit: Option<String>,
    pub who: String,
    /// The deploy that built it.
    pub deploy: DeployId,
    pub committed_at: Millis,
    /// [`Built::stale_ruby`](crate::Built), against what was committed before it.
    #[serde(default)]
    pub stale_ruby: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    pub snapshot: Digest,
    pub nodes: BTreeSet<NodeName>,
    pub until: Millis,
}

impl Environment {
    pub(crate) fn new(branch: String) -> Self {
        Self {
            branch,
            generation: Generation::default(),
            committed: None,
            held: None,
            retained: Vec::new(),
            active: None,
            next: None,
            next_plan: None,
            discard: None,
            adopting: false,
        }
    }

    /// Whether nodes should keep this snapshot, staged or not.
    pub(crate) fn needs(&self, snapshot: &Digest) -> bool {
        let committed = self.committed.as_ref().is_some_and(|committed| committed.snapshot == *snapshot);
        committed || self.retained.iter().any(|kept| kept.snapshot == *snapshot)
    }

    /// The snapshot that a rollback without a target means: the one before the live one.
    pub(crate) fn before_committed(&self) -> Option<&Retained> {
        let live = self.committed.as_ref()?.snapshot;
        match self.retained.iter().position(|kept| kept.snapshot == live) {
            Some(at) => self.retained.get(at + 1),
            // An adopted snapshot that this controller never committed: the newest one it did.
            None => self.retained.first(),
        }
    }
}
