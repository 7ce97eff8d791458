//! From what was asked for and what is seen to waves: who, in which order, what must stay, and what stands in the way.
//! Pure: the same plan is printed before anything moves and fixed when the rollout starts.

use std::collections::BTreeSet;

use bunraku_common::{Label, NodeName, Role};
use serde::{Deserialize, Serialize};

use super::{Action, Batch, RolloutId, RolloutPolicy};
use crate::{Millis, NodeRecord, Presence, State, right::matches_glob, sight::Sight};

/// What is wanted of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub action: Action,
    pub policy: RolloutPolicy,
    /// Patterns of names (`*` stands for any text); none: every compiler that a balancer carries.
    pub nodes: Vec<String>,
    /// Only compilers that have all of these.
    pub labels: Vec<Label>,
    pub roles: Vec<Role>,
    /// Patterns of names, one for each group, in the order in which the groups come. Who is in none comes last.
    pub groups: Vec<String>,
    /// Compilers in no backend are changed too, without a drain.
    pub undrained: bool,
}

/// Compilers whose turns go on side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    pub nodes: Vec<NodeName>,
    pub canary: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub waves: Vec<Wave>,
    pub undrained: BTreeSet<NodeName>,
    /// One line for each backend: what it has in service and what must stay.
    pub floors: Vec<String>,
    /// What stands in the way; the rollout cannot start before it is mended.
    pub blocks: Vec<Block>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub reason: String,
    pub hint: String,
}

impl State {
    /// What a rollout would do, and what forbids it now.
    pub fn plan_rollout(&self, ask: &Ask, presence: &Presence, now: Millis) -> Plan {
        let sight = match self.sight(presence, now) {
            Ok(sight) => sight,
            Err(why) => {
                let blocks = vec![Block { reason: why.reason, hint: why.hint }];
                return Plan { blocks, ..Plan::default() };
            }
        };
        let chosen = self.chosen(ask, &sight);
        let mut plan = Plan::default();
        self.choices_of_nobody(ask, &chosen, &mut plan);
        if chosen.is_empty() {
            if plan.blocks.is_empty() {
                plan.block("no compiler is chosen".to_owned(), "bunraku nodes list");
            }
            return plan;
        }
        for node in &chosen {
            self.blocks_of(node, ask, &sight, presence, &mut plan);
        }
        let go: Vec<_> = chosen.iter().filter(|node| !self.stays_out(ask, node)).collect();
        let room = room(&go, &sight, ask.policy.min_available, &mut plan);
        plan.waves = waves(&chosen, ask, room);
        plan
    }

    fn chosen(&self, ask: &Ask, sight: &Sight<'_>) -> Vec<NodeName> {
        let named = |node: &NodeName| ask.nodes.iter().any(|pattern| matches_glob(pattern, node.as_str()));
        let is_such = |record: &NodeRecord| {
            ask.labels.iter().all(|label| record.labels.contains(label))
                && ask.roles.iter().all(|role| record.roles.contains(role))
        };
        let wanted = |node: &NodeName| match ask.nodes.is_empty() {
            // Who is named, by whatever, and cannot be drained is told of; nobody means the main server by "all".
            true => ask.undrained || !ask.labels.is_empty() || sight.is_carried(node),
            false => named(node),
        };
        let all = self.fleet.compilers();
        all.filter(|(node, record)| wanted(node) && is_such(record)).map(|(node, _)| node.clone()).collect()
    }

    /// A word that chooses nobody is a mistake, and the others would hide it.
    fn choices_of_nobody(&self, ask: &Ask, chosen: &[NodeName], plan: &mut Plan) {
        let is_called = |pattern: &str, node: &NodeName| matches_glob(pattern, node.as_str());
        for pattern in &ask.nodes {
            if !self.fleet.compilers().any(|(node, _)| is_called(pattern, node)) {
                plan.block(format!("no compiler is called {pattern}"), "bunraku nodes list");
            }
        }
        for label in &ask.labels {
            if !self.fleet.compilers().any(|(_, record)| record.labels.contains(label)) {
                let hint = format!("bunraku nodes label NODE {label}");
                plan.block(format!("no compiler has the label {label}"), &hint);
            }
        }
        for group in ask.groups.iter().filter(|_| !chosen.is_empty()) {
            if !chosen.iter().any(|node| is_called(group, node)) {
                plan.block(format!("no chosen compiler is in the group {group}"), "bunraku nodes list");
            }
        }
    }

