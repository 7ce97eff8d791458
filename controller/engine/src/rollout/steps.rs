//! What nodes are asked for the turns under way, and when somebody must look at them again.

use bunraku_common::NodeName;

use super::{
    Rollout, Turn, TurnPhase,
    verdict::{bake_began, bake_ends},
};
use crate::{Millis, Presence, State, Step, view::FRESH};

impl State {
    /// One order for each open turn, and the holds on Puppet agents that are to end, whatever became of their rollout.
    pub(crate) fn rollout_steps(&self, presence: &Presence, now: Millis, steps: &mut Vec<Step>) {
        for rollout in self.rollouts.values().filter(|rollout| !rollout.is_ended()) {
            let turns = rollout.turns.iter().filter(|(node, _)| presence.is_connected(node));
            steps.extend(turns.filter_map(|(node, turn)| self.turn_step(rollout, node, turn, presence, now)));
        }
        let held = self.puppet_held.iter().filter(|(node, _)| presence.is_connected(node));
        steps.extend(held.filter(|(node, _)| self.may_release(node)).map(|(node, generation)| {
            Step::Settle { node: node.clone(), generation: *generation, hold: false, owner: String::new() }
        }));
    }

    fn turn_step(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        turn: &Turn,
        presence: &Presence,
        now: Millis,
    ) -> Option<Step> {
        let (name, generation, action) = (node.clone(), turn.generation, rollout.action.clone());
        match turn.phase {
            TurnPhase::Preparing => {
                let (no_revert, downgrade) = (!rollout.policy.revert, rollout.policy.downgrade);
                let certname = rollout.policy.test_catalog.clone();
                Some(Step::Prepare { node: name, generation, action, no_revert, downgrade, certname })
            }
            TurnPhase::Settling => {
                let owner = format!("rollout {}", rollout.id);
                Some(Step::Settle { node: name, generation, hold: true, owner })
            }
            // The drain is looked at again before each order, also after a restart of the controller.
            TurnPhase::Acting | TurnPhase::Reverting => {
                let may = match rollout.undrained.contains(node) {
                    true => self.sight(presence, now).is_ok_and(|sight| !sight.is_carried(node)),
                    false => self.is_out_for(rollout, node) && self.is_out(node, presence, now),
                };
                let back = turn.phase == TurnPhase::Reverting;
                may.then_some(Step::Act { node: name, generation, action, back })
            }
            TurnPhase::Verifying => {
                let (back, certname) = (turn.retreat.is_some(), rollout.policy.test_catalog.clone());
                Some(Step::Verify { node: name, generation, action, back, certname })
            }
            TurnPhase::Waiting
            | TurnPhase::Draining
            | TurnPhase::Closing
            | TurnPhase::Enabling
            | TurnPhase::Releasing
            | TurnPhase::Baking
            | TurnPhase::Done
            | TurnPhase::Failed
            | TurnPhase::Skipped => None,
        }
    }

    pub(crate) fn rollout_deadline(&self, presence: &Presence) -> Option<Millis> {
        let open = self.rollouts.values().filter(|rollout| !rollout.is_ended());
        let turns = open.flat_map(|rollout| rollout.turns.iter().map(move |turn| (rollout, turn)));
        let deadlines = turns.filter_map(|(rollout, (node, turn))| {
            let late = self.turn_deadline(rollout, node, turn, presence)?;
            // News of its numbers come by themselves.
            let baked = match rollout.is_on_trial(turn) {
                true => bake_began(turn, presence).saturating_add(rollout.policy.longest_bake()),
                false => bake_ends(rollout, turn, presence),
            };
            // The end of a bake needs the balancers to be seen then: if nothing newer comes, it waits for its deadline.
            let seen = self.balancers().all(|balancer| {
                presence.balancer(balancer).is_some_and(|view| view.at.saturating_add(FRESH) >= baked)
            });
            Some(if turn.phase == TurnPhase::Baking && seen { baked } else { late })
        });
        deadlines.min()
    }
}
