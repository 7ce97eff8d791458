//! What every open turn waits for, until when, and what comes then: for people.

use bunraku_common::NodeName;

use super::{
    OnDrainDeadline, OnInconclusive, Rollout, RolloutId, RolloutPhase, Turn, TurnPhase,
    verdict::{bake_began, bake_ends},
};
use crate::{Millis, Presence, State, deploy::span};

/// What an open turn waits for, until when, and what comes then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Begins with "for" or "to".
    pub what: String,
    /// `None`: for as long as it takes.
    pub until: Option<Millis>,
    /// Empty where there is no end.
    pub then: String,
}

impl State {
    /// What a rollout waits for: one line for itself where it halted, and one for each turn under way. Empty once it
    /// has ended.
    pub fn rollout_waiting(&self, id: RolloutId, presence: &Presence, now: Millis) -> Vec<String> {
        let Some(rollout) = self.rollouts.get(&id).filter(|rollout| !rollout.is_ended()) else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        if let RolloutPhase::Paused { reason, .. } = &rollout.phase {
            lines.push(format!(
                "paused ({reason}): for `bunraku rollout resume {id}`, `retry`, `skip` or `abort`, without a limit; \
                 turns under way are finished, none begins"
            ));
        }
        for node in rollout.turns.keys() {
            if let Some(Waits { what, until, then }) = self.turn_waits(rollout, node, presence, now) {
                let end =
                    until.map(|until| format!(", at most {}; then {then}", span(until.saturating_sub(now))));
                lines.push(format!("{node}: {what}{}", end.unwrap_or_default()));
            }
        }
        lines
    }

    /// What this node's turn waits for. `None`: it has not begun, or is over and nothing is left of it.
    pub fn turn_waits(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        presence: &Presence,
        now: Millis,
    ) -> Option<Waits> {
        let turn = rollout.turns.get(node)?;
        let id = rollout.id;
        let (what, then) = match turn.phase {
            TurnPhase::Waiting | TurnPhase::Done | TurnPhase::Skipped => return None,
            TurnPhase::Failed => {
                let what = format!(
                    "for a decision (`bunraku rollout retry {id} {node}`, `skip` or `abort`): {}",
                    turn.reason()
                );
                let waits = Waits { what, until: None, then: String::new() };
                return self.is_drained_by(rollout, node).then_some(waits);
            }
            TurnPhase::Preparing => ("for its checks".to_owned(), "the turn fails, nothing was changed"),
            TurnPhase::Settling if turn.goes_back() => (
                "for its own Puppet agent to be disabled".to_owned(),
                "it stays as it is and the rollout halts",
            ),
            TurnPhase::Settling => {
                let run = presence.idle(node).and_then(|idle| idle.run_since);
                let what = match run {
                    Some(_) => "for the Puppet run that is going on there",
                    None => "for its own Puppet agent to be disabled",
                };
                (what.to_owned(), "the turn fails, nothing was changed")
            }
            TurnPhase::Draining => {
                let then = match rollout.policy.on_drain_deadline {
                    OnDrainDeadline::Abort if turn.goes_back() => {
                        "it is enabled as it is, and the rollout halts"
                    }
                    OnDrainDeadline::Abort => "it is enabled again, unchanged, and the rollout halts",
                    OnDrainDeadline::Force => "its sessions are closed, if it is drained, and it is changed",
                };
                (self.drain_waiting(rollout, node, presence, now), then)
            }
            TurnPhase::Closing => (
                format!("for its sessions to be closed: {}", self.busy_or_unseen(node, presence, now)),
                "it is changed all the same, if it is drained",
            ),
            TurnPhase::Acting | TurnPhase::Reverting
                if self.turn_is_blocked(rollout, node, presence, now) =>
            {
                (
                    "for the balancers to show it drained again".to_owned(),
                    "it stays drained and the rollout halts",
                )
            }
            TurnPhase::Acting if rollout.reverts() => (
                format!("for the end of its {}", rollout.action.name()),
                "what was before is brought back and the rollout halts",
            ),
            TurnPhase::Acting => (
                format!("for the end of its {}", rollout.action.name()),
                "it stays drained and the rollout halts",
            ),
            TurnPhase::Reverting => (
                "for what was before to be brought back".to_owned(),
                "it stays drained and the rollout halts",
            ),
            TurnPhase::Verifying if turn.retreat.is_none() && rollout.reverts() => {
                (self.verify_waiting(node), "what was before is brought back and the rollout halts")
            }
            TurnPhase::Verifying => (self.verify_waiting(node), "it stays drained and the rollout halts"),
            TurnPhase::Enabling => ("to come into service".to_owned(), "the rollout halts"),
            TurnPhase::Releasing => {
                ("for its own Puppet agent to be enabled".to_owned(), "the turn ends, and it is asked on")
            }
            TurnPhase::Baking if let Some(waits) = self.bake_waits(rollout, node, turn, presence, now) => {
                return Some(waits);
            }
            TurnPhase::Baking => {
                let sessions = self.sight(presence, now).map_or(0, |sight| sight.sessions(node));
                let traffic = match sessions {
                    0 => "nobody is there at this moment".to_owned(),
                    1 => "1 session at this moment".to_owned(),
                    more => format!("{more} sessions at this moment"),
                };
                return Some(Waits {
                    what: format!("for the end of its bake, and must stay in service ({traffic})"),
                    until: Some(bake_ends(rollout, turn, presence)),
                    then: "its turn is done".to_owned(),
                });
            }
        };
        let back = turn
            .retreat
            .as_ref()
            .map_or(String::new(), |retreat| format!(" (on its way back: {})", retreat.reason));
        let until = self.turn_deadline(rollout, node, turn, presence);
        Some(Waits { what, until, then: format!("{then}{back}") })
    }

