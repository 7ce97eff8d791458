//! How turns go on: by answers of nodes, by what is seen of balancers and compilers, and by deadlines.
//!
//! | phase | goes on when | to | at its deadline |
//! |---|---|---|---|
//! | waiting | its wave's turn has come | preparing | |
//! | preparing | the node has checked | settling | failed |
//! | settling | the node's Puppet agent rests | draining, acting if undrained | back: releasing |
//! | draining | nobody is served any more | acting | back: enabling; or closing by force |
//! | draining | a balancer said no | the same; wanted again after a while | |
//! | draining | the drain was not done in time | back: enabling | |
//! | closing | nobody is served any more | acting | acting, back where it is not drained: enabling |
//! | acting | the node has done it, or failed and left all as it was (back) | verifying | back: releasing, stays drained |
//! | reverting | the node has brought back what was before | verifying | back: releasing, stays drained |
//! | verifying | it is healthy and proven | enabling | back: releasing, stays drained |
//! | enabling | it is in service everywhere | releasing | back: releasing |
//! | releasing | the node's Puppet agent may run | baking, or what the retreat says | the same; asked on |
//! | baking | it stayed in service, and its numbers are good | done | failed |
//! | baking | its numbers are bad | failed, or settling where it is brought back | |
//!
//! A turn that settles and drains on its way back goes on to reverting.
//!
//! An update that failed, or after which the compiler does not get healthy in time, goes to reverting, unless that was
//! declined.

use bunraku_common::{Generation, NodeName};

use super::{
    OnDrainDeadline, Retreat, Rollout, RolloutId, RolloutOutcome, RolloutPhase, Says, Turn, TurnPhase,
    Verdict, verdict::bake_ends,
};
use crate::{DrainOwner, Fact, Millis, Presence, State, deploy::span};

/// Balancers close sessions at once; what their servers had begun for them ends a little later.
const CLOSING: Millis = 10_000;

impl State {
    /// What rollouts demand by themselves. Each fact makes its own condition false.
    pub(crate) fn due_rollouts(&self, presence: &Presence, now: Millis) -> Vec<Fact> {
        let mut facts = Vec::new();
        for rollout in self.rollouts.values().filter(|rollout| !rollout.is_ended()) {
            let aborts = matches!(rollout.phase, RolloutPhase::Aborting { .. });
            if rollout.wanted.is_some() && !aborts && !rollout.is_under_way() {
                facts.push(Fact::RolloutAimed { rollout: rollout.id });
                continue;
            }
            let wave = rollout.wave().map(|(_, wave)| wave);
            for (node, turn) in &rollout.turns {
                let in_turn = wave.is_some_and(|wave| wave.nodes.contains(node));
                let due = self.due_turn(rollout, node, turn, in_turn, presence, now, facts.len());
                // The next drain must count this one.
                if let Some(fact @ Fact::BalanceWanted { .. }) = due {
                    facts.push(fact);
                    return facts;
                }
                facts.extend(due);
            }
            if wave.is_none() {
                facts.extend(end_of(rollout));
            }
        }
        facts
    }

