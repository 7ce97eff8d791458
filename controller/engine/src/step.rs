//! What is still to do, derived from the state alone, so that it is safe to ask again after a restart.
//!
//! The driver starts the steps that it has not in flight, and may cancel one in flight that is no longer named: a
//! late order does no harm, nodes refuse older generations.

use std::collections::BTreeSet;

use bunraku_common::{Digest, EnvironmentName, Generation, NodeName};

use crate::{Action, Commit, Deploy, DeployId, Kind, Millis, Phase, Presence, Stage, State};

/// One thing to do. The driver adds the term to every order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Build {
        deploy: DeployId,
        environment: EnvironmentName,
        branch: String,
        commit: Option<String>,
    },
    Stage {
        deploy: DeployId,
        node: NodeName,
        environment: EnvironmentName,
        snapshot: Digest,
        generation: Generation,
        generate_types: bool,
        adopt: bool,
    },
    Commit {
        environment: EnvironmentName,
        node: NodeName,
        snapshot: Digest,
        generation: Generation,
        deploy: DeployId,
    },
    /// Best effort: forget what an abandoned deploy staged.
    Discard {
        environment: EnvironmentName,
        node: NodeName,
        snapshot: Digest,
        generation: Generation,
    },
    /// A node that is behind: stage the committed snapshot (generating types, since the difference to what it has is
    /// not known), then commit it.
    Bring {
        node: NodeName,
        environment: EnvironmentName,
        snapshot: Digest,
        generation: Generation,
        adopt: bool,
    },
    /// A proven node that lacks a snapshot to which a rollback may go, or of which a static catalog may ask a file:
    /// stage it beside what is live. Nothing waits for it, and any other order for the node ends it.
    Retain {
        node: NodeName,
        environment: EnvironmentName,
        snapshot: Digest,
        generation: Generation,
        /// Newest first: the node keeps the first ones.
        retained: Vec<Digest>,
    },
    /// A balancer is told what is wanted of a compiler.
    Balance {
        balancer: NodeName,
        compiler: NodeName,
        drained: bool,
        /// Empty when it is wanted ready, as is the reason.
        owner: String,
        reason: String,
        generation: Generation,
        min_available: u32,
        slow_start_s: u32,
        /// What sessions it still has are closed, once it is drained.
        close: bool,
    },
    /// Check and fetch what can be checked and fetched before the drain. Changes nothing that is served.
    Prepare {
        node: NodeName,
        generation: Generation,
        action: Action,
        /// It may be done though there is no way back.
        no_revert: bool,
        /// A package may become older.
        downgrade: bool,
        /// A catalog is compiled for it, as after the action; empty: none is.
        certname: String,
    },
    /// Hold back the node's own Puppet agent, or let it go again if it is we who hold it.
    Settle {
        node: NodeName,
        generation: Generation,
        hold: bool,
        /// Whose turn it is; empty when it is let go.
        owner: String,
    },
    Act {
        node: NodeName,
        generation: Generation,
        action: Action,
        /// Not the action, but back to what was before it.
        back: bool,
    },
    /// A node is to have Puppet's CRLs in place.
    InstallCrl {
        node: NodeName,
        crl: Digest,
        generation: Generation,
        /// Its numbers may be lower than those of the node's.
        number_reset: bool,
    },
    /// Whether a node's Puppet Server refuses a canary.
    ProveCrl {
        node: NodeName,
        canary: String,
        /// The CRLs that revoke it.
        revoked: Generation,
        /// Those that the node holds.
        generation: Generation,
    },
    /// Canaries are made at Puppet's CA.
    MakeCanary {
        more: usize,
    },
    RevokeCanary {
        name: String,
    },
    /// A compiler makes a key and a request.
    RequestCertificate {
        node: NodeName,
        generation: Generation,
        alt_names: BTreeSet<String>,
    },
    /// Puppet's CA is to sign a compiler's request.
    SignCertificate {
        certname: NodeName,
        generation: Generation,
        alt_names: BTreeSet<String>,
        /// PEM.
        request: String,
        /// Fingerprints of what the CA may have of this name and forget: what earlier attempts left, and what the compiler
        /// has now.
        ours: BTreeSet<String>,
    },
    StageCertificate {
        node: NodeName,
        generation: Generation,
        /// PEM.
        certificate: String,
    },
    /// It was replaced by a newer one: its key and what Puppet's CA keeps of it are of no use.
    ForgetCanary {
        name: String,
    },
    /// Whether Puppet Server is up and well.
    Verify {
        node: NodeName,
        generation: Generation,
        action: Action,
        /// It is on its way back: nothing of the action need be so.
        back: bool,
        /// A catalog is compiled for it; empty: none is.
        certname: String,
    },
}

