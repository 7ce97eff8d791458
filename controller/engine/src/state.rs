//! The whole state: the fold of the journal's facts. A checkpoint is this value, serialised.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Digest, EnvironmentName, Fence, Generation, NodeName, Term};
use serde::{Deserialize, Serialize};

use crate::{
    Authority, Balance, Deploy, DeployId, Environment, Kind, Phase, Revocations, Rollout, RolloutId,
    Settings, StaleRuby,
    certificate::Certificates,
    fleet::{Fleet, Standing},
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub(crate) term: Option<Term>,
    /// The number of the term that began with a takeover, the newest one.
    pub(crate) takeover: Option<u64>,
    pub(crate) settings: Settings,
    pub(crate) last_deploy: DeployId,
    pub(crate) environments: BTreeMap<EnvironmentName, Environment>,
    /// Every deploy that has not ended, and the newest that have.
    pub(crate) deploys: BTreeMap<DeployId, Deploy>,
    pub(crate) fleet: Fleet,
    /// Of every compiler about which the balancers were ever told anything.
    #[serde(default)]
    pub(crate) balance: BTreeMap<NodeName, Balance>,
    #[serde(default)]
    pub(crate) last_rollout: RolloutId,
    /// The newest number of an order about any node's turn.
    #[serde(default)]
    pub(crate) last_turn: Generation,
    /// Every rollout that has not ended, and the newest that have.
    #[serde(default)]
    pub(crate) rollouts: BTreeMap<RolloutId, Rollout>,
    /// Nodes whose own Puppet agent we may have disabled, with the newest order about their turn: owed until they say
    /// that it may run again, whatever becomes of the rollout.
    #[serde(default)]
    pub(crate) puppet_held: BTreeMap<NodeName, Generation>,
    /// Compilers whose interpreters may hold Ruby from before a deploy.
    #[serde(default)]
    pub(crate) stale_ruby: BTreeMap<NodeName, StaleRuby>,
    /// Compilers' Puppet certificates.
    #[serde(default)]
    pub(crate) certificates: Certificates,
    /// Puppet's CRLs, and who has them.
    #[serde(default)]
    pub(crate) revocations: Revocations,
    #[serde(default)]
    pub(crate) authority: Authority,
}

impl State {
    /// The term that began last.
    pub fn term(&self) -> Option<Term> {
        self.term
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn environments(&self) -> &BTreeMap<EnvironmentName, Environment> {
        &self.environments
    }

    pub fn deploys(&self) -> &BTreeMap<DeployId, Deploy> {
        &self.deploys
    }

    pub fn deploy(&self, id: DeployId) -> Option<&Deploy> {
        self.deploys.get(&id)
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Whether an order with this fence, which a node has obeyed, can have been decided here. If not, records are lost
    /// (a restored backup, whose next term the nodes would obey) or another controller gave it. What was before a
    /// takeover is settled by it.
    pub fn has_decided(&self, environment: &EnvironmentName, fence: Fence) -> bool {
        let newest = self.environments.get(environment).map_or(Generation::default(), |e| e.generation);
        fence.generation <= newest || self.takeover.is_some_and(|takeover| fence.term.number < takeover)
    }

    /// [`Fleet::standing`].
    pub fn standing(&self, serial: &str, key: &str) -> Standing {
        self.fleet.standing(serial, key)
    }

    /// Snapshots whose objects must be kept: retained, committed, or under way. What a build has made before its
    /// `BuildDone` is for the driver to keep.
    pub fn snapshots(&self) -> BTreeSet<Digest> {
        let environments = self.environments.values();
        let kept = environments.clone().flat_map(|e| e.retained.iter().map(|kept| kept.snapshot));
        let committed = environments.filter_map(|e| e.committed.as_ref().map(|c| c.snapshot));
        let moving = self.deploys.values().filter(|d| !d.is_ended()).filter_map(|deploy| match deploy.kind {
            Kind::Rollback { snapshot } => Some(snapshot),
            Kind::Build { .. } | Kind::Plan { .. } => deploy.built().map(|built| built.snapshot),
        });
        kept.chain(committed).chain(moving).collect()
    }

    /// Snapshots that `node` was ordered to have, so may fetch: committed ones, those being staged on it, and (for
    /// rollback and static catalogs) the retained ones.
    pub fn may_fetch(&self, node: &NodeName, snapshot: &Digest) -> bool {
        let compiler = self.fleet.nodes.get(node).is_some_and(|n| n.enrolled && n.is_compiler());
        compiler && self.snapshots().contains(snapshot)
    }

    pub(crate) fn active_deploys(&self) -> impl Iterator<Item = &Deploy> {
        let active = self.environments.values().filter_map(|environment| environment.active);
        active.filter_map(|id| self.deploys.get(&id))
    }

    /// Whether a new snapshot is being staged or committed in this environment.
    pub(crate) fn is_moving(&self, environment: &Environment) -> bool {
        let active = environment.active.and_then(|id| self.deploys.get(&id));
        active.is_some_and(|d| matches!(d.phase, Phase::Staging { .. } | Phase::Committing { .. }))
    }
}
