//! Facts for people and for the index: a stable kind, what they are about, and one line of text.

use std::fmt;

use bunraku_common::{EnvironmentName, Label, NodeName};

use crate::{CaHold, DeployId, Fact, Grant, Kind, Outcome, Wanted, deploy::names};

impl Fact {
    /// The stable name, as in the journal's JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TermBegan { .. } => "term-began",
            Self::SettingsChanged { .. } => "settings-changed",
            Self::DeployRequested { .. } => "deploy-requested",
            Self::DeployJoined { .. } => "deploy-joined",
            Self::BuildStarted { .. } => "build-started",
            Self::StagingStarted { .. } => "staging-started",
            Self::NodeStaged { .. } => "node-staged",
            Self::NodeUnstaged { .. } => "node-unstaged",
            Self::NodeUnable { .. } => "node-unable",
            Self::NodeSkipped { .. } => "node-skipped",
            Self::CommitDecided { .. } => "commit-decided",
            Self::NodeOwes { .. } => "node-owes",
            Self::NodeProven { .. } => "node-proven",
            Self::DeployEnded { .. } => "deploy-ended",
            Self::Discarded { .. } => "discarded",
            Self::EnvironmentReleased { .. } => "environment-released",
            Self::EnvironmentAdopted { .. } => "environment-adopted",
            Self::NodeObserved { .. } => "node-observed",
            Self::NodeEnrolled { .. } => "node-enrolled",
            Self::NodeRevoked { .. } => "node-revoked",
            Self::IdentityCut { .. } => "identity-cut",
            Self::NodeAllowed { .. } => "node-allowed",
            Self::NodeHeld { .. } => "node-held",
            Self::NodeReleased { .. } => "node-released",
            Self::NodeLabelled { .. } => "node-labelled",
            Self::NodeRemoved { .. } => "node-removed",
            Self::HealAsked { .. } => "heal-asked",
            Self::CompilerSetUp { .. } => "compiler-set-up",
            Self::PuppetCertificateRevoked { .. } => "puppet-certificate-revoked",
            Self::TokenCreated { .. } => "token-created",
            Self::TokenRevoked { .. } => "token-revoked",
            Self::OperatorAdded { .. } => "operator-added",
            Self::OperatorEnrolled { .. } => "operator-enrolled",
            Self::OperatorRevoked { .. } => "operator-revoked",
            Self::Expired { .. } => "expired",
            Self::BalanceWanted { .. } => "balance-wanted",
            Self::BalanceAgreed { .. } => "balance-agreed",
            Self::RolloutStarted { .. } => "rollout-started",
            Self::TurnMoved { .. } => "turn-moved",
            Self::TurnJudged { .. } => "turn-judged",
            Self::PuppetReleased { .. } => "puppet-released",
            Self::RolloutPaused { .. } => "rollout-paused",
            Self::RolloutResumed { .. } => "rollout-resumed",
            Self::RolloutRetargeted { .. } => "rollout-retargeted",
            Self::RolloutAimed { .. } => "rollout-aimed",
            Self::RolloutAborting { .. } => "rollout-aborting",
            Self::RolloutEnded { .. } => "rollout-ended",
            Self::Crl(fact) => fact.kind(),
            Self::Certificate(fact) => fact.kind(),
            Self::Refused { .. } => "refused",
            Self::CaRotationMoved { .. } => "ca-rotation-moved",
            Self::AnchorsHeld { .. } => "anchors-held",
        }
    }

    /// The deploy that it is about.
    pub fn deploy(&self) -> Option<DeployId> {
        match self {
            Self::DeployRequested { deploy, .. }
            | Self::DeployJoined { deploy, .. }
            | Self::BuildStarted { deploy, .. }
            | Self::StagingStarted { deploy, .. }
            | Self::NodeStaged { deploy, .. }
            | Self::NodeUnstaged { deploy, .. }
            | Self::NodeUnable { deploy, .. }
            | Self::NodeSkipped { deploy, .. }
            | Self::CommitDecided { deploy, .. }
            | Self::DeployEnded { deploy, .. } => Some(*deploy),
            Self::TermBegan { .. }
            | Self::SettingsChanged { .. }
            | Self::NodeOwes { .. }
            | Self::NodeProven { .. }
            | Self::Discarded { .. }
            | Self::EnvironmentReleased { .. }
            | Self::EnvironmentAdopted { .. }
            | Self::NodeObserved { .. }
            | Self::NodeEnrolled { .. }
            | Self::NodeRevoked { .. }
            | Self::IdentityCut { .. }
            | Self::NodeAllowed { .. }
            | Self::NodeHeld { .. }
            | Self::NodeReleased { .. }
            | Self::NodeLabelled { .. }
            | Self::NodeRemoved { .. }
            | Self::HealAsked { .. }
            | Self::CompilerSetUp { .. }
            | Self::PuppetCertificateRevoked { .. }
            | Self::TokenCreated { .. }
            | Self::TokenRevoked { .. }
            | Self::OperatorAdded { .. }
            | Self::OperatorEnrolled { .. }
            | Self::OperatorRevoked { .. }
            | Self::Expired { .. }
            | Self::BalanceWanted { .. }
            | Self::BalanceAgreed { .. }
            | Self::RolloutStarted { .. }
            | Self::TurnMoved { .. }
            | Self::TurnJudged { .. }
            | Self::PuppetReleased { .. }
            | Self::RolloutPaused { .. }
            | Self::RolloutResumed { .. }
            | Self::RolloutRetargeted { .. }
            | Self::RolloutAimed { .. }
            | Self::RolloutAborting { .. }
            | Self::RolloutEnded { .. }
            | Self::Crl(_)
            | Self::Certificate(_)
            | Self::Refused { .. }
            | Self::CaRotationMoved { .. }
            | Self::AnchorsHeld { .. } => None,
        }
    }

    /// The environment that it is about, where it is about one.
    pub fn environment(&self) -> Option<&EnvironmentName> {
        match self {
            Self::DeployRequested { environment, .. }
            | Self::DeployJoined { environment, .. }
            | Self::BuildStarted { environment, .. }
            | Self::StagingStarted { environment, .. }
            | Self::NodeStaged { environment, .. }
            | Self::NodeUnstaged { environment, .. }
            | Self::NodeUnable { environment, .. }
            | Self::NodeSkipped { environment, .. }
            | Self::CommitDecided { environment, .. }
            | Self::NodeOwes { environment, .. }
            | Self::NodeProven { environment, .. }
            | Self::DeployEnded { environment, .. }
            | Self::Discarded { environment, .. }
            | Self::EnvironmentReleased { environment, .. }
            | Self::EnvironmentAdopted { environment, .. } => Some(environment),
            Self::TermBegan { .. }
            | Self::SettingsChanged { .. }
            | Self::NodeObserved { .. }
            | Self::NodeEnrolled { .. }
            | Self::NodeRevoked { .. }
            | Self::IdentityCut { .. }
            | Self::NodeAllowed { .. }
            | Self::NodeHeld { .. }
            | Self::NodeReleased { .. }
            | Self::NodeLabelled { .. }
            | Self::NodeRemoved { .. }
            | Self::HealAsked { .. }
            | Self::CompilerSetUp { .. }
            | Self::PuppetCertificateRevoked { .. }
            | Self::TokenCreated { .. }
            | Self::TokenRevoked { .. }
            | Self::OperatorAdded { .. }
            | Self::OperatorEnrolled { .. }
            | Self::OperatorRevoked { .. }
            | Self::Expired { .. }
            | Self::BalanceWanted { .. }
            | Self::BalanceAgreed { .. }
            | Self::RolloutStarted { .. }
            | Self::TurnMoved { .. }
            | Self::TurnJudged { .. }
            | Self::PuppetReleased { .. }
            | Self::RolloutPaused { .. }
            | Self::RolloutResumed { .. }
            | Self::RolloutRetargeted { .. }
            | Self::RolloutAimed { .. }
            | Self::RolloutAborting { .. }
            | Self::RolloutEnded { .. }
            | Self::Crl(_)
            | Self::Certificate(_)
            | Self::Refused { .. }
            | Self::CaRotationMoved { .. }
            | Self::AnchorsHeld { .. } => None,
        }
    }

    /// The node that it is about, where it is about one.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::NodeStaged { node, .. }
            | Self::NodeUnstaged { node, .. }
            | Self::NodeUnable { node, .. }
            | Self::NodeSkipped { node, .. }
            | Self::NodeOwes { node, .. }
            | Self::NodeProven { node, .. }
            | Self::Discarded { node, .. }
            | Self::NodeObserved { node, .. }
            | Self::NodeEnrolled { node, .. }
            | Self::NodeRevoked { node, .. }
            | Self::IdentityCut { node, .. }
            | Self::NodeAllowed { node, .. }
            | Self::NodeHeld { node, .. }
            | Self::NodeReleased { node, .. }
            | Self::NodeLabelled { node, .. }
            | Self::NodeRemoved { node, .. }
            | Self::HealAsked { node, .. }
            | Self::CompilerSetUp { node, .. }
            | Self::PuppetCertificateRevoked { node, .. }
            | Self::TurnMoved { node, .. }
            | Self::TurnJudged { node, .. }
            | Self::PuppetReleased { node }
            | Self::AnchorsHeld { node, .. } => Some(node),
            Self::BalanceWanted { compiler, .. } | Self::BalanceAgreed { compiler, .. } => Some(compiler),
            Self::Crl(fact) => fact.node(),
            Self::Certificate(fact) => Some(fact.node()),
            Self::TermBegan { .. }
            | Self::SettingsChanged { .. }
            | Self::DeployRequested { .. }
            | Self::DeployJoined { .. }
            | Self::BuildStarted { .. }
            | Self::StagingStarted { .. }
            | Self::CommitDecided { .. }
            | Self::DeployEnded { .. }
            | Self::EnvironmentReleased { .. }
            | Self::EnvironmentAdopted { .. }
            | Self::TokenCreated { .. }
            | Self::TokenRevoked { .. }
            | Self::OperatorAdded { .. }
            | Self::OperatorEnrolled { .. }
            | Self::OperatorRevoked { .. }
            | Self::Expired { .. }
            | Self::RolloutStarted { .. }
            | Self::RolloutPaused { .. }
            | Self::RolloutResumed { .. }
            | Self::RolloutRetargeted { .. }
            | Self::RolloutAimed { .. }
            | Self::RolloutAborting { .. }
            | Self::RolloutEnded { .. }
            | Self::Refused { .. }
            | Self::CaRotationMoved { .. } => None,
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TermBegan { term, takeover: None } => write!(f, "the controller began {term}"),
            Self::TermBegan { term, takeover: Some(why) } => {
                write!(f, "the controller took over with {term}: {why}")
            }
            Self::SettingsChanged { .. } => write!(f, "the settings changed"),
            Self::DeployRequested { deploy, environment, branch, kind, who, policy: _ } => {
                write!(f, "{who} asked for deploy {deploy} of {environment}: ")?;
                match kind {
                    Kind::Build { commit: None } => write!(f, "branch {branch}"),
                    Kind::Build { commit: Some(commit) } => write!(f, "commit {commit} of branch {branch}"),
                    Kind::Plan { .. } => write!(f, "a plan of branch {branch}"),
                    Kind::Rollback { snapshot } => {
                        write!(f, "back to {}, and holds it there", snapshot.short())
                    }
                }
            }
            Self::DeployJoined { deploy, environment, who } => {
                write!(f, "{who} joined deploy {deploy} of {environment}")
            }
            Self::BuildStarted { deploy, environment } => {
                write!(f, "deploy {deploy}: building {environment}")
            }
            Self::StagingStarted { deploy, environment, built, nodes, generation: _ } => write!(
                f,
                "deploy {deploy}: staging {} of {environment} on {}",
                built.snapshot.short(),
                names(nodes.iter())
            ),
            Self::NodeStaged { deploy, node, environment: _ } => {
                write!(f, "deploy {deploy}: {node} has staged")
            }
            Self::NodeUnstaged { deploy, node, environment: _ } => {
                write!(f, "deploy {deploy}: {node} no longer holds what it staged")
            }
            Self::NodeUnable { deploy, node, reason, .. } => {
                write!(f, "deploy {deploy}: {node} cannot stage and is to be drained: {reason}")
            }
            Self::NodeSkipped { deploy, node, reason, environment: _ } => {
                write!(f, "deploy {deploy}: {node} is left behind: {reason}")
            }
            Self::CommitDecided { deploy, environment, snapshot, generation: _ } => {
                write!(f, "deploy {deploy}: {} of {environment} is committed", snapshot.short())
            }
            Self::NodeOwes { environment, node, snapshot, owed, generation: _ } => {
                write!(f, "{node} has not proven {} of {environment}: {owed}", snapshot.short())
            }
            Self::NodeProven { environment, node, snapshot, .. } => {
                write!(f, "{node} serves {} of {environment}, proven", snapshot.short())
            }
            Self::DeployEnded { deploy, environment, outcome } => {
                write!(f, "deploy {deploy} of {environment} ended: {outcome}")
            }
            Self::Discarded { environment, node, snapshot } => {
                write!(f, "{node} discarded {} of {environment}", snapshot.short())
            }
            Self::EnvironmentReleased { environment, who } => write!(f, "{who} released {environment}"),
            Self::EnvironmentAdopted { environment, snapshot } => {
                write!(f, "{environment} is {}, as every compiler serves it", snapshot.short())
            }
            Self::NodeObserved { node, .. } => write!(f, "{node} said what it serves"),
            Self::NodeEnrolled { node, serial, .. } => write!(f, "node {node} enrolled with serial {serial}"),
            Self::NodeRevoked { node, reason, who } => write!(f, "{who} revoked node {node}: {reason}"),
            Self::IdentityCut { node, reason } => write!(f, "the identity of node {node} ended: {reason}"),
            Self::NodeAllowed { node, who } => write!(f, "{who} allowed node {node} again"),
            Self::NodeHeld { node, reason, who } => write!(f, "{who} put node {node} aside: {reason}"),
            Self::NodeReleased { node, who } => write!(f, "{who} released node {node}"),
            Self::NodeLabelled { node, labels, who } if labels.is_empty() => {
                write!(f, "{who} took all labels from node {node}")
            }
            Self::NodeLabelled { node, labels, who } => {
                let labels: Vec<&str> = labels.iter().map(Label::as_str).collect();
                write!(f, "{who} labelled node {node}: {}", labels.join(", "))
            }
            Self::NodeRemoved { node, who } => write!(f, "{who} removed node {node}"),
            Self::HealAsked { node, who } => write!(f, "{who} asked node {node} to heal"),
            Self::CompilerSetUp { node, who } => write!(f, "{who} set up {node} as a compiler"),
            Self::PuppetCertificateRevoked { node, who } => {
                write!(f, "{who} revoked the Puppet certificate of {node}")
            }
            Self::TokenCreated { id, grant, by, .. } => {
                let what = match grant {
                    Grant::Node { .. } => "node",
                    Grant::Operator { .. } => "operator",
                };
                write!(f, "{by} made token {id} for {what} {}", grant.name())
            }
            Self::TokenRevoked { id, who } => write!(f, "{who} revoked token {id}"),
            Self::OperatorAdded { name, right, by } => write!(f, "{by} added operator {name} as {right}"),
            Self::OperatorEnrolled { name, serial, .. } => {
                write!(f, "operator {name} enrolled with serial {serial}")
            }
            Self::OperatorRevoked { name, who } => write!(f, "{who} revoked operator {name}"),
            Self::Expired { tokens, identities, denied_serials, denied_keys } => {
                let all = tokens.len() + identities.len() + denied_serials.len() + denied_keys.len();
                write!(f, "forgot {all} tokens and identities that expired long ago")
            }
            Self::BalanceWanted { compiler, wanted, undone, .. } => match (wanted, undone) {
                (Wanted::Drained { owner, reason, .. }, _) => {
                    write!(f, "{compiler} is to be drained for {owner}: {reason}")
                }
                (Wanted::Ready, None) => write!(f, "{compiler} is to be enabled"),
                (Wanted::Ready, Some(why)) => write!(f, "the drain of {compiler} is undone: {why}"),
            },
            Self::BalanceAgreed { compiler, .. } => write!(f, "every balancer has drained {compiler}"),
            Self::RolloutStarted { rollout, action, waves, who, .. } => {
                let nodes = waves.iter().flat_map(|wave| &wave.nodes);
                write!(f, "{who} started rollout {rollout}: {action} of {}", names(nodes))
            }
            Self::TurnMoved { rollout, node, to, retreat, .. } => {
                write!(f, "rollout {rollout}: {node} is {}", to.name())?;
                retreat.as_ref().map_or(Ok(()), |retreat| write!(f, ": {}", retreat.reason))
            }
            Self::TurnJudged { rollout, node, verdict } => {
                write!(
                    f,
                    "rollout {rollout}: the verdict on {node} is {}: {}",
                    verdict.says.name(),
                    verdict.why
                )
            }
            Self::PuppetReleased { node } => write!(f, "the Puppet agent of {node} may run again"),
            Self::RolloutPaused { rollout, reason } => write!(f, "rollout {rollout} is paused by {reason}"),
            Self::RolloutResumed { rollout, who } => write!(f, "{who} resumed rollout {rollout}"),
            Self::RolloutRetargeted { rollout, action, who } => {
                write!(f, "{who} wants rollout {rollout} to be the {action}")
            }
            Self::RolloutAimed { rollout } => write!(f, "rollout {rollout} goes on with what is wanted now"),
            Self::RolloutAborting { rollout, reason } => {
                write!(f, "rollout {rollout} is aborted by {reason}")
            }
            Self::RolloutEnded { rollout, outcome } => {
                write!(f, "rollout {rollout} ended: {}", outcome.name())
            }
            Self::Crl(fact) => write!(f, "{fact}"),
            Self::Certificate(fact) => write!(f, "{fact}"),
            Self::Refused { what, reason } => write!(f, "refused: {what}: {reason}"),
            Self::CaRotationMoved { phase, from, to, left, who } => {
                let phase = phase.name();
                write!(
                    f,
                    "{who} moved the rotation of the mesh CA to {phase}: {} to {}",
                    from.short(),
                    to.short()
                )?;
                if left.is_empty() { Ok(()) } else { write!(f, ", leaving {}", names(left.iter())) }
            }
            Self::AnchorsHeld { node, ca, hold } => match hold {
                CaHold::Nothing => write!(f, "{node} does not know the mesh CA {}", ca.short()),
                CaHold::Anchor => write!(f, "{node} trusts the mesh CA {}", ca.short()),
                CaHold::Certificate => write!(f, "{node} has a certificate by the mesh CA {}", ca.short()),
            },
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Live { .. } | Self::Unchanged { .. } | Self::Planned { .. } => Ok(()),
            Self::Behind { nodes, .. } => write!(f, " on {}", names(nodes.iter())),
            Self::Failed { reason, hint } | Self::Abandoned { reason, hint, .. } => {
                write!(f, ": {reason}")?;
                if hint.is_empty() { Ok(()) } else { write!(f, " (hint: {hint})") }
            }
            Self::Superseded { by } => write!(f, " by deploy {by}"),
        }
    }
}
