//! What a node answers to an order of its turn. An answer counts for the phase whose number it carries, and no other.

use bunraku_common::{Generation, NodeName};

use super::{Retreat, Rollout, Turn, TurnPhase};
use crate::{Fact, State};

impl State {
    /// A node has done what the turn's phase asked for. An answer to an earlier phase is no news.
    pub(crate) fn turn_done(&self, node: &NodeName, generation: Generation) -> Option<Fact> {
        if self.puppet_held.get(node) == Some(&generation) && self.may_release(node) {
            return Some(Fact::PuppetReleased { node: node.clone() });
        }
        let (rollout, turn) = self.turn_in(node, generation)?;
        let aborted = rollout.retreat();
        if turn.phase == TurnPhase::Reverting {
            let reason = format!("{}; it was brought back to what was before", turn.reason());
            let retreat = Some(Retreat { reason, skip: false });
            return Some(self.turn(rollout, node, TurnPhase::Verifying, retreat, 0));
        }
        let to = match turn.phase {
            TurnPhase::Preparing => TurnPhase::Settling,
            TurnPhase::Settling if rollout.undrained.contains(node) => TurnPhase::Acting,
            TurnPhase::Settling => TurnPhase::Draining,
            TurnPhase::Acting => TurnPhase::Verifying,
            TurnPhase::Verifying if !self.is_proven(node) => return None,
            TurnPhase::Verifying if rollout.undrained.contains(node) => TurnPhase::Releasing,
            TurnPhase::Verifying => TurnPhase::Enabling,
            TurnPhase::Waiting
            | TurnPhase::Draining
            | TurnPhase::Closing
            | TurnPhase::Reverting
            | TurnPhase::Enabling
            | TurnPhase::Releasing
            | TurnPhase::Baking
            | TurnPhase::Done
            | TurnPhase::Failed
            | TurnPhase::Skipped => return None,
        };
        Some(self.turn(rollout, node, to, turn.retreat.clone().or(aborted), 0))
    }

    /// A node said that it cannot, for good.
    pub(crate) fn turn_failed(
        &self,
        node: &NodeName,
        generation: Generation,
        reason: String,
        unchanged: bool,
    ) -> Option<Fact> {
        let (rollout, turn) = self.turn_in(node, generation)?;
        let drained = self.is_out_for(rollout, node);
        let to = match turn.phase {
            TurnPhase::Preparing => TurnPhase::Failed,
            // As it was: once that is seen it may serve again.
            TurnPhase::Acting if unchanged && drained => TurnPhase::Verifying,
            TurnPhase::Acting if !unchanged && rollout.reverts() => TurnPhase::Reverting,
            TurnPhase::Settling | TurnPhase::Acting | TurnPhase::Reverting => TurnPhase::Releasing,
            // Not healthy yet: it is asked again until the deadline. What cannot be released is asked on.
            TurnPhase::Verifying | TurnPhase::Releasing => return None,
            TurnPhase::Waiting
            | TurnPhase::Draining
            | TurnPhase::Closing
            | TurnPhase::Enabling
            | TurnPhase::Baking
            | TurnPhase::Done
            | TurnPhase::Failed
            | TurnPhase::Skipped => return None,
        };
        let acted = matches!(turn.phase, TurnPhase::Acting | TurnPhase::Reverting);
        let stays = acted && to == TurnPhase::Releasing && drained;
        let reason = if turn.phase == TurnPhase::Reverting {
            format!("{}; it could not be brought back: {reason}", turn.reason())
        } else if turn.goes_back() {
            format!("{}; what was before was not brought back: {reason}", turn.reason())
        } else {
            reason
        };
        let reason = if stays { format!("{reason}; it stays drained") } else { reason };
        Some(self.turn(rollout, node, to, Some(Retreat { reason, skip: false }), 0))
    }

    fn turn_in(&self, node: &NodeName, generation: Generation) -> Option<(&Rollout, &Turn)> {
        let open = self.rollouts.values().filter(|rollout| !rollout.is_ended());
        open.filter_map(|rollout| Some((rollout, rollout.turns.get(node)?)))
            .find(|(_, turn)| turn.generation == generation)
    }
}
