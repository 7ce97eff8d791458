//! A fact changes the state. Total: a fact that does not fit changes nothing, because the journal is the truth and
//! `decide`, `observe` and `due` have checked before.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Digest, EnvironmentName, Generation, NodeName};

use crate::{
    Balance, Built, Commit, Committed, Deploy, DeployId, DrainOwner, Environment, Fact, Held, Kind, Millis,
    Outcome, Phase, Policy, Proof, Retained, RolloutPhase, Stage, State, Wanted, deploy::JOINED_SHOWN,
    environment::Discard, fact::Serving, renewal::StaleRuby,
};

impl State {
    /// Changes the state by one journalled fact. `at`: the controller time of its record.
    pub fn apply(&mut self, fact: &Fact, at: Millis) {
        match fact {
            Fact::TermBegan { term, takeover } => {
                self.term = Some(*term);
                if let Some(reason) = takeover {
                    self.takeover = Some(term.number);
                    self.take_over(reason, at);
                }
            }
            Fact::SettingsChanged { settings } => self.settings = settings.clone(),
            Fact::DeployRequested { deploy, environment, branch, kind, policy, who } => {
                self.requested(*deploy, environment, branch, kind, *policy, who, at);
            }
            Fact::DeployJoined { deploy, who, environment: _ } => {
                if let Some(deploy) = self.deploys.get_mut(deploy)
                    && deploy.joined.len() < JOINED_SHOWN
                {
                    deploy.joined.insert(who.clone());
                }
            }
            Fact::BuildStarted { deploy, environment } => {
                self.activate(*deploy, environment);
                if let Some(deploy) = self.deploys.get_mut(deploy) {
                    deploy.phase = Phase::Building { since: at };
                }
            }
            Fact::StagingStarted { deploy, environment, built, generation, nodes } => {
                self.staging_started(*deploy, environment, built, *generation, nodes, at);
            }
            Fact::NodeStaged { deploy, node, environment: _ } => self.set_stage(*deploy, node, Stage::Staged),
            Fact::NodeUnstaged { deploy, node, environment: _ } => {
                self.set_stage(*deploy, node, Stage::Waiting);
                self.unstaged(*deploy, node);
            }
            Fact::NodeUnable { deploy, node, reason, hint, environment: _ } => {
                let (reason, hint) = (reason.clone(), hint.clone());
                self.set_stage(*deploy, node, Stage::Unable { reason, hint });
            }
            Fact::NodeSkipped { deploy, node, reason, environment: _ } => {
                self.set_stage(*deploy, node, Stage::Skipped { reason: reason.clone() });
            }
            Fact::CommitDecided { deploy, environment, .. } => self.commit_decided(*deploy, environment, at),
            Fact::NodeOwes { environment, node, generation, owed, snapshot: _ } => {
                self.on_node(node, environment, |on_node| on_node.owed = owed.clone());
                self.set_commit(environment, node, *generation, Commit::Owing { owed: owed.clone() });
            }
            Fact::NodeProven { environment, node, snapshot, generation, swapped_ms } => {
                self.on_node(node, environment, |on_node| {
                    on_node.live = Some(*snapshot);
                    on_node.proven = Some(Proof { snapshot: *snapshot, generation: *generation });
                    on_node.owed.clear();
                });
                self.ruby_may_be_old(node, at);
                self.set_commit(environment, node, *generation, Commit::Proven { swapped_ms: *swapped_ms });
            }
            Fact::DeployEnded { deploy, outcome, environment: _ } => self.end(*deploy, outcome.clone(), at),
            Fact::Discarded { environment, node, snapshot } => {
                if let Some(environment) = self.environments.get_mut(environment)
                    && let Some(discard) = environment.discard.as_mut().filter(|d| d.snapshot == *snapshot)
                {
                    discard.nodes.remove(node);
                    if discard.nodes.is_empty() {
                        environment.discard = None;
                    }
                }
            }
            Fact::EnvironmentReleased { environment, who: _ } => {
                if let Some(environment) = self.environments.get_mut(environment) {
                    environment.held = None;
                }
            }
            Fact::EnvironmentAdopted { environment, snapshot } => self.adopted(environment, *snapshot, at),
            Fact::NodeObserved { node, environments } => self.observed(node, environments, at),
            Fact::NodeEnrolled { .. }
            | Fact::NodeRevoked { .. }
            | Fact::IdentityCut { .. }
            | Fact::NodeAllowed { .. }
            | Fact::NodeHeld { .. }
            | Fact::NodeReleased { .. }
            | Fact::NodeLabelled { .. }
            | Fact::NodeRemoved { .. }
            | Fact::HealAsked { .. }
            | Fact::CompilerSetUp { .. }
            | Fact::PuppetCertificateRevoked { .. }
            | Fact::TokenCreated { .. }
            | Fact::TokenRevoked { .. }
            | Fact::OperatorAdded { .. }
            | Fact::OperatorEnrolled { .. }
            | Fact::OperatorRevoked { .. }
            | Fact::Expired { .. } => self.apply_fleet(fact, at),
            Fact::BalanceWanted { compiler, wanted, generation, min_available, undone, refused } => {
                let balance = Balance {
                    wanted: wanted.clone(),
                    generation: *generation,
                    decided_at: at,
                    min_available: *min_available,
                    agreed_at: None,
                    undone: undone.clone(),
                    refused: *refused,
                };
                let before = self.balance.insert(compiler.clone(), balance);
                let was_ours = before.is_some_and(|before| before.owner() == Some(&DrainOwner::Crl));
                if was_ours && *wanted == Wanted::Ready && undone.is_none() {
                    self.revocations.overruled(compiler);
                }
            }
            Fact::BalanceAgreed { compiler, generation } => {
                let balance = self.balance.get_mut(compiler);
                if let Some(balance) = balance.filter(|balance| balance.generation == *generation) {
                    balance.agreed_at = Some(at);
                }
            }
            Fact::RolloutStarted { rollout, action, policy, waves, undrained, who } => {
                self.rollout_started(*rollout, action, policy, waves, undrained, who, at);
            }
            Fact::TurnMoved { rollout, node, to, generation, retreat } => {
                self.turn_moved(*rollout, node, *to, *generation, retreat.as_ref(), at);
            }
            Fact::TurnJudged { rollout, node, verdict } => self.turn_judged(*rollout, node, verdict, at),
            Fact::PuppetReleased { node } => {
                self.puppet_held.remove(node);
            }
            Fact::RolloutPaused { rollout, reason } => {
                self.rollout_phase(*rollout, RolloutPhase::Paused { reason: reason.clone(), since: at });
            }
            Fact::RolloutResumed { rollout, who: _ } => self.rollout_phase(*rollout, RolloutPhase::Running),
            Fact::RolloutRetargeted { rollout, action, who: _ } => self.rollout_retargeted(*rollout, action),
            Fact::RolloutAimed { rollout } => self.rollout_aimed(*rollout, at),
            Fact::RolloutAborting { rollout, reason } => {
                self.rollout_phase(*rollout, RolloutPhase::Aborting { reason: reason.clone() });
            }
            Fact::RolloutEnded { rollout, outcome } => {
                self.rollout_phase(*rollout, RolloutPhase::Ended { outcome: outcome.clone(), at });
            }
            Fact::Crl(fact) => self.revocations.apply(fact, at),
            Fact::Certificate(fact) => self.certificates.apply(fact, at),
            Fact::Refused { .. } => {}
            Fact::CaRotationMoved { .. } | Fact::AnchorsHeld { .. } => {}
        }
        self.apply_authority(fact, at);
    }

