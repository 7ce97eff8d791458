//! Ruby that a flush of the environment cache does not reload (types, providers, functions of the old kind): after a
//! deploy that changes some, the compilers' interpreters must be made anew, which is a rollout.

use std::collections::BTreeSet;

use bunraku_common::{Digest, NodeName};
use serde::{Deserialize, Serialize};

use crate::{
    Action, Ask, Deploy, DeployId, Environment, Fact, Millis, NodeRecord, Outcome, Phase, Presence, Retreat,
    Rollout, RolloutId, RolloutPolicy, State, TurnPhase,
};

/// Whether the rollout starts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OnStaleRuby {
    /// The deploy names the command.
    #[default]
    Offer,
    /// It starts when the deploy has ended, over the compilers that a balancer carries.
    Rollout,
}

/// Why the interpreters of one compiler are to be made anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleRuby {
    /// Interpreters made after this are new.
    pub(crate) since: Millis,
    /// The newest deploy that changed such Ruby.
    pub(crate) deploy: DeployId,
    /// The rollout that is to make them anew. There is one for each debt: what people made of it is their decision.
    pub(crate) rollout: Option<RolloutId>,
}

impl Environment {
    /// Whether Ruby that stays loaded differs between what is committed and a retained snapshot: if any commit between
    /// them changed some. When in doubt, yes.
    pub(crate) fn changes_loaded_ruby(&self, to: &Digest) -> bool {
        let place = |snapshot: &Digest| self.retained.iter().position(|kept| kept.snapshot == *snapshot);
        let committed = self.committed.as_ref().and_then(|committed| place(&committed.snapshot));
        let (Some(from), Some(to)) = (committed, place(to)) else { return true };
        // Newest first, and each says what it changed of the one after it.
        self.retained[from.min(to)..from.max(to)].iter().any(|kept| kept.stale_ruby)
    }
}

impl State {
    /// What makes the interpreters anew that a deploy leaves, will leave or has left with old Ruby; empty where there are
    /// none (any more).
    pub fn renewal_after(&self, deploy: &Deploy) -> String {
        let is_stale = deploy.built().is_some_and(|built| built.stale_ruby);
        let mut left = self.stale_ruby.values().filter(|stale| stale.deploy == deploy.id).peekable();
        let has_committed = match &deploy.phase {
            Phase::Queued | Phase::Building { .. } | Phase::Staging { .. } => false,
            Phase::Committing { .. } => true,
            Phase::Ended { outcome, .. } => !matches!(outcome, Outcome::Planned { .. }),
        };
        if !is_stale || has_committed && left.peek().is_none() {
            return String::new();
        }
        let started = left.filter_map(|stale| stale.rollout).max();
        match (started, self.settings.on_stale_ruby) {
            (Some(rollout), _) => format!("bunraku rollout show {rollout}"),
            (None, OnStaleRuby::Offer) => "bunraku rollout start flush-pool".to_owned(),
            (None, OnStaleRuby::Rollout) => {
                "a rollout, as soon as the compilers serve the new code".to_owned()
            }
        }
    }

    /// The rollout that makes interpreters anew, once they have all that is committed.
    pub(crate) fn due_renewal(&self, presence: &Presence, now: Millis) -> Option<Fact> {
        if self.settings.on_stale_ruby != OnStaleRuby::Rollout || self.stale_ruby.is_empty() {
            return None;
        }
        // Two of them would take two canaries at once.
        if self.rollouts.values().any(|rollout| !rollout.is_ended() && rollout.action == Action::FlushPool) {
            return None;
        }
        let may_come = |node: &NodeName| {
            !presence.is_connected(node) && self.unreachable_at(node, presence).is_some_and(|at| now < at)
        };
        let mut owing = self.stale_ruby.iter().filter(|(_, stale)| stale.rollout.is_none());
        if owing.any(|(node, _)| may_come(node)) {
            return None;
        }
        let sight = self.sight(presence, now).ok()?;
        let waits = |node: &&NodeName| {
            presence.is_connected(node)
                && sight.is_carried(node)
                && self.rollout_of(node).is_none()
                && self.balance.get(*node).and_then(|balance| balance.owner()).is_none()
                && self.fleet.nodes.get(*node).is_some_and(NodeRecord::is_active_compiler)
                && self.is_proven(node)
        };
        let has_ended = |stale: &StaleRuby| self.deploys.get(&stale.deploy).is_none_or(Deploy::is_ended);
        let (nodes, deploys): (Vec<&NodeName>, BTreeSet<DeployId>) = self
            .stale_ruby
            .iter()
            .filter(|(node, stale)| stale.rollout.is_none() && has_ended(stale) && waits(node))
            .map(|(node, stale)| (node, stale.deploy))
            .unzip();
        let deploy = deploys.last()?;
        let ask = Ask {
            action: Action::FlushPool,
            policy: RolloutPolicy::default(),
            nodes: nodes.iter().map(|node| node.to_string()).collect(),
            labels: Vec::new(),
            roles: Vec::new(),
            groups: Vec::new(),
            undrained: false,
        };
        // What stands in the way is asked again at the next tick.
        let who = format!("deploy {deploy}");
        self.rollout_asked(&ask, &who, presence, now).ok()?.into_iter().next()
    }

    /// Until it serves the new code, it may load the old.
    pub(crate) fn ruby_may_be_old(&mut self, node: &NodeName, at: Millis) {
        if let Some(stale) = self.stale_ruby.get_mut(node).filter(|stale| stale.rollout.is_none()) {
            stale.since = at;
        }
    }

    pub(crate) fn renewal_begins(&mut self, rollout: &Rollout) {
        if rollout.action.renews_interpreters() {
            let nodes = rollout.turns.keys();
            for node in nodes {
                if let Some(stale) = self.stale_ruby.get_mut(node) {
                    stale.rollout = Some(rollout.id);
                }
            }
        }
    }

    /// What was done after the new code was served has made the interpreters anew.
    pub(crate) fn renewed(&mut self, id: RolloutId, node: &NodeName, to: TurnPhase, back: Option<&Retreat>) {
        let rollout = self.rollouts.get(&id).filter(|rollout| rollout.action.renews_interpreters());
        let acting = rollout.and_then(|rollout| rollout.turns.get(node));
        let acting = acting.filter(|turn| turn.phase == TurnPhase::Acting);
        if let Some(turn) = acting.filter(|_| to == TurnPhase::Verifying && back.is_none())
            && self.stale_ruby.get(node).is_some_and(|stale| stale.since <= turn.since)
        {
            self.stale_ruby.remove(node);
        }
    }
}
