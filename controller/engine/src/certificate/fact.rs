//! What is journalled about compilers' certificates.

use std::{collections::BTreeSet, fmt};

use bunraku_common::{Generation, NodeName};
use serde::{Deserialize, Serialize};

use super::{CertificatePhase, HostCertificate};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "certificate", rename_all = "kebab-case")]
pub enum CertificateFact {
    Asked {
        node: NodeName,
        generation: Generation,
        /// Beside the certname, as `DNS:puppet`.
        alt_names: BTreeSet<String>,
        who: String,
    },
    Moved {
        node: NodeName,
        generation: Generation,
        to: CertificatePhase,
    },
    /// Why it does not go on; empty: it does.
    Trouble {
        node: NodeName,
        generation: Generation,
        reason: String,
    },
    /// What a node says of its own. `None`: it has none.
    Host {
        node: NodeName,
        host: Option<HostCertificate>,
    },
}

impl CertificateFact {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Asked { .. } => "certificate-asked",
            Self::Moved { .. } => "certificate-moved",
            Self::Trouble { .. } => "certificate-trouble",
            Self::Host { .. } => "certificate-seen",
        }
    }

    pub(crate) fn node(&self) -> &NodeName {
        match self {
            Self::Asked { node, .. }
            | Self::Moved { node, .. }
            | Self::Trouble { node, .. }
            | Self::Host { node, .. } => node,
        }
    }
}

impl fmt::Display for CertificateFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked { node, alt_names, who, .. } => {
                let names: Vec<&str> = alt_names.iter().map(String::as_str).collect();
                let names = if names.is_empty() { "no other names".to_owned() } else { names.join(", ") };
                write!(f, "{who} asked for a certificate of {node} with {names}")
            }
            Self::Moved { node, to: CertificatePhase::Failed { reason, .. }, .. } => {
                write!(f, "the certificate of {node} failed: {reason}")
            }
            Self::Moved { node, to, .. } => write!(f, "the certificate of {node} is {}", to.name()),
            Self::Trouble { node, reason, .. } if reason.is_empty() => {
                write!(f, "the certificate of {node} goes on")
            }
            Self::Trouble { node, reason, .. } => write!(f, "the certificate of {node} waits: {reason}"),
            Self::Host { node, host: None } => write!(f, "{node} has no Puppet certificate"),
            Self::Host { node, host: Some(host) } => {
                write!(f, "{node} has Puppet certificate {}", host.serial)
            }
        }
    }
}
