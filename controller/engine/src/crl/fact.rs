//! What is journalled about Puppet's CRLs.

use std::fmt;

use bunraku_certificates::Revoked;
use bunraku_common::{Generation, NodeName};
use serde::{Deserialize, Serialize};

use super::{CrlHeld, SeenCrl};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "crl", rename_all = "kebab-case")]
pub enum CrlFact {
    /// Every node that takes CRLs is to have these.
    Wanted {
        seen: Box<SeenCrl>,
        generation: Generation,
        /// It is more than our own canaries.
        news: bool,
        /// Who accepted numbers that go back.
        by: Option<String>,
    },
    /// The CA's file holds what no server is to have.
    Rejected {
        seen: Option<SeenCrl>,
        reason: String,
        hint: String,
    },
    /// The CA's file holds again what is wanted.
    RejectionOver,
    /// What a node says of itself. `None`: it takes no CRLs.
    OnNode {
        node: NodeName,
        holds: Option<CrlHeld>,
    },
    Refused {
        node: NodeName,
        reason: String,
    },
    Proven {
        node: NodeName,
        generation: Generation,
        refused_ms: u64,
    },
    Unproven {
        node: NodeName,
        reason: String,
    },
    CanaryReady {
        name: String,
        certificate: Revoked,
        ends_s: u64,
    },
    /// It is to be revoked: from here on its key is worth nothing.
    CanaryChosen {
        name: String,
    },
    /// It ends soon.
    CanaryRetired {
        name: String,
    },
    CanaryGone {
        name: String,
    },
    CanaryTrouble {
        reason: String,
    },
}

impl CrlFact {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Wanted { .. } => "crl-wanted",
            Self::Rejected { .. } => "crl-rejected",
            Self::RejectionOver => "crl-rejection-over",
            Self::OnNode { .. } => "crl-on-node",
            Self::Refused { .. } => "crl-refused",
            Self::Proven { .. } => "crl-proven",
            Self::Unproven { .. } => "crl-unproven",
            Self::CanaryReady { .. } => "canary-ready",
            Self::CanaryChosen { .. } => "canary-chosen",
            Self::CanaryRetired { .. } => "canary-retired",
            Self::CanaryGone { .. } => "canary-gone",
            Self::CanaryTrouble { .. } => "canary-trouble",
        }
    }

    pub(crate) fn node(&self) -> Option<&NodeName> {
        match self {
            Self::OnNode { node, .. }
            | Self::Refused { node, .. }
            | Self::Proven { node, .. }
            | Self::Unproven { node, .. } => Some(node),
            Self::Wanted { .. }
            | Self::Rejected { .. }
            | Self::RejectionOver
            | Self::CanaryReady { .. }
            | Self::CanaryChosen { .. }
            | Self::CanaryRetired { .. }
            | Self::CanaryGone { .. }
            | Self::CanaryTrouble { .. } => None,
        }
    }
}

impl fmt::Display for CrlFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wanted { seen, generation, news, by, .. } => {
                if let Some(who) = by {
                    write!(f, "{who} accepted that the CA's CRL numbers go back; ")?;
                }
                let what = if *news { "" } else { ", new are canaries only" };
                let (crl, count) = (seen.crl.short(), seen.revoked);
                let whom = if *news { "node" } else { "Puppet Server" };
                write!(f, "CRL {crl} goes to every {whom} ({generation}; {count} revoked{what})")
            }
            Self::Rejected { reason, .. } => write!(f, "the CA's CRL is not sent to anybody: {reason}"),
            Self::RejectionOver => f.write_str("the CA's CRL is again the one that was sent out"),
            Self::OnNode { node, holds: None } => write!(f, "{node} takes no CRLs"),
            Self::OnNode { node, holds: Some(CrlHeld { crl, owed, unread, .. }) } => {
                let holds = crl.map_or_else(|| "no CRL yet".to_owned(), |crl| format!("CRL {}", crl.short()));
                write!(f, "{node} holds {holds}")?;
                let owes = [owed, unread].into_iter().find(|why| !why.is_empty());
                owes.map_or(Ok(()), |why| write!(f, ", and owes: {why}"))
            }
            Self::Refused { node, reason } => write!(f, "{node} does not take the CRL: {reason}"),
            Self::Proven { node, generation, .. } => {
                write!(f, "{node} refuses what the CRL of {generation} revokes")
            }
            Self::Unproven { node, reason } => {
                write!(f, "it is not proven that {node} enforces its CRL: {reason}")
            }
            Self::CanaryReady { name, .. } => write!(f, "canary {name} is ready"),
            Self::CanaryChosen { name } => write!(f, "canary {name} is to be revoked"),
            Self::CanaryRetired { name } => write!(f, "canary {name} ends soon and is replaced"),
            Self::CanaryGone { name } => write!(f, "canary {name} is forgotten"),
            Self::CanaryTrouble { reason } if reason.is_empty() => f.write_str("canaries can be made again"),
            Self::CanaryTrouble { reason } => write!(f, "canaries are in trouble: {reason}"),
        }
    }
}