    fn blocks_of(&self, node: &NodeName, ask: &Ask, sight: &Sight<'_>, presence: &Presence, plan: &mut Plan) {
        if !presence.is_connected(node) {
            plan.block(format!("{node} is not connected"), &format!("bunraku nodes show {node}"));
        }
        if let Some(other) = self.rollout_of(node) {
            plan.block(
                format!("{node} is part of rollout {other}"),
                &format!("bunraku rollout show {other}"),
            );
        } else if let Some(owner) = self.balance.get(node).and_then(|balance| balance.owner())
            && !self.stays_out(ask, node)
        {
            plan.block(format!("{node} is drained by {owner}"), &format!("bunraku lb enable {node}"));
        }
        if !sight.is_carried(node) {
            plan.undrained.insert(node.clone());
            if !ask.undrained {
                plan.block(format!("{node} is in no backend, so it cannot be drained"), "add --undrained");
            }
        }
    }

    /// Whether it is out already, by an operator's drain that serves.
    fn stays_out(&self, ask: &Ask, node: &NodeName) -> bool {
        ask.action.may_lean_on_a_drain() && self.is_drained_by_an_operator(node)
    }

    /// The rollout that has not ended and in which this node has a part.
    pub(crate) fn rollout_of(&self, node: &NodeName) -> Option<RolloutId> {
        let active = self.rollouts.values().filter(|rollout| !rollout.is_ended());
        active.filter(|rollout| rollout.turns.contains_key(node)).map(|rollout| rollout.id).next()
    }
}

impl Plan {
    fn block(&mut self, reason: String, hint: &str) {
        self.blocks.push(Block { reason, hint: hint.to_owned() });
    }
}

/// How many may be out at once: as the tightest backend allows.
fn room(go: &[&NodeName], sight: &Sight<'_>, min_available: u32, plan: &mut Plan) -> usize {
    let mut room = usize::MAX;
    for crowd in sight.crowds(min_available) {
        if !go.iter().any(|node| crowd.compilers.contains(node)) {
            continue;
        }
        let (name, serving, floor) = (&crowd.name, crowd.in_service, crowd.floor as usize);
        plan.floors.push(format!("backend {name}: {serving} in service, at least {floor} must stay"));
        if serving <= floor {
            let reason = format!("backend {name} has {serving} compilers in service and {floor} must stay");
            plan.block(reason, "bunraku lb status");
        }
        room = room.min(serving.saturating_sub(floor));
    }
    room.max(1)
}

/// The canary first, then batches; a wave never holds compilers of two groups.
fn waves(chosen: &[NodeName], ask: &Ask, room: usize) -> Vec<Wave> {
    let group = |node: &NodeName| {
        let mut groups = ask.groups.iter();
        groups.position(|pattern| matches_glob(pattern, node.as_str())).unwrap_or(ask.groups.len())
    };
    let batch = match ask.policy.batch {
        Batch::Count(count) => count,
        Batch::Percent(percent) => chosen.len().saturating_mul(percent) / 100,
    };
    let batch = batch.clamp(1, room);
    let mut waves: Vec<Wave> = Vec::new();
    let mut canaries = ask.policy.canary.min(room);
    for number in 0..=ask.groups.len() {
        let mut nodes: Vec<NodeName> = chosen.iter().filter(|node| group(node) == number).cloned().collect();
        if canaries > 0 && !nodes.is_empty() {
            let rest = nodes.split_off(canaries.min(nodes.len()));
            waves.push(Wave { nodes, canary: true });
            (nodes, canaries) = (rest, 0);
        }
        waves.extend(nodes.chunks(batch).map(|nodes| Wave { nodes: nodes.to_vec(), canary: false }));
    }
    waves
}
