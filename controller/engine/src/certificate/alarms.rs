//! What an operator must know of compilers' certificates though nobody asked.

use super::{CertificatePhase, NodeCertificate};
use crate::State;

/// One that ends within this is an alarm, in seconds. A renewal of ours has been tried for a month by then.
const ENDS_S: u64 = 30 * 86_400;

impl State {
    /// One line each, for people. `now_s`: Unix seconds.
    pub fn certificate_alarms(&self, now_s: u64) -> Vec<String> {
        let mut alarms = Vec::new();
        for (node, known) in &self.certificates.nodes {
            let ends_s = known.host.as_ref().map_or(u64::MAX, |host| host.not_after_s);
            let left = ends_s.saturating_sub(now_s);
            if left < ENDS_S {
                let when = if left == 0 {
                    "has ended".to_owned()
                } else {
                    format!("ends in {} days", left / 86_400)
                };
                alarms.push(format!(
                    "the Puppet certificate of {node} {when}\nhint: bunraku cert request {node}"
                ));
            }
            if let Some(reason) = failed_renewal(known) {
                alarms.push(format!(
                    "the Puppet certificate of {node} could not be renewed: {reason}\nhint: bunraku cert request {node}"
                ));
            }
        }
        alarms
    }
}

fn failed_renewal(known: &NodeCertificate) -> Option<&str> {
    let attempt = known.attempt.as_ref().filter(|attempt| attempt.is_renewal())?;
    match &attempt.phase {
        CertificatePhase::Failed { reason, .. } => Some(reason),
        CertificatePhase::Requesting
        | CertificatePhase::Signing { .. }
        | CertificatePhase::Staging { .. }
        | CertificatePhase::Ready { .. }
        | CertificatePhase::Installing { .. }
        | CertificatePhase::Done { .. } => None,
    }
}
