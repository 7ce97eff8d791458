//! Orders about Puppet's CRLs.

use std::time::Duration;

use bunraku_common::{Digest, Generation, NodeName, Term, hint};
use bunraku_engine::{CrlEvent, CrlHeld, Event, Step};
use bunraku_proto::v1::{self, InstallCrlRequest};

use super::orders::{Client, Hands, NoReply, order_about};
use crate::words::plain;

/// A node judges and writes a few files.
const INSTALL_DEADLINE: Duration = Duration::from_secs(20);
const SUBJECT: &str = "crl";

impl Hands {
    /// Does a step about CRLs; other steps are none of it.
    pub(super) async fn crl(&self, step: Step, term: Term) -> Option<Event> {
        match step {
            Step::InstallCrl { node, crl, generation, number_reset } => {
                self.install_crl(node, crl, generation, number_reset, term).await
            }
            _ => None,
        }
    }

    async fn install_crl(
        &self,
        node: NodeName,
        crl: Digest,
        generation: Generation,
        number_reset: bool,
        term: Term,
    ) -> Option<Event> {
        let Some(crls) = self.crls.read(&crl) else {
            tracing::error!(crl = %crl.short(), "the CRL that is to be sent out is not in the data directory any more\nhint: systemctl restart bunraku reads it from Puppet's CA again");
            return None;
        };
        let order = Some(order_about(term, generation, SUBJECT));
        let request = InstallCrlRequest { order, crls: crls.pem().to_vec(), number_reset };
        let reply = self
            .call(&node, request, INSTALL_DEADLINE, async |mut c: Client, r| c.install_crl(r).await)
            .await;
        let event = match reply {
            Ok(reply) if reply.refused.is_empty() => {
                CrlEvent::OnNode { node, holds: reply.crl.as_ref().map(held) }
            }
            Ok(reply) => {
                let reason = plain(&reply.refused);
                let reason =
                    if reply.hint.is_empty() { reason } else { hint::join(&reason, &plain(&reply.hint)) };
                CrlEvent::Refused { node, reason }
            }
            Err(NoReply::Unknown) => return None,
            Err(NoReply::Refused(reason) | NoReply::Failed(reason) | NoReply::NotUnderstood(reason)) => {
                CrlEvent::Refused { node, reason }
            }
        };
        Some(Event::Crl(event))
    }
}

/// What a node says of its CRLs, parsed.
pub(crate) fn held(crl: &v1::CrlOnNode) -> CrlHeld {
    CrlHeld {
        crl: crl.digest.parse().ok(),
        generation: Generation(crl.generation),
        provable: crl.provable,
        owed: plain(&crl.owed),
    }
}
