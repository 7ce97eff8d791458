//! A fact changes a rollout. Total, as all of `apply`.

use std::collections::BTreeSet;

use bunraku_common::{Generation, NodeName};

use super::{
    Action, Retreat, Rollout, RolloutId, RolloutOutcome, RolloutPhase, RolloutPolicy, Turn, TurnPhase, Wave,
};
use crate::{Millis, State};

/// Ended rollouts that are remembered in the state; the journal keeps more.
const ENDED_KEPT: usize = 50;

/// More orders of turns than one backup is ever older than the next.
const LOST_NUMBERS: u64 = 1 << 24;

impl State {
    #[expect(clippy::too_many_arguments, reason = "they are the fields of one fact")]
    pub(crate) fn rollout_started(
        &mut self,
        id: RolloutId,
        action: &Action,
        policy: &RolloutPolicy,
        waves: &[Wave],
        undrained: &BTreeSet<NodeName>,
        who: &str,
        at: Millis,
    ) {
        self.last_rollout = self.last_rollout.max(id);
        let turn = Turn {
            phase: TurnPhase::Waiting,
            since: at,
            generation: Generation::default(),
            retreat: None,
            verdict: None,
        };
        let nodes = waves.iter().flat_map(|wave| &wave.nodes);
        let rollout = Rollout {
            id,
            action: action.clone(),
            policy: policy.clone(),
            who: who.to_owned(),
            requested_at: at,
            waves: waves.to_vec(),
            undrained: undrained.clone(),
            turns: nodes.map(|node| (node.clone(), turn.clone())).collect(),
            phase: RolloutPhase::Running,
            wanted: None,
        };
        self.renewal_begins(&rollout);
        self.certificates.installing(&rollout, at);
        self.rollouts.insert(id, rollout);
    }

    /// A failed turn halts its rollout: both are one fact.
    pub(crate) fn turn_moved(
        &mut self,
        id: RolloutId,
        node: &NodeName,
        to: TurnPhase,
        generation: Generation,
        retreat: Option<&Retreat>,
        at: Millis,
    ) {
        self.last_turn = self.last_turn.max(generation);
        if to == TurnPhase::Settling {
            self.puppet_held.insert(node.clone(), generation);
        } else if let Some(held) = self.puppet_held.get_mut(node) {
            // Whatever ends the hold must be newer than every order of the turn.
            *held = generation;
        }
        self.renewed(id, node, to, retreat);
        let Some(rollout) = self.rollouts.get_mut(&id).filter(|rollout| !rollout.is_ended()) else {
            return;
        };
        let known = rollout.turns.get(node).and_then(|turn| turn.verdict.clone());
        let verdict = known.filter(|_| to != TurnPhase::Waiting);
        let turn = Turn { phase: to, since: at, generation, retreat: retreat.cloned(), verdict };
        rollout.turns.insert(node.clone(), turn);
        if to == TurnPhase::Failed && rollout.phase == RolloutPhase::Running {
            let why = retreat.map_or("", |retreat| retreat.reason.as_str());
            rollout.phase = RolloutPhase::Paused { reason: format!("{node} failed: {why}"), since: at };
        }
    }

    pub(crate) fn rollout_retargeted(&mut self, id: RolloutId, action: &Action) {
        if let Some(rollout) = self.rollouts.get_mut(&id).filter(|rollout| !rollout.is_ended()) {
            rollout.wanted = (rollout.action != *action).then(|| action.clone());
        }
    }

    pub(crate) fn rollout_aimed(&mut self, id: RolloutId, at: Millis) {
        let Some(rollout) = self.rollouts.get_mut(&id).filter(|rollout| !rollout.is_ended()) else {
            return;
        };
        let Some(action) = rollout.wanted.take() else { return };
        rollout.action = action;
        for turn in rollout.turns.values_mut().filter(|turn| turn.phase == TurnPhase::Done) {
            (turn.phase, turn.since, turn.retreat) = (TurnPhase::Waiting, at, None);
            turn.verdict = None;
        }
    }

    pub(crate) fn rollout_phase(&mut self, id: RolloutId, to: RolloutPhase) {
        if let Some(rollout) = self.rollouts.get_mut(&id).filter(|rollout| !rollout.is_ended()) {
            rollout.phase = to;
        }
        let ended = self.rollouts.values().filter(|rollout| rollout.is_ended()).map(|rollout| rollout.id);
        let ended: Vec<RolloutId> = ended.collect();
        for old in &ended[..ended.len().saturating_sub(ENDED_KEPT)] {
            self.rollouts.remove(old);
        }
    }

    /// Nothing goes on until somebody asks. Nodes know an order of a turn by its number: those that a journal gave which
    /// is lost must not be given again.
    pub(crate) fn take_over_rollouts(&mut self, reason: &str, at: Millis) {
        self.last_turn.0 = self.last_turn.0.saturating_add(LOST_NUMBERS);
        let reason = format!("the controller took over: {reason}");
        let ended = RolloutPhase::Ended { outcome: RolloutOutcome::Aborted { reason }, at };
        let ids: Vec<RolloutId> = self.rollouts.keys().copied().collect();
        ids.into_iter().for_each(|id| self.rollout_phase(id, ended.clone()));
    }
}
