//! What people (and nodes at the enrolment doors) ask for, and why they may be refused.

use std::{collections::BTreeSet, fmt};

use bunraku_common::{Digest, EnvironmentName, Label, NodeName, OperatorName, Role};

use crate::{Ask, CaPhase, Policy, Right, RolloutId};

/// Who may ask is checked before ([`Right::allows`], [`Fleet::standing`](crate::fleet::Fleet::standing)); here it is
/// only decided whether the request fits the state. `now_s` is Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Deploy {
        environment: EnvironmentName,
        branch: String,
        /// Full SHA.
        commit: Option<String>,
        plan: bool,
        /// `None`: the configured one.
        policy: Option<Policy>,
    },
    Rollback {
        environment: EnvironmentName,
        /// A digest or a unique beginning of one; `None`: the one before the live one.
        to: Option<String>,
    },
    Release {
        environment: EnvironmentName,
    },

    HoldNode {
        node: NodeName,
        reason: String,
    },
    ReleaseNode {
        node: NodeName,
    },
    RevokeNode {
        node: NodeName,
        reason: String,
    },
    AllowNode {
        node: NodeName,
    },
    LabelNode {
        node: NodeName,
        add: BTreeSet<Label>,
        remove: BTreeSet<Label>,
    },
    RemoveNode {
        node: NodeName,
    },
    /// Journalled before the orders leave.
    HealNode {
        node: NodeName,
    },
    /// Make a host a compiler: journalled before the order leaves.
    SetUpCompiler {
        node: NodeName,
    },
    /// Revoke a compiler's Puppet certificate: journalled before Puppet's CA is asked.
    RevokePuppetCertificate {
        node: NodeName,
    },

    /// Take a compiler out of service at every balancer.
    Drain {
        compiler: NodeName,
        reason: String,
        /// What must stay in service in each backend; the larger of this and the balancer's own floor rules.
        min_available: u32,
    },
    Enable {
        compiler: NodeName,
    },

    StartRollout {
        ask: Ask,
    },
    PauseRollout {
        rollout: RolloutId,
        reason: String,
    },
    ResumeRollout {
        rollout: RolloutId,
    },
    AbortRollout {
        rollout: RolloutId,
        reason: String,
    },
    /// The turn of a node that failed or was skipped begins anew.
    RetryTurn {
        rollout: RolloutId,
        node: NodeName,
    },
    SkipTurn {
        rollout: RolloutId,
        node: NodeName,
    },
    /// Another version for an update that goes on.
    RetargetRollout {
        rollout: RolloutId,
        version: String,
    },

    CreateToken {
        id: String,
        hash: String,
        node: NodeName,
        roles: BTreeSet<Role>,
        expires_s: u64,
    },
    RevokeToken {
        id: String,
    },
    /// With the token for the first login.
    /// Puppet's CA counts its CRLs anew.
    AcceptCrl,
    /// A compiler's Puppet certificate is to say this; no names: what was declared before.
    Certificate {
        node: NodeName,
        alt_names: Vec<String>,
    },
    AddOperator {
        name: OperatorName,
        right: Right,
        token: String,
        hash: String,
        expires_s: u64,
    },
    RevokeOperator {
        name: OperatorName,
    },

    /// At the token door, for nodes and operators: the token's grant says which. The driver signs the certificate
    /// with this serial and key once the facts are journalled.
    EnrolWithToken {
        hash: String,
        name: String,
        serial: String,
        key: String,
        expires_s: u64,
        now_s: u64,
    },
    /// At the Puppet door; `roles` are those that the allow-list grants.
    EnrolWithPuppet {
        node: NodeName,
        roles: BTreeSet<Role>,
        puppet_serial: String,
        serial: String,
        key: String,
        expires_s: u64,
    },
    /// By the holder of the identity `old_serial` with `old_key`.
    Renew {
        old_serial: String,
        old_key: String,
        serial: String,
        key: String,
        expires_s: u64,
        now_s: u64,
    },

    /// Begin a rotation of the mesh CA, or begin the next phase of the one under way, without waiting for these.
    RotateCa {
        /// The phase to begin, as the asker has seen it: two who ask at once begin one.
        phase: CaPhase,
        from: Digest,
        to: Digest,
        leave: BTreeSet<NodeName>,
    },
}

/// Why not, and what the one who asked can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    pub code: RefusalCode,
    pub reason: String,
    /// May be empty.
    pub hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    NotFound,
    Conflict,
    Invalid,
    Denied,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " (hint: {})", self.hint) }
    }
}

impl Refusal {
    pub(crate) fn new(code: RefusalCode, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), hint: hint.into() }
    }
}
