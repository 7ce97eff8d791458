//! What is still to do about compilers' certificates.

use super::CertificatePhase;
use crate::{Presence, State, Step};

impl State {
    pub(crate) fn certificate_steps(&self, presence: &Presence, steps: &mut Vec<Step>) {
        for (node, known) in &self.certificates.nodes {
            let (Some(attempt), Some(declared)) = (&known.attempt, &known.declared) else { continue };
            let (node, generation) = (node.clone(), attempt.generation);
            let is_there = presence.is_connected(&node);
            match &attempt.phase {
                CertificatePhase::Requesting if is_there => {
                    steps.push(Step::RequestCertificate { node, generation, alt_names: declared.clone() });
                }
                CertificatePhase::Signing { request, .. } => steps.push(Step::SignCertificate {
                    certname: node,
                    generation,
                    alt_names: declared.clone(),
                    request: request.clone(),
                    ours: known.ours(),
                }),
                CertificatePhase::Staging { certificate, .. } if is_there => {
                    let certificate = certificate.clone();
                    steps.push(Step::StageCertificate { node, generation, certificate });
                }
                CertificatePhase::Requesting
                | CertificatePhase::Staging { .. }
                | CertificatePhase::Ready { .. }
                | CertificatePhase::Installing { .. }
                | CertificatePhase::Done { .. }
                | CertificatePhase::Failed { .. } => {}
            }
        }
    }
}
