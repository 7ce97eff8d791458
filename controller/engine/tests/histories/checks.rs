//! What must hold, checked where it happens and after every step.

use std::collections::BTreeSet;

use bunraku_common::{Digest, EnvironmentName, Generation, NodeName};
use bunraku_engine::{Deploy, DeployId, Environment, Fact, Outcome, Phase, Policy, Stage, Step};

use crate::world::{KEEPS, Property, World};

impl World {
    /// What is checked where it happens.
    pub(crate) fn before(&mut self, fact: &Fact) {
        match fact {
            Fact::DeployRequested { deploy, environment, kind, .. } if kind.name() != "plan" => {
                self.newest.insert(environment.clone(), *deploy);
            }
            Fact::StagingStarted { deploy, environment, nodes, .. } => {
                let compilers: BTreeSet<NodeName> =
                    self.state.fleet().compilers().map(|(name, _)| name.clone()).collect();
                if compilers != *nodes {
                    self.breaks(Property::I2, format!("deploy {deploy} requires {nodes:?} of {compilers:?}"));
                }
                self.required.insert(*deploy, compilers);
                let building = self.state.environments()[environment].active;
                if building.is_some_and(|active| active != *deploy) {
                    self.breaks(Property::I4, format!("deploy {deploy} stages beside {building:?}"));
                }
            }
            Fact::CommitDecided { deploy, environment, snapshot, generation } => {
                self.decided(*deploy, environment, *snapshot, *generation);
            }
            Fact::DeployEnded { outcome, .. } => match outcome {
                Outcome::Abandoned { .. } => self.counts.abandoned += 1,
                Outcome::Behind { .. } => self.counts.behind += 1,
                _ => {}
            },
            Fact::EnvironmentAdopted { environment, snapshot } => {
                self.counts.adopted += 1;
                let compilers = self.state.fleet().compilers().map(|(name, _)| name.clone());
                let compilers: Vec<NodeName> = compilers.collect();
                if compilers.iter().any(|name| self.node(name).served(environment).live != Some(*snapshot)) {
                    self.breaks(Property::I7, format!("{environment} adopted what not all serve"));
                }
            }
            _ => {}
        }
        if let Fact::DeployRequested { environment, kind, .. } = fact {
            let queued = self.state.environments().get(environment).and_then(|e| match kind.name() {
                "plan" => e.next_plan,
                _ => e.next,
            });
            self.counts.superseded += usize::from(queued.is_some());
        }
    }

    fn decided(
        &mut self,
        id: DeployId,
        environment: &EnvironmentName,
        snapshot: Digest,
        generation: Generation,
    ) {
        self.counts.decided += 1;
        let deploy = self.state.deploy(id).cloned().unwrap();
        let Phase::Staging { nodes, .. } = &deploy.phase else {
            return self.breaks(Property::I2, format!("deploy {id} is committed without staging"));
        };
        for name in self.required[&id].clone() {
            let staged = self.node(&name).served(environment).versions.contains(&snapshot);
            let excused = match &nodes[&name] {
                Stage::Waiting | bunraku_engine::Stage::Unable { .. } => false,
                Stage::Staged => staged,
                Stage::Skipped { .. } => deploy.policy == Policy::Skip,
                Stage::Dropped { reason } => ["held", "revoked", "removed"].contains(&reason.as_str()),
            };
            if !excused {
                self.breaks(Property::I2, format!("deploy {id} is committed while {name} has not staged"));
            }
        }
        let before = self.decisions.entry(environment.clone()).or_default();
        let late = before.last().is_some_and(|(last, ..)| *last >= id);
        before.push((id, generation, snapshot));
        if late {
            self.breaks(Property::I4, format!("deploy {id} is committed after a newer request was"));
        }
    }

