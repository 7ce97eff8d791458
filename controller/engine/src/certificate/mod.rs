//! Compilers' Puppet certificates: a request that is made on the node, signed by Puppet's CA when it says what an
//! operator declared, laid beside, and put in place by a rollout of one. Subject "certificate", a generation for each
//! attempt.
//!
//! The certificate in service stays good until the new one is served: Puppet's CA forgets it, and never revokes it.

mod alarms;
mod apply;
mod decide;
mod due;
mod event;
mod fact;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Generation, NodeName};
use serde::{Deserialize, Serialize};

use crate::{Millis, RolloutId, State};

pub use event::CertificateEvent;
pub use fact::CertificateFact;

/// A node that has a new one is asked for it this long.
const TOLD_WITHIN: Millis = 60_000;

/// All that is remembered of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    pub(crate) last: Generation,
    pub nodes: BTreeMap<NodeName, NodeCertificate>,
}

/// One compiler's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCertificate {
    /// What the node last said that its Puppet Server shows.
    pub host: Option<HostCertificate>,
    /// What an operator declared, as `DNS:puppet`; also for renewals. `None`: nobody has, and none is renewed.
    pub declared: Option<BTreeSet<String>>,
    /// The newest one.
    pub attempt: Option<Attempt>,
    /// Fingerprints of what attempts have left at Puppet's CA: requests and certificates, the newest last. Ours to be
    /// forgotten, the one in service among them.
    #[serde(default)]
    pub left: Vec<String>,
}

/// A Puppet certificate as a node describes its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCertificate {
    /// SHA-256 of the DER, hex.
    pub fingerprint: String,
    pub serial: String,
    /// As `DNS:puppet`.
    pub alt_names: BTreeSet<String>,
    /// Unix seconds.
    pub not_before_s: u64,
    pub not_after_s: u64,
}

/// One certificate on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub generation: Generation,
    pub phase: CertificatePhase,
    /// When it was asked for.
    pub asked_at: Millis,
    /// When its phase began.
    pub since: Millis,
    pub who: String,
    /// Why it does not go on, the last time that it was tried; empty: nothing is wrong.
    pub trouble: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum CertificatePhase {
    /// The node makes a key and a request.
    Requesting,
    /// Puppet's CA has it, compares, and signs.
    Signing {
        /// PEM.
        request: String,
        /// Of the request: SHA-256 of the DER, hex.
        fingerprint: String,
    },
    /// The node lays the certificate beside.
    Staging {
        /// PEM.
        certificate: String,
        fingerprint: String,
    },
    /// It lies there, and waits for its rollout.
    Ready {
        fingerprint: String,
    },
    Installing {
        fingerprint: String,
        rollout: RolloutId,
    },
    /// It is served, and was seen in a handshake.
    Done {
        fingerprint: String,
    },
    Failed {
        reason: String,
        hint: String,
    },
}

impl CertificatePhase {
    /// In one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Requesting => "requesting",
            Self::Signing { .. } => "signing",
            Self::Staging { .. } => "staging",
            Self::Ready { .. } => "ready",
            Self::Installing { .. } => "installing",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
        }
    }

    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Failed { .. })
    }
}

impl NodeCertificate {
    /// Whether a new one was put in place just now, and the node has not told of it yet. Later it may have another one,
    /// of which nobody here knows.
    pub fn is_to_be_told(&self, now: Millis) -> bool {
        let Some(Attempt { phase: CertificatePhase::Done { fingerprint }, since, .. }) = &self.attempt else {
            return false;
        };
        let is_new = now.saturating_sub(*since) < TOLD_WITHIN;
        is_new && self.host.as_ref().is_none_or(|host| host.fingerprint != *fingerprint)
    }

    /// Fingerprints of what Puppet's CA may have of this name, and may forget.
    pub(crate) fn ours(&self) -> BTreeSet<String> {
        let host = self.host.iter().map(|host| host.fingerprint.clone());
        self.left.iter().cloned().chain(host).collect()
    }
}

impl Attempt {
    pub fn is_open(&self) -> bool {
        !self.phase.is_ended()
    }

    /// Nobody asked for it but the end of the one before.
    pub fn is_renewal(&self) -> bool {
        self.who == decide::RENEWAL
    }
}

impl Certificates {
    /// The attempt of a node, if it is the one of this generation and not over.
    pub(crate) fn open(&self, node: &NodeName, generation: Generation) -> Option<&Attempt> {
        let attempt = self.nodes.get(node)?.attempt.as_ref()?;
        (attempt.generation == generation && attempt.is_open()).then_some(attempt)
    }
}

impl State {
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }
}
