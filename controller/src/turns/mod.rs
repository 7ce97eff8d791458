//! What compilers say while their turns in a rollout go on: whether anybody is still served there, and what they are at.
//! Observations: bounded, shown to people, handed to the driver where the engine needs them, and never journalled.

pub(crate) mod report;
mod trial;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bunraku_common::{Generation, NodeName};
use bunraku_engine::{RolloutId, Turn, TurnPhase};
use bunraku_proto::v1::IdleReply;

use crate::clock::wall_ms;

/// What a compiler could not tell so long ago is not shown any more.
const STALE_MS: u64 = 10_000;
/// Of one compiler.
const NOTES: usize = 8;

/// The newest words of each compiler about its turn.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    said: Mutex<BTreeMap<NodeName, Said>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// What the newest answer to an order is about.
    generation: Generation,
    what: String,
    /// What an operator should know though it went well.
    notes: Vec<(RolloutId, String)>,
    /// The newest answer about who is served, and when it came; `Err`: why it is not to be trusted.
    idle: Option<(u64, Result<IdleReply, String>)>,
}

impl Said {
    /// What the node says of this phase: its answer to the order, or why it cannot tell whether it is idle.
    fn about(&self, turn: &Turn) -> String {
        let fresh = |at_ms: u64| wall_ms().saturating_sub(at_ms) < STALE_MS;
        if self.generation == turn.generation && !self.what.is_empty() {
            return self.what.clone();
        }
        match &self.idle {
            Some((at_ms, Err(why)))
                if matches!(turn.phase, TurnPhase::Draining | TurnPhase::Closing) && fresh(*at_ms) =>
            {
                format!("whether it is idle is not known: {why}")
            }
            Some(_) | None => String::new(),
        }
    }

    fn notes_of(&self, rollout: RolloutId) -> Vec<String> {
        self.notes.iter().filter(|(of, _)| *of == rollout).map(|(_, note)| note.clone()).collect()
    }
}

impl Turns {
    /// A node goes on with what this order asked for, or says why not. Empty: nothing to tell any more.
    pub(crate) fn heard(&self, node: &NodeName, generation: Generation, what: String) {
        let mut said = lock(&self.said);
        let said = said.entry(node.clone()).or_default();
        (said.generation, said.what) = (generation, what);
    }

    pub(crate) fn noted(&self, node: &NodeName, rollout: RolloutId, note: String) {
        let mut said = lock(&self.said);
        let notes = &mut said.entry(node.clone()).or_default().notes;
        let note = (rollout, note);
        if notes.len() < NOTES && !notes.contains(&note) {
            notes.push(note);
        }
    }

    pub(crate) fn said(&self, node: &NodeName) -> Said {
        lock(&self.said).get(node).cloned().unwrap_or_default()
    }
}

pub(crate) const TOO_OLD: &str = "its node agent does not know the orders of a rollout (hint: install the version of the controller there)";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
