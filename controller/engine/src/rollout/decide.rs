//! What people ask of a rollout: start, pause, resume, abort, retry a node, skip a node.

use bunraku_common::NodeName;

use super::{Ask, Retreat, Rollout, RolloutId, RolloutPhase, Turn, TurnPhase};
use crate::{Fact, Millis, Presence, Refusal, RefusalCode, State};

/// Rollouts that have not ended, at once.
const MOST: usize = 16;

impl State {
    pub(crate) fn rollout_asked(
        &self,
        ask: &Ask,
        who: &str,
        presence: &Presence,
        now: Millis,
    ) -> Result<Vec<Fact>, Refusal> {
        let plan = self.plan_rollout(ask, presence, now);
        if let Some(block) = plan.blocks.into_iter().next() {
            return Err(Refusal::new(RefusalCode::Conflict, block.reason, block.hint));
        }
        if self.rollouts.values().filter(|rollout| !rollout.is_ended()).count() >= MOST {
            let reason = format!("{MOST} rollouts have not ended yet");
            return Err(Refusal::new(RefusalCode::Conflict, reason, "bunraku rollout list"));
        }
        Ok(vec![Fact::RolloutStarted {
            rollout: RolloutId(self.last_rollout.0 + 1),
            action: ask.action.clone(),
            policy: ask.policy.clone(),
            waves: plan.waves,
            undrained: plan.undrained,
            who: who.to_owned(),
        }])
    }

    pub(crate) fn pause_asked(&self, id: RolloutId, reason: &str, who: &str) -> Result<Vec<Fact>, Refusal> {
        match &self.open_rollout(id)?.phase {
            RolloutPhase::Paused { .. } => Ok(Vec::new()),
            RolloutPhase::Running => {
                let reason = format!("{who}: {reason}");
                Ok(vec![Fact::RolloutPaused { rollout: id, reason }])
            }
            RolloutPhase::Aborting { .. } | RolloutPhase::Ended { .. } => Err(is_aborting(id)),
        }
    }

    pub(crate) fn resume_asked(&self, id: RolloutId, who: &str) -> Result<Vec<Fact>, Refusal> {
        match &self.open_rollout(id)?.phase {
            RolloutPhase::Running => Ok(Vec::new()),
            RolloutPhase::Paused { .. } => {
                Ok(vec![Fact::RolloutResumed { rollout: id, who: who.to_owned() }])
            }
            RolloutPhase::Aborting { .. } | RolloutPhase::Ended { .. } => Err(is_aborting(id)),
        }
    }

    /// Those that failed while they were drained get one more chance to be found healthy.
    pub(crate) fn abort_asked(&self, id: RolloutId, reason: &str, who: &str) -> Result<Vec<Fact>, Refusal> {
        let rollout = self.open_rollout(id)?;
        if matches!(rollout.phase, RolloutPhase::Aborting { .. }) {
            return Ok(Vec::new());
        }
        let mut facts = vec![Fact::RolloutAborting { rollout: id, reason: format!("{who}: {reason}") }];
        let failed = rollout.turns.iter().filter(|(_, turn)| turn.phase == TurnPhase::Failed);
        for (node, turn) in failed.filter(|(node, _)| self.is_drained_by(rollout, node)) {
            facts.push(self.turn(rollout, node, TurnPhase::Verifying, turn.retreat.clone(), facts.len()));
        }
        Ok(facts)
    }

    /// The turn begins anew, and the rollout goes on.
    pub(crate) fn retry_asked(
        &self,
        id: RolloutId,
        node: &NodeName,
        who: &str,
    ) -> Result<Vec<Fact>, Refusal> {
        let rollout = self.open_rollout(id)?;
        let turn = turn_of(rollout, node)?;
        if !matches!(turn.phase, TurnPhase::Failed | TurnPhase::Skipped) {
            let reason = format!("the turn of {node} has not failed: it is {}", turn.phase.name());
            return Err(Refusal::new(RefusalCode::Conflict, reason, format!("bunraku rollout show {id}")));
        }
        if matches!(rollout.phase, RolloutPhase::Aborting { .. }) {
            return Err(is_aborting(id));
        }
        let mut facts = vec![self.turn(rollout, node, TurnPhase::Waiting, None, 0)];
        if rollout.phase != RolloutPhase::Running {
            facts.push(Fact::RolloutResumed { rollout: id, who: who.to_owned() });
        }
        Ok(facts)
    }