    /// A node's live link names this snapshot.
    pub(crate) fn committed_on(
        &mut self,
        node: &NodeName,
        environment: &EnvironmentName,
        snapshot: Digest,
        generation: Generation,
    ) {
        let decisions = self.decisions.get(environment).map_or(&[][..], Vec::as_slice);
        let decision = decisions.iter().rposition(|(_, of, what)| *what == snapshot && *of <= generation);
        let Some(decision) = decision else {
            return self.breaks(Property::I2, format!("{node} committed what was not decided"));
        };
        let key = (node.clone(), environment.clone());
        let before = self.followed.insert(key, decision);
        if before.is_some_and(|before| before > decision) {
            self.breaks(Property::I5, format!("{node} went back in {environment} by an old order"));
        }
    }

    pub(crate) fn check(&mut self) {
        let mut broken = Vec::new();
        for (name, environment) in self.state.environments() {
            let mut moving = Vec::new();
            let mut queued = 0;
            for deploy in self.state.deploys().values().filter(|deploy| deploy.environment == *name) {
                match &deploy.phase {
                    Phase::Queued if !deploy.is_plan() => queued += 1,
                    Phase::Building { .. } | Phase::Staging { .. } | Phase::Committing { .. } => {
                        moving.push(deploy.id);
                    }
                    Phase::Queued | Phase::Ended { .. } => {}
                }
            }
            if moving.len() > 1 || queued > 1 || moving.first().copied() != environment.active {
                broken.push(format!("{name}: {moving:?} are active, {queued} queued"));
            }
            let newest = self.newest.get(name).and_then(|id| self.state.deploy(*id));
            broken.extend(newest.and_then(|deploy| lost(environment, deploy)));
        }
        broken.into_iter().for_each(|what| self.breaks(Property::I4, what));
    }

    pub(crate) fn check_end(&mut self) {
        let open: Vec<DeployId> = self
            .state
            .deploys()
            .values()
            .filter(|deploy| !deploy.is_ended())
            .map(|deploy| deploy.id)
            .collect();
        if !open.is_empty() {
            self.breaks(Property::I7, format!("deploys {open:?} do not end"));
        }
        for (name, environment) in self.state.environments().clone() {
            let Some(committed) = environment.committed.filter(|_| !environment.adopting) else {
                continue;
            };
            let compilers: Vec<NodeName> =
                self.state.fleet().compilers().map(|(name, _)| name.clone()).collect();
            for node in compilers {
                let served = self.node(&node).served(&name);
                if served.live != Some(committed.snapshot) || !served.proven {
                    self.breaks(Property::I7, format!("{node} does not serve what is committed of {name}"));
                }
                let mut kept = environment.retained.iter().take(KEEPS).map(|kept| kept.snapshot);
                if let Some(lacks) = kept.find(|snapshot| !served.versions.contains(snapshot)) {
                    let lacks = lacks.short();
                    self.breaks(Property::I7, format!("{node} lacks {lacks}, retained of {name}"));
                }
            }
        }
        if !self.state.behind().is_empty() {
            self.breaks(Property::I7, format!("{:?} for ever", self.state.alarms(self.now)));
        }
        let steps = self.steps();
        let late = |step: &Step| !matches!(step, Step::Discard { .. });
        if steps.iter().any(late) || self.state.deadline(&self.presence).is_some() {
            self.breaks(Property::I7, format!("there is always something left to do: {steps:?}"));
        }
    }
}

/// How the newest accepted request came to nothing though it could have won.
fn lost(environment: &Environment, deploy: &Deploy) -> Option<String> {
    let id = deploy.id;
    let Phase::Ended { outcome, built, .. } = &deploy.phase else {
        return None;
    };
    match outcome {
        Outcome::Superseded { .. } => Some(format!("the newest request {id} was superseded")),
        Outcome::Live { .. } | Outcome::Behind { .. } | Outcome::Unchanged { .. } => {
            let committed = environment.committed.as_ref().map(|c| c.snapshot);
            let won = environment.adopting || committed == built.as_ref().map(|b| b.snapshot);
            (!won).then(|| format!("the newest request {id} did not win"))
        }
        Outcome::Failed { .. } | Outcome::Abandoned { .. } | Outcome::Planned { .. } => None,
    }
}
