//! Facts about compilers' certificates change the state.

use super::{Attempt, CertificateFact, CertificatePhase, Certificates};
use crate::{Action, Millis, Rollout};

/// Of one node that are remembered: Puppet's CA has one request and one certificate of a name at most.
const LEFT: usize = 16;

impl Certificates {
    pub(crate) fn apply(&mut self, fact: &CertificateFact, at: Millis) {
        match fact {
            CertificateFact::Asked { node, generation, alt_names, who } => {
                self.last = self.last.max(*generation);
                let known = self.nodes.entry(node.clone()).or_default();
                known.declared = Some(alt_names.clone());
                known.attempt = Some(Attempt {
                    generation: *generation,
                    phase: CertificatePhase::Requesting,
                    asked_at: at,
                    since: at,
                    who: who.clone(),
                    trouble: String::new(),
                });
            }
            CertificateFact::Moved { node, generation, to } => {
                if let CertificatePhase::Signing { fingerprint, .. }
                | CertificatePhase::Staging { fingerprint, .. } = to
                    && let Some(known) = self.nodes.get_mut(node)
                {
                    known.left.push(fingerprint.clone());
                    let surplus = known.left.len().saturating_sub(LEFT);
                    known.left.drain(..surplus);
                }
                let known = self.nodes.get_mut(node).and_then(|known| known.attempt.as_mut());
                if let Some(attempt) = known.filter(|attempt| attempt.generation == *generation) {
                    (attempt.phase, attempt.since) = (to.clone(), at);
                    attempt.trouble.clear();
                }
            }
            CertificateFact::Trouble { node, generation, reason } => {
                let known = self.nodes.get_mut(node).and_then(|known| known.attempt.as_mut());
                if let Some(attempt) = known.filter(|attempt| attempt.generation == *generation) {
                    attempt.trouble.clone_from(reason);
                }
            }
            CertificateFact::Host { node, host } => {
                self.nodes.entry(node.clone()).or_default().host.clone_from(host);
            }
        }
    }

    /// The start of its rollout is the same fact as that it is being put in place.
    pub(crate) fn installing(&mut self, rollout: &Rollout, at: Millis) {
        let Action::Certificate { certificate } = &rollout.action else { return };
        for node in rollout.turns.keys() {
            let known = self.nodes.get_mut(node).and_then(|known| known.attempt.as_mut());
            let Some(attempt) = known else { continue };
            if let CertificatePhase::Ready { fingerprint } = &attempt.phase
                && fingerprint == certificate
            {
                let fingerprint = fingerprint.clone();
                attempt.phase = CertificatePhase::Installing { fingerprint, rollout: rollout.id };
                attempt.since = at;
            }
        }
    }
}