/// Tells one step from another, also over restarts: equal ids are the same order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepId {
    Build(DeployId),
    Stage(DeployId, NodeName),
    Commit(EnvironmentName, NodeName, Generation),
    Discard(EnvironmentName, NodeName, Generation),
    Bring(EnvironmentName, NodeName, Generation),
    Retain(EnvironmentName, NodeName, Digest),
    /// Balancer, compiler; whether sessions are closed.
    Balance(NodeName, NodeName, Generation, bool),
    Prepare(NodeName, Generation),
    Settle(NodeName, Generation),
    Act(NodeName, Generation),
    Verify(NodeName, Generation),
    InstallCrl(NodeName, Generation),
    ProveCrl(NodeName, Generation),
    MakeCanary,
    RevokeCanary(String),
    RequestCertificate(NodeName, Generation),
    SignCertificate(NodeName, Generation),
    StageCertificate(NodeName, Generation),
    ForgetCanary(String),
}

impl Step {
    pub fn id(&self) -> StepId {
        match self {
            Self::Build { deploy, .. } => StepId::Build(*deploy),
            Self::Stage { deploy, node, .. } => StepId::Stage(*deploy, node.clone()),
            Self::Commit { environment, node, generation, .. } => {
                StepId::Commit(environment.clone(), node.clone(), *generation)
            }
            Self::Discard { environment, node, generation, .. } => {
                StepId::Discard(environment.clone(), node.clone(), *generation)
            }
            Self::Bring { environment, node, generation, .. } => {
                StepId::Bring(environment.clone(), node.clone(), *generation)
            }
            Self::Retain { environment, node, snapshot, .. } => {
                StepId::Retain(environment.clone(), node.clone(), *snapshot)
            }
            Self::Balance { balancer, compiler, generation, close, .. } => {
                StepId::Balance(balancer.clone(), compiler.clone(), *generation, *close)
            }
            Self::Prepare { node, generation, .. } => StepId::Prepare(node.clone(), *generation),
            Self::Settle { node, generation, .. } => StepId::Settle(node.clone(), *generation),
            Self::Act { node, generation, .. } => StepId::Act(node.clone(), *generation),
            Self::Verify { node, generation, .. } => StepId::Verify(node.clone(), *generation),
            Self::InstallCrl { node, generation, .. } => StepId::InstallCrl(node.clone(), *generation),
            Self::ProveCrl { node, revoked, .. } => StepId::ProveCrl(node.clone(), *revoked),
            Self::MakeCanary { .. } => StepId::MakeCanary,
            Self::RevokeCanary { name } => StepId::RevokeCanary(name.clone()),
            Self::ForgetCanary { name } => StepId::ForgetCanary(name.clone()),
            Self::RequestCertificate { node, generation, .. } => {
                StepId::RequestCertificate(node.clone(), *generation)
            }
            Self::SignCertificate { certname, generation, .. } => {
                StepId::SignCertificate(certname.clone(), *generation)
            }
            Self::StageCertificate { node, generation, .. } => {
                StepId::StageCertificate(node.clone(), *generation)
            }
        }
    }

    /// The node that the order is for; `None`: the controller itself.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Build { .. }
            | Self::MakeCanary { .. }
            | Self::RevokeCanary { .. }
            | Self::ForgetCanary { .. }
            | Self::SignCertificate { .. } => None,
            Self::Stage { node, .. }
            | Self::Commit { node, .. }
            | Self::Discard { node, .. }
            | Self::Bring { node, .. }
            | Self::Retain { node, .. }
            | Self::Prepare { node, .. }
            | Self::Settle { node, .. }
            | Self::Act { node, .. }
            | Self::Verify { node, .. }
            | Self::InstallCrl { node, .. }
            | Self::ProveCrl { node, .. }
            | Self::RequestCertificate { node, .. }
            | Self::StageCertificate { node, .. } => Some(node),
            Self::Balance { balancer, .. } => Some(balancer),
        }
    }

    /// The environment that it is about, where it is about one.
    pub fn environment(&self) -> Option<&EnvironmentName> {
        match self {
            Self::Build { environment, .. }
            | Self::Stage { environment, .. }
            | Self::Commit { environment, .. }
            | Self::Discard { environment, .. }
            | Self::Bring { environment, .. }
            | Self::Retain { environment, .. } => Some(environment),
            Self::Balance { .. }
            | Self::Prepare { .. }
            | Self::Settle { .. }
            | Self::Act { .. }
            | Self::Verify { .. }
            | Self::InstallCrl { .. }
            | Self::ProveCrl { .. }
            | Self::MakeCanary { .. }
            | Self::RevokeCanary { .. }
            | Self::ForgetCanary { .. }
            | Self::RequestCertificate { .. }
            | Self::SignCertificate { .. }
            | Self::StageCertificate { .. } => None,
        }
    }
}