    #[expect(clippy::too_many_arguments, reason = "one table reads all of it")]
    fn due_turn(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        turn: &Turn,
        in_turn: bool,
        presence: &Presence,
        now: Millis,
        before: usize,
    ) -> Option<Fact> {
        let late = self.turn_deadline(rollout, node, turn, presence).is_some_and(|deadline| deadline <= now);
        let go =
            |to: TurnPhase, retreat: Option<Retreat>| Some(self.turn(rollout, node, to, retreat, before));
        let on = |to: TurnPhase| go(to, turn.retreat.clone());
        let back = |to: TurnPhase, reason: String| go(to, Some(Retreat { reason, skip: false }));
        let aborted = rollout.retreat();
        let no_answer = || {
            let late =
                format!("{} had no end within {}", turn.phase.name(), span(rollout.policy.phase_deadline));
            match self.not_verified(node, turn, presence) {
                why if turn.phase == TurnPhase::Verifying && !why.is_empty() => format!("{late}: {why}"),
                _ => late,
            }
        };
        match turn.phase {
            TurnPhase::Waiting => match aborted {
                Some(_) => go(TurnPhase::Skipped, aborted),
                None if !in_turn || rollout.phase != RolloutPhase::Running || rollout.wanted.is_some() => {
                    None
                }
                None => match self.fleet.nodes.get(node).filter(|record| record.is_active_compiler()) {
                    Some(_) => on(TurnPhase::Preparing),
                    None => {
                        let reason = "it is held, revoked or removed".to_owned();
                        go(TurnPhase::Skipped, Some(Retreat { reason, skip: true }))
                    }
                },
            },
            TurnPhase::Preparing if aborted.is_some() => go(TurnPhase::Skipped, aborted),
            TurnPhase::Preparing if late => back(TurnPhase::Failed, no_answer()),
            TurnPhase::Settling if late && turn.goes_back() => {
                let reason =
                    format!("{}; what was before was not brought back: {}", turn.reason(), no_answer());
                back(TurnPhase::Releasing, reason)
            }
            // What an abort meets on its way back goes on: it is the shortest way to the end.
            TurnPhase::Settling if aborted.is_some() && !turn.goes_back() => {
                go(TurnPhase::Releasing, aborted)
            }
            TurnPhase::Settling if late => back(TurnPhase::Releasing, no_answer()),
            TurnPhase::Draining | TurnPhase::Closing if aborted.is_some() && !turn.goes_back() => {
                go(TurnPhase::Enabling, aborted)
            }
            TurnPhase::Draining | TurnPhase::Closing => {
                self.due_drain(rollout, node, turn, late, presence, now, before)
            }
            TurnPhase::Acting | TurnPhase::Verifying
                if late && turn.retreat.is_none() && rollout.reverts() =>
            {
                back(TurnPhase::Reverting, no_answer())
            }
            TurnPhase::Acting | TurnPhase::Reverting | TurnPhase::Verifying if late => {
                let before = turn.retreat.as_ref().map(|retreat| format!("{}; then ", retreat.reason));
                let reason = format!("{}{}; it stays drained", before.unwrap_or_default(), no_answer());
                back(TurnPhase::Releasing, reason)
            }
            TurnPhase::Enabling if self.is_drained_by(rollout, node) => {
                Some(self.wanted(node, crate::Wanted::Ready, 0, presence))
            }
            TurnPhase::Enabling if self.is_back(node, presence, now) => on(TurnPhase::Releasing),
            // Somebody else has drained it and will enable it.
            TurnPhase::Enabling if self.balance.get(node).is_some_and(crate::Balance::is_drained) => {
                on(TurnPhase::Releasing)
            }
            TurnPhase::Enabling if late => {
                let reason = match &turn.retreat {
                    Some(retreat) => format!("{}; and it did not come back into service", retreat.reason),
                    None => {
                        format!("it did not come into service within {}", span(rollout.policy.phase_deadline))
                    }
                };
                back(TurnPhase::Releasing, reason)
            }
            TurnPhase::Releasing if late || !self.puppet_held.contains_key(node) => match &turn.retreat {
                Some(retreat) if retreat.skip => on(TurnPhase::Skipped),
                Some(_) => on(TurnPhase::Failed),
                None if late => back(TurnPhase::Failed, "its Puppet agent may still be disabled".to_owned()),
                None if rollout.undrained.contains(node) || self.is_kept_out(rollout, node) => {
                    on(TurnPhase::Done)
                }
                None => on(TurnPhase::Baking),
            },
            TurnPhase::Baking if aborted.is_some() => on(TurnPhase::Done),
            TurnPhase::Baking => self.due_bake(rollout, node, turn, late, presence, now, before),
            TurnPhase::Preparing
            | TurnPhase::Settling
            | TurnPhase::Acting
            | TurnPhase::Reverting
            | TurnPhase::Verifying
            | TurnPhase::Enabling
            | TurnPhase::Releasing
            | TurnPhase::Done
            | TurnPhase::Failed
            | TurnPhase::Skipped => None,
        }
    }