    /// The nodes know better than this journal: nothing goes on, and nothing is brought anywhere, until asked.
    fn take_over(&mut self, reason: &str, at: Millis) {
        let open: Vec<DeployId> = self.deploys.values().filter(|d| !d.is_ended()).map(|d| d.id).collect();
        for id in open {
            self.end(
                id,
                abandoned(format!("the controller took over: {reason}"), "deploy again".to_owned()),
                at,
            );
        }
        // What the balancers were told stays as it is there, until somebody asks.
        self.balance.clear();
        self.stale_ruby.clear();
        self.take_over_rollouts(reason, at);
        for environment in self.environments.values_mut() {
            environment.adopting = true;
            environment.discard = None;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one fact")]
    fn requested(
        &mut self,
        id: DeployId,
        name: &EnvironmentName,
        branch: &str,
        kind: &Kind,
        policy: Policy,
        who: &str,
        at: Millis,
    ) {
        self.last_deploy = self.last_deploy.max(id);
        let environment =
            self.environments.entry(name.clone()).or_insert_with(|| Environment::new(branch.to_owned()));
        let superseded = match kind {
            Kind::Plan { .. } => environment.next_plan.replace(id),
            Kind::Build { .. } => {
                branch.clone_into(&mut environment.branch);
                environment.next.replace(id)
            }
            Kind::Rollback { snapshot } => {
                let why = format!("rollback to {}", snapshot.short());
                environment.held = Some(Held { who: who.to_owned(), why, since: at });
                environment.next.replace(id)
            }
        };
        let active = environment.active.filter(|_| matches!(kind, Kind::Rollback { .. }));
        self.deploys.insert(
            id,
            Deploy {
                id,
                environment: name.clone(),
                branch: branch.to_owned(),
                kind: kind.clone(),
                policy,
                who: who.to_owned(),
                joined: BTreeSet::new(),
                requested_at: at,
                previous: None,
                phase: Phase::Queued,
            },
        );
        if let Some(old) = superseded {
            self.end(old, Outcome::Superseded { by: id }, at);
        }
        if let Some(active) = active.filter(|id| !self.is_committing(*id)) {
            let outcome = abandoned(format!("{who} asked for a rollback"), String::new());
            self.end(active, outcome, at);
        }
    }

    fn is_committing(&self, id: DeployId) -> bool {
        self.deploys.get(&id).is_some_and(|deploy| matches!(deploy.phase, Phase::Committing { .. }))
    }

    /// It leaves the queue and takes the environment.
    fn activate(&mut self, id: DeployId, name: &EnvironmentName) {
        if let Some(environment) = self.environments.get_mut(name) {
            environment.next.take_if(|next| *next == id);
            environment.next_plan.take_if(|next| *next == id);
            environment.active = Some(id);
        }
    }

    fn staging_started(
        &mut self,
        id: DeployId,
        name: &EnvironmentName,
        built: &Built,
        generation: Generation,
        nodes: &BTreeSet<NodeName>,
        at: Millis,
    ) {
        self.activate(id, name);
        let deadline = at.saturating_add(self.settings.stage_deadline);
        let (Some(environment), Some(deploy)) = (self.environments.get_mut(name), self.deploys.get_mut(&id))
        else {
            return;
        };
        environment.generation = generation;
        environment.discard = None;
        deploy.previous = environment.committed.as_ref().map(|c| c.snapshot);
        let nodes = nodes.iter().map(|node| (node.clone(), Stage::Waiting)).collect();
        deploy.phase = Phase::Staging { built: built.clone(), generation, nodes, deadline };
    }

    fn set_stage(&mut self, id: DeployId, node: &NodeName, to: Stage) {
        if let Some(Phase::Staging { nodes, .. }) = self.deploys.get_mut(&id).map(|deploy| &mut deploy.phase)
            && let Some(stage) = nodes.get_mut(node)
            && matches!(stage, Stage::Waiting | Stage::Unable { .. } | Stage::Staged)
        {
            *stage = to;
        }
    }

    /// A node's progress, where the environment's active deploy is the one that committed this generation.
    fn set_commit(&mut self, name: &EnvironmentName, node: &NodeName, of: Generation, to: Commit) {
        let active = self.environments.get(name).and_then(|environment| environment.active);
        if let Some(deploy) = active.and_then(|id| self.deploys.get_mut(&id))
            && let Phase::Committing { nodes, generation, .. } = &mut deploy.phase
            && *generation == of
            && let Some(commit) = nodes.get_mut(node)
            && !matches!(commit, Commit::Dropped { .. } | Commit::Skipped { .. })
        {
            *commit = match (&commit, to) {
                // What it owes is that it is staged again.
                (Commit::Unstaged { .. }, Commit::Owing { owed }) => Commit::Unstaged { owed },
                (_, to) => to,
            };
        }
    }

    /// A node that has nothing to commit, after the decision.
    fn unstaged(&mut self, id: DeployId, node: &NodeName) {
        if let Some(Phase::Committing { nodes, .. }) =
            self.deploys.get_mut(&id).map(|deploy| &mut deploy.phase)
            && let Some(commit) = nodes.get_mut(node).filter(|commit| commit.is_open())
        {
            *commit = Commit::Unstaged { owed: String::new() };
        }
    }

    fn commit_decided(&mut self, id: DeployId, name: &EnvironmentName, at: Millis) {
        let deadline = at.saturating_add(self.settings.commit_deadline);
        let (Some(environment), Some(deploy)) = (self.environments.get_mut(name), self.deploys.get_mut(&id))
        else {
            return;
        };
        let Phase::Staging { built, generation, nodes, .. } = &deploy.phase else {
            return;
        };
        let committed = Committed { snapshot: built.snapshot, generation: *generation, at };
        environment.committed = Some(committed);
        environment.adopting = false;
        retain(environment, deploy, built, self.settings.retained, at);
        if built.stale_ruby {
            let left = StaleRuby { since: at, deploy: id, rollout: None };
            self.stale_ruby.extend(nodes.keys().map(|node| (node.clone(), left.clone())));
        }
        let nodes = nodes.iter().map(|(node, stage)| (node.clone(), stage.committing())).collect();
        deploy.phase = Phase::Committing { built: built.clone(), generation: *generation, nodes, deadline };
    }

    /// Ends a deploy, wherever it is, and frees its environment's slot.
    pub(crate) fn end(&mut self, id: DeployId, outcome: Outcome, at: Millis) {
        let Some(deploy) = self.deploys.get_mut(&id).filter(|deploy| !deploy.is_ended()) else {
            return;
        };
        let nodes = deploy.nodes_at_end(&outcome);
        let built = match &outcome {
            Outcome::Unchanged { built } | Outcome::Planned { built } => Some(built.clone()),
            Outcome::Live { .. }
            | Outcome::Behind { .. }
            | Outcome::Failed { .. }
            | Outcome::Abandoned { .. }
            | Outcome::Superseded { .. } => deploy.built().cloned(),
        };
        let generation = deploy.generation();
        let ended = Phase::Ended { outcome, at, built, generation, nodes };
        let before = std::mem::replace(&mut deploy.phase, ended);
        if let Some(environment) = self.environments.get_mut(&deploy.environment) {
            environment.next.take_if(|next| *next == id);
            environment.next_plan.take_if(|next| *next == id);
            environment.active.take_if(|active| *active == id);
            match before {
                Phase::Queued | Phase::Building { .. } => {
                    deploy.previous = environment.committed.as_ref().map(|c| c.snapshot);
                }
                Phase::Staging { built, nodes, .. } => {
                    // The staged generation stands for the abandoned snapshot for ever: what is committed gets a
                    // newer number, which nodes that saw the stage will still obey.
                    environment.generation = environment.generation.next();
                    let staged = nodes.into_keys().collect();
                    let until = at.saturating_add(self.settings.discard);
                    let wanted = environment.needs(&built.snapshot);
                    environment.discard =
                        (!wanted).then_some(Discard { snapshot: built.snapshot, nodes: staged, until });
                }
                Phase::Committing { .. } | Phase::Ended { .. } => {}
            }
        }
        self.forget_old_deploys();
    }

    fn forget_old_deploys(&mut self) {
        let ended: Vec<DeployId> = self.deploys.values().filter(|d| d.is_ended()).map(|d| d.id).collect();
        let too_many = ended.len().saturating_sub(self.settings.ended_deploys);
        for id in &ended[..too_many] {
            self.deploys.remove(id);
        }
    }

    fn adopted(&mut self, name: &EnvironmentName, snapshot: Digest, at: Millis) {
        let environment = self
            .environments
            .entry(name.clone())
            .or_insert_with(|| Environment { adopting: true, ..Environment::new(name.to_string()) });
        environment.generation = environment.generation.next();
        let generation = environment.generation;
        environment.committed = Some(Committed { snapshot, generation, at });
    }

    fn observed(&mut self, name: &NodeName, serving: &[Serving], at: Millis) {
        let term = self.term.map_or(0, |term| term.number);
        let Some(node) = self.fleet.nodes.get_mut(name) else {
            return;
        };
        node.observed_in = term;
        let before = std::mem::take(&mut node.environments);
        for Serving { environment, live, proven } in serving {
            let mut on_node = before.get(environment).cloned().unwrap_or_default();
            on_node.live = *live;
            let believed = on_node.proven.filter(|proof| *proven && Some(proof.snapshot) == *live);
            if on_node.proven.is_some() && believed.is_none() {
                on_node.lost_at = Some(at);
            }
            on_node.proven = believed;
            node.environments.insert(environment.clone(), on_node);
        }
        for (environment, lost) in before {
            node.environments.entry(environment).or_insert_with(|| {
                let lost_at = lost.proven.map(|_| at).or(lost.lost_at);
                crate::OnNode { lost_at, ..crate::OnNode::default() }
            });
        }
        self.unprove(name);
    }
}

impl State {
    /// A node that lost its proof is open again in the deploys that are committing.
    fn unprove(&mut self, name: &NodeName) {
        let Some(node) = self.fleet.nodes.get(name) else {
            return;
        };
        for environment in self.environments.values() {
            let Some(deploy) = environment.active.and_then(|id| self.deploys.get_mut(&id)) else {
                continue;
            };
            let Phase::Committing { nodes, .. } = &mut deploy.phase else {
                continue;
            };
            if let (Some(commit), Some(committed)) = (nodes.get_mut(name), &environment.committed)
                && matches!(commit, Commit::Proven { .. })
                && !node.has_proven(&deploy.environment, committed)
            {
                *commit = Commit::Waiting;
            }
        }
    }

    pub(crate) fn on_node(
        &mut self,
        node: &NodeName,
        environment: &EnvironmentName,
        change: impl FnOnce(&mut crate::OnNode),
    ) {
        if let Some(node) = self.fleet.nodes.get_mut(node) {
            change(node.environments.entry(environment.clone()).or_default());
        }
    }
}

pub(crate) fn abandoned(reason: String, hint: String) -> Outcome {
    Outcome::Abandoned { reason, hint, failed: BTreeMap::new() }
}

/// Remembers a committed snapshot for rollback. A rollback keeps the snapshot's place, so that a second one goes
/// further back; a build puts it first.
fn retain(environment: &mut Environment, deploy: &Deploy, built: &Built, keep: usize, at: Millis) {
    let known = environment.retained.iter().position(|kept| kept.snapshot == built.snapshot);
    match (&deploy.kind, known) {
        (Kind::Rollback { .. }, Some(_)) => {}
        (Kind::Rollback { .. } | Kind::Build { .. } | Kind::Plan { .. }, known) => {
            if let Some(at) = known {
                environment.retained.remove(at);
            }
            let kept = Retained {
                snapshot: built.snapshot,
                commit: built.commit.clone(),
                who: deploy.who.clone(),
                deploy: deploy.id,
                committed_at: at,
                stale_ruby: built.stale_ruby,
            };
            environment.retained.insert(0, kept);
        }
    }
    let live = built.snapshot;
    let mut place = 0;
    environment.retained.retain(|kept| {
        place += 1;
        place <= keep || kept.snapshot == live
    });
}
