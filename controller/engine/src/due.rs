//! What the state itself demands: the next deploy's turn, the commit decision, deadlines, the end of a deploy.

use std::collections::BTreeSet;

use bunraku_common::{Digest, EnvironmentName, NodeName};

use crate::{
    Built, Commit, Deploy, DeployId, Environment, Fact, Kind, Millis, Outcome, Phase, Policy, Presence,
    Stage, State,
    apply::abandoned,
    deploy::{names, span},
};

/// Why a node cannot stage.
pub(crate) struct NodeFault<'a> {
    pub node: &'a NodeName,
    pub reason: String,
    /// May be empty.
    pub hint: String,
}

impl NodeFault<'_> {
    pub(crate) fn told(&self) -> String {
        match self.hint.as_str() {
            "" => self.reason.clone(),
            hint => format!("{} (hint: {hint})", self.reason),
        }
    }
}

impl State {
    /// What the state itself demands now: facts to journal and apply, then to ask again, until there are none. Without
    /// a presence nobody counts as unreachable.
    ///
    /// At most one deploy of each environment is moved a step; each fact here makes its own condition false.
    pub fn due(&self, presence: Option<&Presence>, now: Millis) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (name, environment) in &self.environments {
            match environment.active.and_then(|id| self.deploys.get(&id)) {
                Some(deploy) => facts.extend(self.due_in(deploy, presence, now)),
                None => facts.extend(self.due_rollback(name, environment)),
            }
        }
        facts.extend(self.due_build());
        facts.extend(presence.into_iter().flat_map(|presence| self.due_balance(presence, now)));
        if facts.is_empty() {
            facts.extend(presence.and_then(|presence| self.due_follow(presence, now)));
        }
        if facts.is_empty() {
            facts.extend(presence.and_then(|presence| self.due_crl(presence, now)));
        }
        if facts.is_empty() {
            facts.extend(presence.into_iter().flat_map(|presence| self.due_rollouts(presence, now)));
        }
        if facts.is_empty() {
            facts.extend(presence.and_then(|presence| self.due_renewal(presence, now)));
        }
        if facts.is_empty() {
            facts.extend(presence.and_then(|presence| self.due_certificates(presence, now)));
        }
        if facts.is_empty() {
            facts.extend(self.due_adoptions());
        }
        facts
    }

    fn due_rollback(&self, name: &EnvironmentName, environment: &Environment) -> Option<Fact> {
        let deploy = self.deploys.get(&environment.next?)?;
        let Kind::Rollback { snapshot } = deploy.kind else {
            return None;
        };
        let retained = environment.retained.iter().find(|kept| kept.snapshot == snapshot);
        let commit = retained.and_then(|kept| kept.commit.clone());
        let stale_ruby = environment.changes_loaded_ruby(&snapshot);
        // A node that does not hold the version any more must generate its types again.
        Some(self.after_build(deploy, name, Built { snapshot, commit, generate_types: true, stale_ruby }))
    }

    /// The oldest request first, of the environments that are free.
    fn due_build(&self) -> Option<Fact> {
        let building = |deploy: &&Deploy| matches!(deploy.phase, Phase::Building { .. });
        if self.active_deploys().filter(building).count() >= self.settings.parallel_builds.max(1) {
            return None;
        }
        let free = self.environments.values().filter(|environment| environment.active.is_none());
        let next: BTreeSet<DeployId> = free.filter_map(|free| free.next.or(free.next_plan)).collect();
        let mut deploys = next.iter().filter_map(|id| self.deploys.get(id));
        let deploy = deploys.find(|deploy| !matches!(deploy.kind, Kind::Rollback { .. }))?;
        Some(Fact::BuildStarted { deploy: deploy.id, environment: deploy.environment.clone() })
    }

    /// What becomes of a deploy whose snapshot is known.
    pub(crate) fn after_build(&self, deploy: &Deploy, name: &EnvironmentName, built: Built) -> Fact {
        let environment = &self.environments[name];
        let committed = environment.committed.as_ref().filter(|_| !environment.adopting);
        let nodes: BTreeSet<NodeName> = self.fleet.compilers().map(|(node, _)| node.clone()).collect();
        let outcome = if deploy.is_plan() {
            Outcome::Planned { built }
        } else if committed.is_some_and(|committed| committed.snapshot == built.snapshot) {
            // Whoever is behind is brought to it anyway.
            Outcome::Unchanged { built }
        } else if nodes.is_empty() {
            self.nobody_to_deploy_to()
        } else {
            return Fact::StagingStarted {
                deploy: deploy.id,
                environment: name.clone(),
                built,
                generation: environment.generation.next(),
                nodes,
            };
        };
        Fact::DeployEnded { deploy: deploy.id, environment: name.clone(), outcome }
    }

    fn nobody_to_deploy_to(&self) -> Outcome {
        let held = self.fleet.nodes.iter().find(|(_, node)| node.is_compiler() && node.held.is_some());
        let (reason, hint) = match held {
            Some((node, _)) => ("every compiler is held", format!("bunraku nodes release {node}")),
            None => (
                "no compiler is enrolled",
                "bunraku token create NODE --role compiler, then enrol it".to_owned(),
            ),
        };
        Outcome::Failed { reason: reason.to_owned(), hint }
    }

    fn due_in(&self, deploy: &Deploy, presence: Option<&Presence>, now: Millis) -> Vec<Fact> {
        let end = |outcome| {
            vec![Fact::DeployEnded { deploy: deploy.id, environment: deploy.environment.clone(), outcome }]
        };
        match &deploy.phase {
            Phase::Queued | Phase::Ended { .. } => Vec::new(),
            Phase::Building { since } => {
                if now < since.saturating_add(self.settings.build_deadline) {
                    return Vec::new();
                }
                let reason = format!("the build did not end within {}", span(self.settings.build_deadline));
                end(Outcome::Failed { reason, hint: format!("bunraku deploys show {}", deploy.id) })
            }
            Phase::Staging { nodes, built, generation, .. } => {
                let faults = self.staging_faults(deploy, presence, now);
                if !faults.is_empty() {
                    return self.node_faults(deploy, &faults, presence, now);
                }
                if nodes.values().any(Stage::is_open) {
                    return Vec::new();
                }
                if !nodes.values().any(|stage| *stage == Stage::Staged) {
                    let left = names(nodes.keys());
                    let reason = format!("no compiler is left to deploy to (skipped or dropped: {left})");
                    return end(abandoned(reason, "bunraku nodes list".to_owned()));
                }
                vec![Fact::CommitDecided {
                    deploy: deploy.id,
                    environment: deploy.environment.clone(),
                    snapshot: built.snapshot,
                    generation: *generation,
                }]
            }
            Phase::Committing { nodes, deadline, .. } => {
                if now < *deadline && nodes.values().any(Commit::is_open) {
                    return Vec::new();
                }
                let late = |commit: &Commit| commit.is_open() || matches!(commit, Commit::Skipped { .. });
                let behind: BTreeSet<NodeName> =
                    nodes.iter().filter(|(_, commit)| late(commit)).map(|(node, _)| node.clone()).collect();
                let skew_ms = skew(nodes.values());
                end(if behind.is_empty() {
                    Outcome::Live { skew_ms }
                } else {
                    Outcome::Behind { nodes: behind, skew_ms }
                })
            }
        }
    }

    /// The nodes of a deploy that cannot stage, and why.
    pub(crate) fn staging_faults<'a>(
        &self,
        deploy: &'a Deploy,
        presence: Option<&Presence>,
        now: Millis,
    ) -> Vec<NodeFault<'a>> {
        let Phase::Staging { nodes, deadline, .. } = &deploy.phase else { return Vec::new() };
        let fault = |(node, stage): (&'a NodeName, &'a Stage)| match stage {
            Stage::Waiting => self.fault_of(node, *deadline, presence, now),
            Stage::Unable { reason, hint } => {
                Some(NodeFault { node, reason: reason.clone(), hint: hint.clone() })
            }
            Stage::Staged | Stage::Skipped { .. } | Stage::Dropped { .. } => None,
        };
        nodes.iter().filter_map(fault).collect()
    }

    /// Why a node that has not staged counts as failed, if it does.
    fn fault_of<'a>(
        &self,
        node: &'a NodeName,
        deadline: Millis,
        presence: Option<&Presence>,
        now: Millis,
    ) -> Option<NodeFault<'a>> {
        let gone = presence.and_then(|presence| self.unreachable_at(node, presence));
        let (reason, hint) = if gone.is_some_and(|at| at <= now) {
            let reason = format!("no connection for {}", span(self.settings.unreachable));
            (reason, "systemctl status bunraku-agent")
        } else if deadline <= now {
            let reason = format!("not staged within {}", span(self.settings.stage_deadline));
            (reason, "journalctl -u bunraku-agent")
        } else {
            return None;
        };
        Some(NodeFault { node, reason, hint: hint.to_owned() })
    }

    /// What nodes that cannot stage do to the deploy, by its policy.
    fn node_faults(
        &self,
        deploy: &Deploy,
        faults: &[NodeFault<'_>],
        presence: Option<&Presence>,
        now: Millis,
    ) -> Vec<Fact> {
        match deploy.policy {
            Policy::Drain if self.balancers().next().is_some() => {
                presence.map_or(Vec::new(), |presence| self.faults_drained(deploy, faults, presence, now))
            }
            Policy::Fail | Policy::Drain => self.abandoned_for(deploy, faults),
            Policy::Skip => faults
                .iter()
                .map(|fault| Fact::NodeSkipped {
                    deploy: deploy.id,
                    environment: deploy.environment.clone(),
                    node: fault.node.clone(),
                    reason: fault.told(),
                })
                .collect(),
        }
    }

    /// A node that said that it cannot stage.
    pub(crate) fn stage_failed(&self, deploy: &Deploy, fault: &NodeFault<'_>) -> Vec<Fact> {
        match deploy.policy {
            Policy::Drain if self.balancers().next().is_some() => vec![Fact::NodeUnable {
                deploy: deploy.id,
                environment: deploy.environment.clone(),
                node: fault.node.clone(),
                reason: fault.reason.clone(),
                hint: fault.hint.clone(),
            }],
            Policy::Fail | Policy::Skip | Policy::Drain => {
                self.node_faults(deploy, std::slice::from_ref(fault), None, 0)
            }
        }
    }

    pub(crate) fn abandoned_for(&self, deploy: &Deploy, faults: &[NodeFault<'_>]) -> Vec<Fact> {
        match faults {
            [] => Vec::new(),
            [first, ..] => {
                let NodeFault { node: first, reason, hint } = first;
                let more = match faults.len() {
                    1 => String::new(),
                    all => format!(" (and {} more)", all - 1),
                };
                let mend = if hint.is_empty() { "mend it" } else { hint };
                let outcome = Outcome::Abandoned {
                    reason: format!("{first} could not stage: {reason}{more}"),
                    hint: format!(
                        "on {first}: {mend}; or go on without it: bunraku nodes hold {first} --reason '…'"
                    ),
                    failed: faults.iter().map(|fault| (fault.node.clone(), fault.reason.clone())).collect(),
                };
                vec![Fact::DeployEnded {
                    deploy: deploy.id,
                    environment: deploy.environment.clone(),
                    outcome,
                }]
            }
        }
    }

    /// After a takeover: environments of which every compiler has said, since then, that it serves the same. Not while
    /// a deploy is under way: its decision settles the question, and its generation must stay the newest.
    fn due_adoptions(&self) -> Vec<Fact> {
        let adoptable = self.adoptable().into_iter().filter_map(|name| {
            let environment = self.environments.get(&name);
            if environment.is_some_and(|environment| environment.active.is_some()) {
                return None;
            }
            let snapshot = self.served_by_all(&name)?;
            let committed = environment.and_then(|environment| environment.committed.as_ref());
            (committed.is_none_or(|committed| committed.snapshot != snapshot))
                .then_some(Fact::EnvironmentAdopted { environment: name, snapshot })
        });
        adoptable.collect()
    }

    /// Environments that are not decided again since the takeover, also those that only the nodes know.
    pub(crate) fn adoptable(&self) -> BTreeSet<EnvironmentName> {
        if self.takeover.is_none() {
            return BTreeSet::new();
        }
        let known = self.environments.iter().filter(|(_, e)| e.adopting).map(|(name, _)| name);
        let reported = self.fleet.compilers().flat_map(|(_, node)| node.environments.keys());
        let reported = reported.filter(|name| !self.environments.contains_key(*name));
        known.chain(reported).cloned().collect()
    }

    fn served_by_all(&self, name: &EnvironmentName) -> Option<Digest> {
        let mut served: BTreeSet<Option<Digest>> = BTreeSet::new();
        for (_, node) in self.fleet.compilers() {
            served.insert(self.served_since_takeover(node, name)?);
        }
        let mut served = served.into_iter();
        match (served.next(), served.next()) {
            (Some(one), None) => one,
            _ => None,
        }
    }

    /// `None`: the node has not spoken since the takeover. `Some(None)`: it has, and serves nothing there.
    pub(crate) fn served_since_takeover(
        &self,
        node: &crate::NodeRecord,
        name: &EnvironmentName,
    ) -> Option<Option<Digest>> {
        let spoke = node.observed_in >= self.takeover?;
        spoke.then(|| node.environments.get(name).and_then(|on_node| on_node.live))
    }
}

/// First to last swap, as far as the nodes' clocks told.
fn skew<'a>(commits: impl Iterator<Item = &'a Commit>) -> Option<u64> {
    let swaps: Vec<u64> = commits
        .filter_map(|commit| match commit {
            Commit::Proven { swapped_ms } => *swapped_ms,
            Commit::Waiting
            | Commit::Owing { .. }
            | Commit::Unstaged { .. }
            | Commit::Skipped { .. }
            | Commit::Dropped { .. } => None,
        })
        .collect();
    Some(swaps.iter().max()? - swaps.iter().min()?)
}