    /// Wants the drain until it is decided, then watches the compiler run empty, by force also while its sessions are
    /// closed. Nothing is done to a compiler that is not seen drained, also not by force. What cannot be closed is not
    /// waited for.
    #[expect(clippy::too_many_arguments, reason = "as the table")]
    fn due_drain(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        turn: &Turn,
        late: bool,
        presence: &Presence,
        now: Millis,
        before: usize,
    ) -> Option<Fact> {
        let back = |to: TurnPhase, reason: String| {
            let reason = match &turn.retreat {
                Some(why) => format!("{}; what was before was not brought back: {reason}", why.reason),
                None => reason,
            };
            Some(self.turn(rollout, node, to, Some(Retreat { reason, skip: false }), before))
        };
        if !self.is_out_for(rollout, node) {
            if let Some((undone, again_at)) = self.undone_in(turn, node) {
                match again_at {
                    Some(at) if !late && now < at => return None,
                    Some(_) if !late => {}
                    Some(_) | None => {
                        return back(TurnPhase::Enabling, format!("its drain was undone: {undone}"));
                    }
                }
            }
            let owner = DrainOwner::Rollout(rollout.id);
            let reason = rollout.action.to_string();
            match self.drain(node, owner, &reason, rollout.policy.min_available, presence, now) {
                Ok(facts) if !late => return facts.into_iter().next(),
                Ok(_) => return back(TurnPhase::Enabling, "it could not be drained in time".to_owned()),
                Err(why) if late => return back(TurnPhase::Enabling, why.reason),
                Err(_) => return None,
            }
        }
        let out = self.is_out(node, presence, now);
        let closing = turn.phase == TurnPhase::Closing;
        let force = closing || rollout.policy.on_drain_deadline == OnDrainDeadline::Force;
        let empty = self.busy(node, presence, now).is_none();
        if out && late && force && !closing && !empty {
            return Some(self.turn(rollout, node, TurnPhase::Closing, turn.retreat.clone(), before));
        }
        if out && (empty || late && closing) {
            let to = if turn.goes_back() { TurnPhase::Reverting } else { TurnPhase::Acting };
            return Some(self.turn(rollout, node, to, turn.retreat.clone(), before));
        }
        if !late {
            return None;
        }
        let why = self.busy_or_unseen(node, presence, now);
        let why = match closing {
            true => format!("it is not seen drained any more: {why}"),
            false => format!("it was not empty within {}: {why}", span(rollout.policy.drain_deadline)),
        };
        back(TurnPhase::Enabling, why)
    }

    /// Why the last drain of this turn came to nothing, and when it is wanted again; never, if nobody said no.
    pub(crate) fn undone_in(&self, turn: &Turn, node: &NodeName) -> Option<(&str, Option<Millis>)> {
        let known = self.balance.get(node).filter(|balance| balance.decided_at >= turn.since)?;
        Some((known.undone.as_deref()?, known.asked_again_at()))
    }

    #[expect(clippy::too_many_arguments, reason = "as the table")]
    fn due_bake(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        turn: &Turn,
        late: bool,
        presence: &Presence,
        now: Millis,
        before: usize,
    ) -> Option<Fact> {
        let failed = |reason: String| {
            let retreat = Some(Retreat { reason, skip: false });
            Some(self.turn(rollout, node, TurnPhase::Failed, retreat, before))
        };
        match self.sight(presence, now) {
            Ok(_) if self.is_back(node, presence, now) => match &turn.verdict {
                Some(verdict) if verdict.says == Says::Fail && rollout.reverts() => {
                    let retreat = Some(Retreat { reason: fares_worse(verdict), skip: false });
                    Some(self.turn(rollout, node, TurnPhase::Settling, retreat, before))
                }
                Some(verdict) if verdict.says == Says::Fail => failed(fares_worse(verdict)),
                None if rollout.is_on_trial(turn) => self.due_verdict(rollout, node, turn, presence, now),
                Some(_) | None => (now >= bake_ends(rollout, turn, presence))
                    .then(|| self.turn(rollout, node, TurnPhase::Done, None, before)),
            },
            Ok(_) => failed(match self.balance.get(node).and_then(|balance| balance.owner()) {
                Some(owner) => format!("it was drained by {owner} while it baked"),
                None => "it went out of service while it baked".to_owned(),
            }),
            Err(why) if late => failed(format!("nobody knows whether it stayed in service: {}", why.reason)),
            Err(_) => None,
        }
    }

    /// `before`: facts of the same batch, which take numbers too.
    pub(crate) fn turn(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        to: TurnPhase,
        retreat: Option<Retreat>,
        before: usize,
    ) -> Fact {
        let generation = Generation(self.last_turn.0 + 1 + before as u64);
        Fact::TurnMoved { rollout: rollout.id, node: node.clone(), to, generation, retreat }
    }

    /// Whether the balancers are to close what sessions this compiler has.
    pub(crate) fn is_closing(&self, node: &NodeName) -> bool {
        let mut open = self.rollouts.values().filter(|rollout| !rollout.is_ended());
        open.any(|rollout| {
            let turn = rollout.turns.get(node);
            turn.is_some_and(|turn| turn.phase == TurnPhase::Closing) && self.is_drained_by(rollout, node)
        })
    }

    pub(crate) fn is_drained_by(&self, rollout: &Rollout, node: &NodeName) -> bool {
        let owner = self.balance.get(node).and_then(|balance| balance.owner());
        owner == Some(&DrainOwner::Rollout(rollout.id))
    }

