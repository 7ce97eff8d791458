//! Nodes, operators, tokens and identities: who may speak, and what each compiler is known to serve.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Digest, EnvironmentName, Generation, Label, NodeName, OperatorName, Role};
use serde::{Deserialize, Serialize};

use crate::{Committed, Held, Millis, Right};

/// Part of the [`State`](crate::State). Serials and keys are opaque texts to it (hex, as the driver writes them).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fleet {
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    pub operators: BTreeMap<OperatorName, Operator>,
    /// By public id.
    pub tokens: BTreeMap<String, Token>,
    /// By certificate serial: every certificate that was given out and not denied.
    pub identities: BTreeMap<String, Identity>,
    pub denied_serials: BTreeMap<String, Denied>,
    pub denied_keys: BTreeMap<String, Denied>,
    /// Names that may not enrol, by any door, until they are allowed again; with the reason.
    pub barred: BTreeMap<NodeName, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub roles: BTreeSet<Role>,
    /// They stay when it enrols anew.
    #[serde(default)]
    pub labels: BTreeSet<Label>,
    /// Whether it has an identity that was not denied (it may have expired).
    pub enrolled: bool,
    pub enrolled_at: Millis,
    /// How it first came; a renewal does not change it.
    pub by: EnrolledBy,
    pub expires_s: u64,
    pub held: Option<Held>,
    pub environments: BTreeMap<EnvironmentName, OnNode>,
    /// The number of the term in which the node last said what it serves.
    pub observed_in: u64,
}

/// What one node is known to serve of one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnNode {
    /// What its live link was last known to name.
    pub live: Option<Digest>,
    pub proven: Option<Proof>,
    /// Why it is not proven, in its own words; empty when it is or nobody knows.
    pub owed: String,
    /// When it last lost a proof.
    pub lost_at: Option<Millis>,
}

/// Puppet Server on the node was seen to have loaded the snapshot, by an order of this generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub snapshot: Digest,
    pub generation: Generation,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum EnrolledBy {
    Token {
        id: String,
    },
    /// By its Puppet certificate with this serial.
    Puppet {
        serial: String,
    },
    /// By the identity with this serial.
    Renewal {
        serial: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    pub right: Right,
    pub added_at: Millis,
    pub by: String,
    pub enrolled: bool,
    pub revoked: bool,
    /// 0 before the first login.
    pub expires_s: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Of the secret. The secret itself never comes here.
    pub hash: String,
    pub grant: Grant,
    pub expires_s: u64,
    pub by: String,
    pub state: TokenState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenState {
    Waiting,
    Used,
    Revoked,
}

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "grant", rename_all = "kebab-case")]
pub enum Grant {
    Node { name: NodeName, roles: BTreeSet<Role> },
    Operator { name: OperatorName },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub owner: Owner,
    /// Digest of the certificate's public key (SPKI), hex.
    pub key: String,
    pub expires_s: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    Node(NodeName),
    Operator(OperatorName),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    pub reason: String,
    /// Of the newest certificate that it concerns: after that and the renewal grace the entry is needless.
    pub expires_s: u64,
}

/// Whether the holder of a certificate may speak. Asked at each handshake and each call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Allowed(Subject),
    Denied(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Node { name: NodeName, roles: BTreeSet<Role> },
    Operator { name: OperatorName, right: Right },
}

impl Fleet {
    /// Who holds the certificate with this serial and public key, as far as it may speak. Whether the certificate is
    /// in its time and names its holder is for the handshake to check.
    pub fn standing(&self, serial: &str, key: &str) -> Standing {
        if let Some(denied) = self.denied_serials.get(serial).or_else(|| self.denied_keys.get(key)) {
            return Standing::Denied(denied.reason.clone());
        }
        let unknown = || Standing::Denied("this identity was not given out by this controller".to_owned());
        let Some(identity) = self.identities.get(serial).filter(|known| known.key == key) else {
            return unknown();
        };
        match &identity.owner {
            Owner::Node(name) => match self.nodes.get(name) {
                Some(node) => {
                    Standing::Allowed(Subject::Node { name: name.clone(), roles: node.roles.clone() })
                }
                None => unknown(),
            },
            Owner::Operator(name) => match self.operators.get(name) {
                Some(operator) if !operator.revoked => {
                    Standing::Allowed(Subject::Operator { name: name.clone(), right: operator.right.clone() })
                }
                Some(_) => Standing::Denied(format!("operator {name} was revoked")),
                None => unknown(),
            },
        }
    }

    /// Compilers that a deploy waits for: enrolled and not put aside.
    pub fn compilers(&self) -> impl Iterator<Item = (&NodeName, &NodeRecord)> {
        self.nodes.iter().filter(|(_, node)| node.is_active_compiler())
    }
}

impl NodeRecord {
    pub fn is_compiler(&self) -> bool {
        self.roles.contains(&Role::Compiler)
    }

    /// Enrolled and not put aside.
    pub(crate) fn is_active_compiler(&self) -> bool {
        self.is_compiler() && self.enrolled && self.held.is_none()
    }

    /// Whether this node is proven to serve what was committed, by that decision or a later order for it.
    pub fn has_proven(&self, environment: &EnvironmentName, committed: &Committed) -> bool {
        let proof = self.environments.get(environment).and_then(|on_node| on_node.proven);
        proof.is_some_and(|p| p.snapshot == committed.snapshot && p.generation >= committed.generation)
    }
}
