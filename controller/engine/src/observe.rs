//! What the outside reports becomes facts, as far as it is news.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Digest, EnvironmentName, Generation, NodeName};

use crate::{
    Commit, Deploy, DeployId, Event, Fact, Fault, Identity, OnNode, Outcome, Phase, Presence, Seen, Stage,
    State, due::NodeFault, fact::Serving, fleet::EnrolledBy,
};

/// Expired tokens are shown for a day.
const TOKEN_SHOWN_S: u64 = 86_400;
/// Deny-list entries outlive the renewal grace by a day, for clocks that differ.
const DENIED_MARGIN_S: u64 = 86_400;

impl State {
    /// What an event says: facts to journal, then to apply with the same `now` ([`due`](Self::due) says what follows). Empty when it is no news; an
    /// answer that comes late, twice, or about something that is over, is none.
    pub fn observe(&self, event: Event, presence: &Presence) -> Vec<Fact> {
        match event {
            Event::Tick => Vec::new(),
            Event::Configured { settings } if settings == self.settings => Vec::new(),
            Event::Configured { settings } => vec![Fact::SettingsChanged { settings }],
            Event::BuildDone { deploy, built } => self
                .building(deploy)
                .map(|deploy| self.after_build(deploy, &deploy.environment, built))
                .into_iter()
                .collect(),
            Event::BuildFailed { deploy, reason, hint } => self
                .building(deploy)
                .map(|deploy| ended(deploy, Outcome::Failed { reason, hint }))
                .into_iter()
                .collect(),
            Event::Staged { deploy, node } => self
                .staging_on(deploy, &node)
                .map(|found| Fact::NodeStaged { deploy, environment: found.environment.clone(), node })
                .into_iter()
                .collect(),
            Event::StageFailed { deploy, node, fault, reason, hint } => {
                match self.staging_on(deploy, &node) {
                    None => Vec::new(),
                    Some(deploy) => match fault {
                        Fault::Content => {
                            let failed = BTreeMap::from([(node.clone(), reason.clone())]);
                            let reason = format!("{node} refused the content: {reason}");
                            vec![ended(deploy, Outcome::Abandoned { reason, hint, failed })]
                        }
                        Fault::Node => self.stage_failed(deploy, &NodeFault { node: &node, reason, hint }),
                    },
                }
            }
            Event::NotStaged { deploy, node } => self
                .committing_on(deploy, &node)
                .map(|found| Fact::NodeUnstaged { deploy, environment: found.environment.clone(), node })
                .into_iter()
                .collect(),
            Event::Committed { environment, node, snapshot, generation, proven, owed, swapped_ms } => {
                if !self.is_open(&environment, &node, Some(snapshot), generation) {
                    Vec::new()
                } else if proven {
                    vec![Fact::NodeProven { environment, node, snapshot, generation, swapped_ms }]
                } else {
                    self.owes(environment, node, snapshot, generation, owed)
                }
            }
            Event::BringFailed { environment, node, generation, reason } => {
                match self.committed_snapshot(&environment) {
                    Some(snapshot) if self.is_open(&environment, &node, None, generation) => {
                        self.owes(environment, node, snapshot, generation, reason)
                    }
                    Some(_) | None => Vec::new(),
                }
            }
            Event::Discarded { environment, node, snapshot } => {
                let discard = self.environments.get(&environment).and_then(|e| e.discard.as_ref());
                let asked = discard.is_some_and(|d| d.snapshot == snapshot && d.nodes.contains(&node));
                asked.then_some(Fact::Discarded { environment, node, snapshot }).into_iter().collect()
            }
            Event::NodeObserved { node, environments, keeps: _ } => self.seen(&node, &environments),
            // Who holds what is known while it is connected, and never journalled.
            Event::RetainedStaged { .. } | Event::RetainedRefused { .. } => Vec::new(),
            Event::BalanceRefused { balancer, compiler, generation, reason } => self
                .balance_refused(&balancer, &compiler, generation, &reason, presence)
                .into_iter()
                .collect(),
            Event::TurnStepDone { node, generation } => {
                self.turn_done(&node, generation).into_iter().collect()
            }
            Event::TurnStepFailed { node, generation, reason, unchanged } => {
                self.turn_failed(&node, generation, reason, unchanged).into_iter().collect()
            }
            Event::PuppetRevoked { serials } => self.cut_by_puppet(&serials),
            Event::Crl(event) => self.observe_crl(event),
            Event::Certificate(event) => self.observe_certificate(event).into_iter().collect(),
            Event::Housekeeping { now_s, now } => self
                .expired(now_s)
                .into_iter()
                .chain(self.ending_canary(now_s))
                .chain(self.certificate_renewal(now_s, now))
                .collect(),
            Event::AnchorsSeen { node, anchors } => self.anchors_seen(node, &anchors).into_iter().collect(),
        }
    }

    fn building(&self, id: DeployId) -> Option<&Deploy> {
        self.deploys.get(&id).filter(|deploy| matches!(deploy.phase, Phase::Building { .. }))
    }

    /// The deploy, if it still waits for this node to stage.
    fn staging_on(&self, id: DeployId, node: &NodeName) -> Option<&Deploy> {
        self.deploys.get(&id).filter(|deploy| match &deploy.phase {
            Phase::Staging { nodes, .. } => nodes.get(node) == Some(&Stage::Waiting),
            Phase::Queued | Phase::Building { .. } | Phase::Committing { .. } | Phase::Ended { .. } => false,
        })
    }