    /// Whether an operator keeps a compiler out whose certificate is put in place: nobody is served by it, so that drain
    /// serves, and stays.
    pub(crate) fn is_kept_out(&self, rollout: &Rollout, node: &NodeName) -> bool {
        rollout.action.may_lean_on_a_drain() && self.is_drained_by_an_operator(node)
    }

    /// Whether it is drained in a way that the rollout may rely on.
    pub(crate) fn is_out_for(&self, rollout: &Rollout, node: &NodeName) -> bool {
        self.is_drained_by(rollout, node) || self.is_kept_out(rollout, node)
    }

    pub(crate) fn is_drained_by_an_operator(&self, node: &NodeName) -> bool {
        let owner = self.balance.get(node).and_then(|balance| balance.owner());
        matches!(owner, Some(DrainOwner::Operator(_)))
    }

    /// The rollout that changes a compiler while somebody else's drain keeps it out.
    pub(crate) fn leans_on_the_drain_of(&self, node: &NodeName) -> Option<RolloutId> {
        let mut open = self.rollouts.values().filter(|rollout| !rollout.is_ended());
        let changes = |turn: &Turn| {
            matches!(turn.phase, TurnPhase::Acting | TurnPhase::Reverting | TurnPhase::Verifying)
        };
        let leans = |rollout: &&Rollout| {
            self.is_kept_out(rollout, node) && rollout.turns.get(node).is_some_and(changes)
        };
        open.find(leans).map(|rollout| rollout.id)
    }

    /// Whether the hold on the node's own Puppet agent is to end.
    pub(crate) fn may_release(&self, node: &NodeName) -> bool {
        let mut open = self.rollouts.values().filter(|rollout| !rollout.is_ended());
        open.all(|rollout| {
            let phase = rollout.turns.get(node).map(|turn| turn.phase);
            phase.is_none_or(|phase| match phase {
                TurnPhase::Waiting | TurnPhase::Releasing | TurnPhase::Baking => true,
                TurnPhase::Done | TurnPhase::Failed | TurnPhase::Skipped => true,
                // These have orders of their own under the same number.
                TurnPhase::Preparing
                | TurnPhase::Settling
                | TurnPhase::Draining
                | TurnPhase::Closing
                | TurnPhase::Acting
                | TurnPhase::Reverting
                | TurnPhase::Verifying
                | TurnPhase::Enabling => false,
            })
        })
    }

    /// Until when a turn's phase may last. A controller that was away leaves it its time again, and so does a drain that
    /// the balancers took only after a while: those who are still served have the whole time for their runs.
    pub(crate) fn turn_deadline(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        turn: &Turn,
        presence: &Presence,
    ) -> Option<Millis> {
        let policy = &rollout.policy;
        let time = match turn.phase {
            TurnPhase::Waiting | TurnPhase::Done | TurnPhase::Failed | TurnPhase::Skipped => return None,
            TurnPhase::Draining => policy.drain_deadline,
            TurnPhase::Closing => CLOSING,
            TurnPhase::Baking => policy.longest_bake().saturating_add(policy.phase_deadline),
            TurnPhase::Preparing
            | TurnPhase::Settling
            | TurnPhase::Acting
            | TurnPhase::Reverting
            | TurnPhase::Verifying
            | TurnPhase::Enabling
            | TurnPhase::Releasing => policy.phase_deadline,
        };
        let drains = turn.phase == TurnPhase::Draining && self.is_drained_by(rollout, node);
        let drained = self.balance.get(node).filter(|_| drains);
        let since = drained.map_or(turn.since, |balance| balance.decided_at.max(turn.since));
        Some(since.max(presence.up_since()).saturating_add(time))
    }
}

fn fares_worse(verdict: &Verdict) -> String {
    format!("it fares worse than its siblings: {}", verdict.why)
}

/// A rollout whose turns are all over. One that halted waits for what is to become of the failed turn.
fn end_of(rollout: &Rollout) -> Option<Fact> {
    let failed = || {
        let failed = rollout.turns.iter().filter(|(_, turn)| turn.phase == TurnPhase::Failed);
        failed.map(|(node, _)| node.clone()).collect()
    };
    let outcome = match &rollout.phase {
        RolloutPhase::Aborting { reason } => RolloutOutcome::Aborted { reason: reason.clone() },
        RolloutPhase::Running if rollout.has_failed() => RolloutOutcome::Incomplete { failed: failed() },
        RolloutPhase::Paused { .. } if rollout.has_failed() => return None,
        RolloutPhase::Running | RolloutPhase::Paused { .. } => RolloutOutcome::Done,
        RolloutPhase::Ended { .. } => return None,
    };
    Some(Fact::RolloutEnded { rollout: rollout.id, outcome })
}
