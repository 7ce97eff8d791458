//! Everything that is journalled. The state is the fold of its facts, so a fact is complete: whatever must happen
//! together is one fact, because a batch of facts may be cut by a power loss.

use std::collections::BTreeSet;

use bunraku_common::{Digest, EnvironmentName, Generation, Label, NodeName, OperatorName, Role, Term};
use serde::{Deserialize, Serialize};

use crate::{
    Action, Built, CaHold, CaPhase, CertificateFact, CrlFact, DeployId, EnrolledBy, Grant, Kind, Outcome,
    Policy, Retreat, Right, RolloutId, RolloutOutcome, RolloutPolicy, Settings, TurnPhase, Verdict, Wanted,
    Wave,
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case")]
pub enum Fact {
    /// A controller started. `takeover` says why it overrules a higher term that nodes have seen.
    TermBegan {
        term: Term,
        takeover: Option<String>,
    },
    SettingsChanged {
        settings: Settings,
    },

    /// Supersedes the queued deploy of its environment. A rollback also holds the environment and abandons what is
    /// not committed yet.
    DeployRequested {
        deploy: DeployId,
        environment: EnvironmentName,
        branch: String,
        kind: Kind,
        policy: Policy,
        who: String,
    },
    DeployJoined {
        deploy: DeployId,
        environment: EnvironmentName,
        who: String,
    },
    BuildStarted {
        deploy: DeployId,
        environment: EnvironmentName,
    },
    /// Names the required compilers: fixed from here on.
    StagingStarted {
        deploy: DeployId,
        environment: EnvironmentName,
        built: Built,
        generation: Generation,
        nodes: BTreeSet<NodeName>,
    },
    NodeStaged {
        deploy: DeployId,
        environment: EnvironmentName,
        node: NodeName,
    },
    /// The node does not hold what it had staged: it said so at hello, or when it was told to commit. It is staged
    /// again.
    NodeUnstaged {
        deploy: DeployId,
        environment: EnvironmentName,
        node: NodeName,
    },
    /// It cannot stage, and is to be drained.
    NodeUnable {
        deploy: DeployId,
        environment: EnvironmentName,
        node: NodeName,
        reason: String,
        hint: String,
    },
    NodeSkipped {
        deploy: DeployId,
        environment: EnvironmentName,
        node: NodeName,
        reason: String,
    },
    /// The one irreversible decision.
    CommitDecided {
        deploy: DeployId,
        environment: EnvironmentName,
        snapshot: Digest,
        generation: Generation,
    },
    NodeOwes {
        environment: EnvironmentName,
        node: NodeName,
        snapshot: Digest,
        generation: Generation,
        owed: String,
    },
    NodeProven {
        environment: EnvironmentName,
        node: NodeName,
        snapshot: Digest,
        generation: Generation,
        swapped_ms: Option<u64>,
    },
    DeployEnded {
        deploy: DeployId,
        environment: EnvironmentName,
        outcome: Outcome,
    },
    Discarded {
        environment: EnvironmentName,
        node: NodeName,
        snapshot: Digest,
    },
    EnvironmentReleased {
        environment: EnvironmentName,
        who: String,
    },
    /// After a takeover: all compilers serve this.
    EnvironmentAdopted {
        environment: EnvironmentName,
        snapshot: Digest,
    },
    /// What a node serves, where it differs from what was known. Complete.
    NodeObserved {
        node: NodeName,
        environments: Vec<Serving>,
    },

    /// Ends the node's earlier identities, unless it is a renewal; uses up the token.
    NodeEnrolled {
        node: NodeName,
        roles: BTreeSet<Role>,
        serial: String,
        key: String,
        by: EnrolledBy,
        expires_s: u64,
    },
    /// Its identities are denied, its name is barred, its tokens are void.
    NodeRevoked {
        node: NodeName,
        reason: String,
        who: String,
    },
    /// Its identities are denied; it may enrol again.
    IdentityCut {
        node: NodeName,
        reason: String,
    },
    NodeAllowed {
        node: NodeName,
        who: String,
    },
    NodeHeld {
        node: NodeName,
        reason: String,
        who: String,
    },
    NodeReleased {
        node: NodeName,
        who: String,
    },
    /// All its labels from now on.
    NodeLabelled {
        node: NodeName,
        labels: BTreeSet<Label>,
        who: String,
    },
    /// Somebody asked a node to mend what was changed by hand; for the audit, changes nothing here.
    HealAsked {
        node: NodeName,
        who: String,
    },
    NodeRemoved {
        node: NodeName,
        who: String,
    },
    TokenCreated {
        id: String,
        hash: String,
        grant: Grant,
        expires_s: u64,
        by: String,
    },
    TokenRevoked {
        id: String,
        who: String,
    },
    OperatorAdded {
        name: OperatorName,
        right: Right,
        by: String,
    },
    OperatorEnrolled {
        name: OperatorName,
        serial: String,
        key: String,
        by: EnrolledBy,
        expires_s: u64,
    },
    OperatorRevoked {
        name: OperatorName,
        who: String,
    },
    /// What has expired long ago is forgotten.
    Expired {
        tokens: Vec<String>,
        identities: Vec<String>,
        denied_serials: Vec<String>,
        denied_keys: Vec<String>,
    },
    /// The newest decision about one compiler at the balancers.
    BalanceWanted {
        compiler: NodeName,
        wanted: Wanted,
        generation: Generation,
        min_available: u32,
        /// Why the drain before it came to nothing, where this undoes one.
        undone: Option<String>,
        /// It came to nothing because a balancer said no, which may say yes in a moment.
        #[serde(default)]
        refused: bool,
    },
    /// Every balancer that carries the compiler was seen to have drained it.
    BalanceAgreed {
        compiler: NodeName,
        generation: Generation,
    },

    RolloutStarted {
        rollout: RolloutId,
        action: Action,
        policy: RolloutPolicy,
        waves: Vec<Wave>,
        undrained: BTreeSet<NodeName>,
        who: String,
    },
    /// Begins a phase of one node's turn; every order of the phase carries this generation. A failed turn halts its
    /// rollout.
    TurnMoved {
        rollout: RolloutId,
        node: NodeName,
        to: TurnPhase,
        generation: Generation,
        retreat: Option<Retreat>,
    },
    /// What the numbers of a bake say. Where they say nothing and the policy wants that, the rollout is paused.
    TurnJudged {
        rollout: RolloutId,
        node: NodeName,
        verdict: Verdict,
    },
    /// The node's own Puppet agent is not held by us any more.
    PuppetReleased {
        node: NodeName,
    },
    RolloutPaused {
        rollout: RolloutId,
        reason: String,
    },
    RolloutResumed {
        rollout: RolloutId,
        who: String,
    },
    /// Another action is wanted: it counts as soon as no turn is under way.
    RolloutRetargeted {
        rollout: RolloutId,
        action: Action,
        who: String,
    },
    /// The wanted action is the rollout's now, and those that were done with the one before wait for their turn again.
    RolloutAimed {
        rollout: RolloutId,
    },
    RolloutAborting {
        rollout: RolloutId,
        reason: String,
    },
    RolloutEnded {
        rollout: RolloutId,
        outcome: RolloutOutcome,
    },

    /// About Puppet's CRLs.
    Crl(CrlFact),
    /// About compilers' Puppet certificates.
    Certificate(CertificateFact),

    /// A refused request, for the audit; changes nothing.
    Refused {
        what: String,
        reason: String,
    },

    /// A phase of a rotation of the mesh CA begins; the last one ends it. `left`: the nodes that it does not wait for.
    CaRotationMoved {
        phase: CaPhase,
        from: Digest,
        to: Digest,
        left: BTreeSet<NodeName>,
        who: String,
    },
    /// What a node has of the new CA, as it said itself.
    AnchorsHeld {
        node: NodeName,
        ca: Digest,
        hold: CaHold,
    },
    /// A host is told to become a compiler; for the audit, changes nothing here.
    CompilerSetUp {
        node: NodeName,
        who: String,
    },
    /// Puppet's CA is told to revoke a compiler's certificate and to forget it; for the audit, changes nothing here.
    PuppetCertificateRevoked {
        node: NodeName,
        who: String,
    },
}

/// One environment of [`Fact::NodeObserved`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    pub environment: EnvironmentName,
    pub live: Option<Digest>,
    pub proven: bool,
}