    /// The deploy, if it waits for this node to commit what it has staged.
    fn committing_on(&self, id: DeployId, node: &NodeName) -> Option<&Deploy> {
        self.deploys.get(&id).filter(|deploy| match &deploy.phase {
            Phase::Committing { nodes, .. } => {
                matches!(nodes.get(node), Some(Commit::Waiting | Commit::Owing { .. }))
            }
            Phase::Queued | Phase::Building { .. } | Phase::Staging { .. } | Phase::Ended { .. } => false,
        })
    }

    fn committed_snapshot(&self, environment: &EnvironmentName) -> Option<Digest> {
        Some(self.environments.get(environment)?.committed.as_ref()?.snapshot)
    }

    /// Whether an answer of this generation is about what is committed, from a node that is not proven yet.
    fn is_open(
        &self,
        name: &EnvironmentName,
        node: &NodeName,
        snapshot: Option<Digest>,
        generation: Generation,
    ) -> bool {
        let Some(environment) = self.environments.get(name) else {
            return false;
        };
        let (Some(committed), Some(record)) = (&environment.committed, self.fleet.nodes.get(node)) else {
            return false;
        };
        snapshot.is_none_or(|snapshot| snapshot == committed.snapshot)
            && (committed.generation..=environment.generation).contains(&generation)
            && !record.has_proven(name, committed)
    }

    /// A node's excuse, unless it is the one that is known already: retries must not fill the journal.
    fn owes(
        &self,
        environment: EnvironmentName,
        node: NodeName,
        snapshot: Digest,
        generation: Generation,
        owed: String,
    ) -> Vec<Fact> {
        let known = self.fleet.nodes.get(&node).and_then(|record| record.environments.get(&environment));
        if known.is_some_and(|on_node| on_node.owed == owed) {
            return Vec::new();
        }
        vec![Fact::NodeOwes { environment, node, snapshot, generation, owed }]
    }

    fn seen(&self, name: &NodeName, seen: &[Seen]) -> Vec<Fact> {
        let Some(node) = self.fleet.nodes.get(name) else {
            return Vec::new();
        };
        let seen: BTreeMap<&EnvironmentName, &Seen> = seen.iter().map(|s| (&s.environment, s)).collect();
        let mut facts = Vec::new();
        let unasked = self.takeover.is_some_and(|takeover| node.observed_in < takeover);
        let changed = seen.values().any(|seen| {
            let empty = OnNode::default();
            let known = node.environments.get(&seen.environment).unwrap_or(&empty);
            let believed = known.proven.is_some_and(|p| !seen.proven || Some(p.snapshot) != seen.live);
            known.live != seen.live || believed
        });
        let vanished = node.environments.iter().any(|(name, known)| {
            !seen.contains_key(name) && (known.live.is_some() || known.proven.is_some())
        });
        if unasked || changed || vanished {
            let serving = seen.values().map(|seen| Serving {
                environment: seen.environment.clone(),
                live: seen.live,
                proven: seen.proven,
            });
            facts.push(Fact::NodeObserved { node: name.clone(), environments: serving.collect() });
        }
        for deploy in self.active_deploys() {
            if let Phase::Staging { built, nodes, .. } = &deploy.phase
                && nodes.get(name) == Some(&Stage::Staged)
                && !seen.get(&deploy.environment).is_some_and(|seen| seen.versions.contains(&built.snapshot))
            {
                let environment = deploy.environment.clone();
                facts.push(Fact::NodeUnstaged { deploy: deploy.id, environment, node: name.clone() });
            }
        }
        facts
    }

    fn cut_by_puppet(&self, serials: &BTreeSet<String>) -> Vec<Fact> {
        let enrolled = self.fleet.nodes.iter().filter(|(_, node)| node.enrolled);
        enrolled
            .filter_map(|(name, node)| match &node.by {
                EnrolledBy::Puppet { serial } if serials.contains(serial) => Some(Fact::IdentityCut {
                    node: name.clone(),
                    reason: format!("its Puppet certificate {serial} was revoked by Puppet's CA"),
                }),
                EnrolledBy::Puppet { .. } | EnrolledBy::Token { .. } | EnrolledBy::Renewal { .. } => None,
            })
            .collect()
    }

    fn expired(&self, now_s: u64) -> Option<Fact> {
        let fleet = &self.fleet;
        let keep_denied = self.settings.renew_grace_s.saturating_add(DENIED_MARGIN_S);
        let over = |expires_s: u64, keep: u64| expires_s.saturating_add(keep) < now_s;
        // The newest identity of each holder stays: the holder may still renew it.
        let newer = |this: &Identity| {
            fleet
                .identities
                .values()
                .any(|other| other.owner == this.owner && other.expires_s > this.expires_s)
        };
        let serials = |map: &BTreeMap<String, crate::fleet::Denied>| -> Vec<String> {
            map.iter().filter(|(_, d)| over(d.expires_s, keep_denied)).map(|(text, _)| text.clone()).collect()
        };
        let tokens = fleet.tokens.iter().filter(|(_, token)| over(token.expires_s, TOKEN_SHOWN_S));
        let identities =
            fleet.identities.iter().filter(|(_, known)| over(known.expires_s, 0) && newer(known));
        let tokens: Vec<String> = tokens.map(|(id, _)| id.clone()).collect();
        let identities: Vec<String> = identities.map(|(serial, _)| serial.clone()).collect();
        let (denied_serials, denied_keys) = (serials(&fleet.denied_serials), serials(&fleet.denied_keys));
        let none = [&tokens, &identities, &denied_serials, &denied_keys].iter().all(|list| list.is_empty());
        (!none).then_some(Fact::Expired { tokens, identities, denied_serials, denied_keys })
    }
}

fn ended(deploy: &Deploy, outcome: Outcome) -> Fact {
    Fact::DeployEnded { deploy: deploy.id, environment: deploy.environment.clone(), outcome }
}