    /// Of one whose bake is over but for the verdict.
    fn bake_waits(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        turn: &Turn,
        presence: &Presence,
        now: Millis,
    ) -> Option<Waits> {
        let began = bake_began(turn, presence);
        if !rollout.is_on_trial(turn) || now < began.saturating_add(rollout.policy.bake) {
            return None;
        }
        let verdict = self.verdict_so_far(rollout, node, turn, presence, now);
        let then = match rollout.policy.on_inconclusive {
            OnInconclusive::Pause => "its turn is done as inconclusive, and the rollout is paused",
            OnInconclusive::Continue => "its turn is done as inconclusive, and the rollout goes on",
        };
        let until = Some(began.saturating_add(rollout.policy.longest_bake()));
        Some(Waits { what: format!("for a verdict: {}", verdict.why), until, then: then.to_owned() })
    }

    /// What the node itself says of it stands beside.
    fn verify_waiting(&self, node: &NodeName) -> String {
        match self.unserved(node) {
            why if why.is_empty() => "to be healthy and proven".to_owned(),
            why => format!("to be healthy and proven: {why}"),
        }
    }

    fn drain_waiting(&self, rollout: &Rollout, node: &NodeName, presence: &Presence, now: Millis) -> String {
        if self.is_out_for(rollout, node) {
            return format!("to be empty: {}", self.busy_or_unseen(node, presence, now));
        }
        let again = rollout.turns.get(node).and_then(|turn| self.undone_in(turn, node));
        if let Some((why, Some(at))) = again.filter(|(_, at)| at.is_some_and(|at| now < at)) {
            return format!("to be drained, again in {}: {why}", span(at.saturating_sub(now)));
        }
        let owner = crate::DrainOwner::Rollout(rollout.id);
        let action = rollout.action.to_string();
        match self.drain(node, owner, &action, rollout.policy.min_available, presence, now) {
            Ok(_) => "to be drained".to_owned(),
            Err(why) => format!("to be drained: {}", why.reason),
        }
    }

    pub(crate) fn busy_or_unseen(&self, node: &NodeName, presence: &Presence, now: Millis) -> String {
        self.busy(node, presence, now).unwrap_or_else(|| "not every balancer is seen".to_owned())
    }

    fn turn_is_blocked(&self, rollout: &Rollout, node: &NodeName, presence: &Presence, now: Millis) -> bool {
        !rollout.undrained.contains(node) && !self.is_out(node, presence, now)
    }

    pub fn rollouts(&self) -> &std::collections::BTreeMap<RolloutId, Rollout> {
        &self.rollouts
    }

    pub fn rollout(&self, id: RolloutId) -> Option<&Rollout> {
        self.rollouts.get(&id)
    }
}
