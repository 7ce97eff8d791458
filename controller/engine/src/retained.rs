//! Which compilers lack a retained snapshot, and the steps that bring it to them: a rollback may go there, and a static
//! catalog may ask any compiler for one of its files.
//!
//! It is known from what nodes say while they are connected and never journalled: a fleet that comes back says it
//! again.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Digest, EnvironmentName, NodeName};

use crate::{Event, Fact, Phase, Presence, Seen, Stage, State, Step};

/// What connected nodes lack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lacking(BTreeMap<NodeName, Lacks>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lacks {
    /// How many versions of an environment the node keeps.
    keeps: usize,
    /// Retained snapshots that it is not known to hold, newest first. Only where something lacks, so that a fleet that
    /// lacks nothing costs next to nothing.
    environments: BTreeMap<EnvironmentName, Vec<Digest>>,
}

impl Lacking {
    pub(crate) fn forget(&mut self, node: &NodeName) {
        self.0.remove(node);
    }

    fn has(&mut self, node: &NodeName, environment: &EnvironmentName, snapshot: &Digest) {
        let Some(lacks) = self.0.get_mut(node) else { return };
        if let Some(snapshots) = lacks.environments.get_mut(environment) {
            snapshots.retain(|lacks| lacks != snapshot);
            if snapshots.is_empty() {
                lacks.environments.remove(environment);
            }
        }
    }
}

impl Presence {
    /// What an event says of the versions that a node holds.
    ///
    /// An answer is final for this connection: a node that will not hold a snapshot is not asked in a loop.
    pub fn learn(&mut self, event: &Event, state: &State) {
        match event {
            Event::NodeObserved { node, environments, keeps } => {
                let seen: BTreeMap<&EnvironmentName, &Seen> =
                    environments.iter().map(|seen| (&seen.environment, seen)).collect();
                let lacks = state.environments.iter().filter_map(|(name, environment)| {
                    let holds = |snapshot: &Digest| {
                        seen.get(name).is_some_and(|seen| seen.versions.contains(snapshot))
                    };
                    let kept = environment.retained.iter().take(*keeps).map(|kept| kept.snapshot);
                    let lacks: Vec<Digest> = kept.filter(|snapshot| !holds(snapshot)).collect();
                    (!lacks.is_empty()).then(|| (name.clone(), lacks))
                });
                let lacks = Lacks { keeps: *keeps, environments: lacks.collect() };
                self.lacking.0.insert(node.clone(), lacks);
            }
            Event::Committed { environment, node, proven: true, snapshot, .. }
            | Event::RetainedStaged { environment, node, snapshot } => {
                self.lacking.has(node, environment, snapshot);
            }
            Event::RetainedRefused { environment, node, reason: _ } => {
                if let Some(lacks) = self.lacking.0.get_mut(node) {
                    lacks.environments.remove(environment);
                }
            }
            Event::TurnStepFailed { node, generation, reason, .. } => {
                self.said.insert(node.clone(), (*generation, reason.clone()));
            }
            Event::Tick
            | Event::Configured { .. }
            | Event::BuildDone { .. }
            | Event::BuildFailed { .. }
            | Event::Staged { .. }
            | Event::StageFailed { .. }
            | Event::NotStaged { .. }
            | Event::Committed { .. }
            | Event::BringFailed { .. }
            | Event::Discarded { .. }
            | Event::BalanceRefused { .. }
            | Event::TurnStepDone { .. }
            | Event::PuppetRevoked { .. }
            | Event::Crl(_)
            | Event::Certificate(_)
            | Event::Housekeeping { .. }
            | Event::AnchorsSeen { .. } => {}
        }
    }

    /// What a fact, before it is applied, takes away: a commit that a node has not staged passes it by.
    pub fn decided(&mut self, fact: &Fact, state: &State) {
        let Fact::CommitDecided { deploy, environment, snapshot, .. } = fact else { return };
        let Some(Phase::Staging { nodes, .. }) = state.deploy(*deploy).map(|deploy| &deploy.phase) else {
            return;
        };
        for (node, lacks) in &mut self.lacking.0 {
            if nodes.get(node) == Some(&Stage::Staged) || lacks.keeps == 0 {
                continue;
            }
            let snapshots = lacks.environments.entry(environment.clone()).or_default();
            snapshots.retain(|lacks| lacks != snapshot);
            snapshots.insert(0, *snapshot);
            snapshots.truncate(lacks.keeps);
        }
    }
}

impl State {
    /// Adds retained snapshots, one at a time for each node, to nodes that have nothing else to do.
    pub(crate) fn retains(&self, presence: &Presence, steps: &mut Vec<Step>) {
        if presence.lacking.0.values().all(|lacks| lacks.environments.is_empty()) {
            return;
        }
        // Puppet's CRLs and certificates have nothing to do with code.
        let about_code = |step: &&Step| {
            !matches!(
                step,
                Step::InstallCrl { .. }
                    | Step::ProveCrl { .. }
                    | Step::RequestCertificate { .. }
                    | Step::StageCertificate { .. }
            )
        };
        let busy: BTreeSet<NodeName> =
            steps.iter().filter(about_code).filter_map(|step| step.node().cloned()).collect();
        for (node, lacks) in presence.lacking.0.iter().filter(|(_, lacks)| !lacks.environments.is_empty()) {
            let record = self.fleet.nodes.get(node).filter(|record| record.is_active_compiler());
            // Who is not proven is busy: it is brought to what is committed.
            if record.is_none() || !presence.is_connected(node) || busy.contains(node) {
                continue;
            }
            let mut lacks = lacks.environments.iter();
            steps.extend(lacks.find_map(|(name, lacks)| self.retain_on(node, name, lacks)));
        }
    }

    fn retain_on(&self, node: &NodeName, name: &EnvironmentName, lacks: &[Digest]) -> Option<Step> {
        let environment = self.environments.get(name)?;
        let committed = environment.committed.as_ref().filter(|_| !environment.adopting)?;
        if self.is_moving(environment) {
            return None;
        }
        let retained: Vec<Digest> = environment.retained.iter().map(|kept| kept.snapshot).collect();
        let wanted = |snapshot: &&Digest| **snapshot != committed.snapshot && retained.contains(snapshot);
        let snapshot = *lacks.iter().find(wanted)?;
        Some(Step::Retain {
            node: node.clone(),
            environment: name.clone(),
            snapshot,
            generation: environment.generation,
            retained,
        })
    }
}
