//! What is reported about compilers' certificates, and what of it is news.

use bunraku_common::{Generation, NodeName};

use super::{CertificateFact, CertificatePhase, HostCertificate};
use crate::{Fact, State};

/// An answer belongs to the attempt of its generation; one that comes late is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateEvent {
    /// The node made a request (PEM), which asks for what was declared and nothing else.
    Requested { node: NodeName, generation: Generation, request: String, fingerprint: String },
    /// Puppet's CA signed it (PEM), for the key of the request.
    Signed { node: NodeName, generation: Generation, certificate: String, fingerprint: String },
    /// It lies on the node.
    Staged { node: NodeName, generation: Generation },
    /// It cannot be: final.
    Failed { node: NodeName, generation: Generation, reason: String, hint: String },
    /// It cannot be now, and is tried again. Empty: it goes on.
    Trouble { node: NodeName, generation: Generation, reason: String },
    /// What a node says of its own. `None`: it has none.
    Host { node: NodeName, host: Option<HostCertificate> },
}

impl State {
    pub(crate) fn observe_certificate(&self, event: CertificateEvent) -> Option<Fact> {
        use CertificatePhase::{Failed, Ready, Requesting, Signing, Staging};
        let known = &self.certificates;
        let fact = match event {
            CertificateEvent::Requested { node, generation, request, fingerprint } => {
                let open = known.open(&node, generation)?;
                (open.phase == Requesting).then_some(())?;
                CertificateFact::Moved { node, generation, to: Signing { request, fingerprint } }
            }
            CertificateEvent::Signed { node, generation, certificate, fingerprint } => {
                let open = known.open(&node, generation)?;
                matches!(open.phase, Signing { .. }).then_some(())?;
                CertificateFact::Moved { node, generation, to: Staging { certificate, fingerprint } }
            }
            CertificateEvent::Staged { node, generation } => {
                let Staging { fingerprint, .. } = &known.open(&node, generation)?.phase else { return None };
                let to = Ready { fingerprint: fingerprint.clone() };
                CertificateFact::Moved { node, generation, to }
            }
            CertificateEvent::Failed { node, generation, reason, hint } => {
                known.open(&node, generation)?;
                CertificateFact::Moved { node, generation, to: Failed { reason, hint } }
            }
            CertificateEvent::Trouble { node, generation, reason } => {
                let open = known.open(&node, generation)?;
                (open.trouble != reason).then_some(())?;
                CertificateFact::Trouble { node, generation, reason }
            }
            CertificateEvent::Host { node, host } => {
                let record = self.fleet.nodes.get(&node)?;
                let before = known.nodes.get(&node).and_then(|known| known.host.as_ref());
                // A node that cannot tell at the moment says the same as one that has none.
                let is_news = host.is_some() && before != host.as_ref();
                (record.is_compiler() && is_news).then_some(())?;
                CertificateFact::Host { node, host }
            }
        };
        Some(Fact::Certificate(fact))
    }
}