impl State {
    /// Everything that is still to do. Only connected nodes get orders.
    pub fn steps(&self, presence: &Presence, now: Millis) -> Vec<Step> {
        let mut steps = Vec::new();
        for (name, environment) in &self.environments {
            if let Some(deploy) = environment.active.and_then(|id| self.deploys.get(&id)) {
                self.steps_of(deploy, presence, &mut steps);
            }
            // While a generation is being staged or committed it stands for the new snapshot: an order for the
            // committed one would share the number and could undo the commit when it arrives late.
            if !self.is_moving(environment) {
                self.discards(name, presence, now, &mut steps);
                self.brings(name, presence, &mut steps);
            }
        }
        self.balance_steps(presence, &mut steps);
        self.crl_steps(presence, &mut steps);
        self.certificate_steps(presence, &mut steps);
        self.rollout_steps(presence, now, &mut steps);
        self.retains(presence, &mut steps);
        steps
    }

    fn steps_of(&self, deploy: &Deploy, presence: &Presence, steps: &mut Vec<Step>) {
        let environment = &deploy.environment;
        match &deploy.phase {
            Phase::Queued | Phase::Ended { .. } => {}
            Phase::Building { .. } => {
                let commit = match &deploy.kind {
                    Kind::Build { commit } | Kind::Plan { commit } => commit.clone(),
                    Kind::Rollback { .. } => None,
                };
                steps.push(Step::Build {
                    deploy: deploy.id,
                    environment: environment.clone(),
                    branch: deploy.branch.clone(),
                    commit,
                });
            }
            Phase::Staging { built, generation, nodes, .. } => {
                let waiting = nodes.iter().filter(|(n, s)| **s == Stage::Waiting && presence.is_connected(n));
                steps.extend(waiting.map(|(node, _)| Step::Stage {
                    deploy: deploy.id,
                    node: node.clone(),
                    environment: environment.clone(),
                    snapshot: built.snapshot,
                    generation: *generation,
                    generate_types: built.generate_types,
                    adopt: self.settings.adopt,
                }));
            }
            Phase::Committing { built, generation, nodes, .. } => {
                let open = nodes.iter().filter(|(n, c)| c.is_open() && presence.is_connected(n));
                steps.extend(open.map(|(node, commit)| {
                    let (environment, node) = (environment.clone(), node.clone());
                    let (snapshot, generation) = (built.snapshot, *generation);
                    match commit {
                        Commit::Unstaged { .. } => {
                            let adopt = self.settings.adopt;
                            Step::Bring { environment, node, snapshot, generation, adopt }
                        }
                        Commit::Waiting
                        | Commit::Owing { .. }
                        | Commit::Proven { .. }
                        | Commit::Skipped { .. }
                        | Commit::Dropped { .. } => {
                            Step::Commit { environment, node, snapshot, generation, deploy: deploy.id }
                        }
                    }
                }));
            }
        }
    }

    fn discards(&self, name: &EnvironmentName, presence: &Presence, now: Millis, steps: &mut Vec<Step>) {
        let environment = &self.environments[name];
        let Some(discard) = environment.discard.as_ref().filter(|discard| now < discard.until) else {
            return;
        };
        let nodes = discard.nodes.iter().filter(|node| presence.is_connected(node));
        steps.extend(nodes.map(|node| Step::Discard {
            environment: name.clone(),
            node: node.clone(),
            snapshot: discard.snapshot,
            generation: environment.generation,
        }));
    }

    fn brings(&self, name: &EnvironmentName, presence: &Presence, steps: &mut Vec<Step>) {
        let environment = &self.environments[name];
        let Some(committed) = environment.committed.as_ref().filter(|_| !environment.adopting) else {
            return;
        };
        let behind = self
            .fleet
            .compilers()
            .filter(|(node, record)| presence.is_connected(node) && !record.has_proven(name, committed));
        steps.extend(behind.map(|(node, _)| Step::Bring {
            node: node.clone(),
            environment: name.clone(),
            snapshot: committed.snapshot,
            generation: environment.generation,
            adopt: self.settings.adopt,
        }));
    }

    /// When `observe(Event::Tick)` must be called next, if nothing else happens before. May be in the past.
    pub fn deadline(&self, presence: &Presence) -> Option<Millis> {
        let deploys = self.active_deploys().filter_map(|deploy| self.deadline_of(deploy, presence));
        deploys
            .chain(self.balance_deadline(presence))
            .chain(self.rollout_deadline(presence))
            .chain(self.crl_deadline())
            .min()
    }

    fn deadline_of(&self, deploy: &Deploy, presence: &Presence) -> Option<Millis> {
        match &deploy.phase {
            Phase::Queued | Phase::Ended { .. } => None,
            Phase::Building { since } => Some(since.saturating_add(self.settings.build_deadline)),
            // That drain has a deadline of its own.
            Phase::Staging { .. } if self.waits_for_drain(deploy) => None,
            Phase::Staging { nodes, deadline, .. } => nodes
                .iter()
                .filter(|(_, stage)| **stage == Stage::Waiting)
                .filter_map(|(node, _)| self.unreachable_at(node, presence))
                .chain([*deadline])
                .min(),
            Phase::Committing { deadline, .. } => Some(*deadline),
        }
    }

    pub(crate) fn unreachable_at(&self, node: &NodeName, presence: &Presence) -> Option<Millis> {
        Some(presence.gone_since(node)?.saturating_add(self.settings.unreachable))
    }
}
