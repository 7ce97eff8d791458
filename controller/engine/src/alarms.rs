//! What an operator must know though nobody asked: compilers that are behind, and takeovers that left a question.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Digest, EnvironmentName, NodeName};

use crate::{
    Commit, Environment, Millis, Phase, State,
    deploy::{names, span},
};

/// A compiler that does not serve, or is not proven to serve, what is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    pub node: NodeName,
    pub environment: EnvironmentName,
    pub since: Millis,
    /// In the node's own words; may be empty.
    pub owed: String,
}

impl State {
    /// Compilers that are behind, those not counted whose deploy is still committing.
    pub fn behind(&self) -> Vec<Behind> {
        let mut behind = Vec::new();
        for (name, environment) in &self.environments {
            let Some(committed) = environment.committed.as_ref().filter(|_| !environment.adopting) else {
                continue;
            };
            for (node, record) in self.fleet.compilers() {
                if record.has_proven(name, committed) || self.is_committing_on(environment, node) {
                    continue;
                }
                let on_node = record.environments.get(name);
                let lost_at = on_node.and_then(|on_node| on_node.lost_at).unwrap_or(0);
                behind.push(Behind {
                    node: node.clone(),
                    environment: name.clone(),
                    since: committed.at.max(record.enrolled_at).max(lost_at),
                    owed: on_node.map(|on_node| on_node.owed.clone()).unwrap_or_default(),
                });
            }
        }
        behind
    }

    /// One line each, for people.
    pub fn alarms(&self, now: Millis) -> Vec<String> {
        let behind = self.behind().into_iter().map(|Behind { node, environment, since, owed }| {
            let why = if owed.is_empty() { owed } else { format!(": {owed}") };
            format!("{node} is behind in {environment} for {}{why}", span(now.saturating_sub(since)))
        });
        let disagreements = self.adoptable();
        let disagreements = disagreements.iter().filter_map(|name| self.disagreement(name));
        behind.chain(disagreements).chain(self.ca_alarm(now)).collect()
    }

    fn is_committing_on(&self, environment: &Environment, node: &NodeName) -> bool {
        let active = environment.active.and_then(|id| self.deploys.get(&id));
        active.is_some_and(|deploy| match &deploy.phase {
            Phase::Committing { nodes, .. } => nodes.get(node).is_some_and(Commit::is_open),
            Phase::Queued | Phase::Building { .. } | Phase::Staging { .. } | Phase::Ended { .. } => false,
        })
    }

    /// After a takeover: the compilers that have spoken serve different snapshots.
    fn disagreement(&self, name: &EnvironmentName) -> Option<String> {
        let mut served: BTreeMap<Option<Digest>, BTreeSet<&NodeName>> = BTreeMap::new();
        for (node, record) in self.fleet.compilers() {
            if let Some(live) = self.served_since_takeover(record, name) {
                served.entry(live).or_default().insert(node);
            }
        }
        if served.len() < 2 {
            return None;
        }
        let each = served.iter().map(|(live, nodes)| {
            let live = live.map_or_else(|| "nothing".to_owned(), |live| live.short());
            format!("{live} on {}", names(nodes.iter().copied()))
        });
        let each: Vec<String> = each.collect();
        Some(format!(
            "since the takeover compilers serve different snapshots of {name}: {}\nhint: bunraku deploy {name}",
            each.join("; ")
        ))
    }
}