    /// What was done with the version before is done again; who failed waits for a decision all the same.
    pub(crate) fn retarget_asked(
        &self,
        id: RolloutId,
        version: &str,
        who: &str,
    ) -> Result<Vec<Fact>, Refusal> {
        let rollout = self.open_rollout(id)?;
        if matches!(rollout.phase, RolloutPhase::Aborting { .. }) {
            return Err(is_aborting(id));
        }
        let Some(action) = rollout.action.with_version(version) else {
            let reason = format!("rollout {id} is a {}, which has no version", rollout.action.name());
            return Err(Refusal::new(RefusalCode::Conflict, reason, format!("bunraku rollout show {id}")));
        };
        if !action.is_well_formed() {
            let shown: String = version.escape_debug().take(80).collect();
            let hint = format!("bunraku rollout retarget {id} 7.9.5-2");
            return Err(Refusal::new(RefusalCode::Invalid, format!("`{shown}` cannot be a version"), hint));
        }
        let target = rollout.wanted.as_ref().unwrap_or(&rollout.action);
        if *target == action {
            return Ok(Vec::new());
        }
        Ok(vec![Fact::RolloutRetargeted { rollout: id, action, who: who.to_owned() }])
    }

    /// Nothing more is done to the node than to bring it back.
    pub(crate) fn skip_asked(&self, id: RolloutId, node: &NodeName, who: &str) -> Result<Vec<Fact>, Refusal> {
        let rollout = self.open_rollout(id)?;
        let turn = turn_of(rollout, node)?;
        let retreat = Some(Retreat { reason: format!("skipped by {who}"), skip: true });
        let to = match turn.phase {
            TurnPhase::Skipped => return Ok(Vec::new()),
            TurnPhase::Waiting | TurnPhase::Preparing => TurnPhase::Skipped,
            TurnPhase::Settling => TurnPhase::Releasing,
            TurnPhase::Draining | TurnPhase::Closing => TurnPhase::Enabling,
            TurnPhase::Failed if self.is_drained_by(rollout, node) => TurnPhase::Verifying,
            TurnPhase::Failed => TurnPhase::Skipped,
            TurnPhase::Acting
            | TurnPhase::Reverting
            | TurnPhase::Verifying
            | TurnPhase::Enabling
            | TurnPhase::Releasing
            | TurnPhase::Baking
            | TurnPhase::Done => {
                let reason = format!("it is too late to skip {node}: it is {}", turn.phase.name());
                return Err(Refusal::new(
                    RefusalCode::Conflict,
                    reason,
                    format!("bunraku rollout show {id}"),
                ));
            }
        };
        Ok(vec![self.turn(rollout, node, to, retreat, 0)])
    }

    fn open_rollout(&self, id: RolloutId) -> Result<&Rollout, Refusal> {
        let hint = "bunraku rollout list";
        let rollout = self.rollouts.get(&id);
        let rollout = rollout.ok_or_else(|| {
            Refusal::new(RefusalCode::NotFound, format!("no rollout {id} is known here"), hint)
        })?;
        if rollout.is_ended() {
            let reason = format!("rollout {id} has ended: {}", rollout.phase_name());
            return Err(Refusal::new(RefusalCode::Conflict, reason, hint));
        }
        Ok(rollout)
    }
}

impl Fact {
    /// The rollout that a request started: of the facts that `decide` returned for it.
    pub fn started(facts: &[Self]) -> Option<RolloutId> {
        facts.iter().find_map(|fact| {
            if let Self::RolloutStarted { rollout, .. } = fact {
                return Some(*rollout);
            }
            None
        })
    }
}

fn turn_of<'a>(rollout: &'a Rollout, node: &NodeName) -> Result<&'a Turn, Refusal> {
    rollout.turns.get(node).ok_or_else(|| {
        let reason = format!("{node} has no part in rollout {}", rollout.id);
        Refusal::new(RefusalCode::NotFound, reason, format!("bunraku rollout show {}", rollout.id))
    })
}

fn is_aborting(id: RolloutId) -> Refusal {
    let reason = format!("rollout {id} is being aborted");
    Refusal::new(RefusalCode::Conflict, reason, format!("bunraku rollout show {id}"))
}
