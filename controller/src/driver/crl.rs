//! Orders about Puppet's CRLs.

use std::time::Duration;

use bunraku_common::{Chain, Digest, Generation, NodeName, Term, hint};
use bunraku_engine::{CrlEvent, CrlHeld, Event, Revocations};
use bunraku_proto::v1::{self, InstallCrlRequest, ProveCrlRequest};
use bunraku_puppet_ca::CanaryError;

use super::orders::{Client, Hands, NoReply, order_about};
use crate::words::plain;

/// A node judges and writes a few files.
const INSTALL_DEADLINE: Duration = Duration::from_secs(20);
/// A node watches its Puppet Server for some seconds.
const PROVE_DEADLINE: Duration = Duration::from_secs(30);
const SUBJECT: &str = "crl";

impl Hands {
    pub(super) async fn make_canary(&self) -> Option<Event> {
        let known = self.revocations()?;
        Some(Event::Crl(self.stock.make(&known).await))
    }

    pub(super) async fn revoke_canary(&self, name: &str) -> Option<Event> {
        let known = self.revocations()?;
        let canary = known.canaries.get(name)?;
        Some(Event::Crl(self.stock.revoke(name, &canary.certificate).await))
    }

    pub(super) async fn forget_canary(&self, name: &str) -> Option<Event> {
        let known = self.revocations()?;
        let canary = known.canaries.get(name)?;
        Some(Event::Crl(self.stock.forget(name, &canary.certificate).await))
    }

    fn revocations(&self) -> Option<Revocations> {
        Some(self.shared.upgrade()?.state().revocations().clone())
    }

    /// The canary's key goes to the node; it is worth nothing any more, which its files are asked for once more.
    pub(super) async fn prove_crl(
        &self,
        node: NodeName,
        canary: &str,
        revoked: Generation,
        generation: Generation,
        term: Term,
    ) -> Option<Event> {
        let (certificate, wanted) = {
            let shared = self.shared.upgrade()?;
            let state = shared.state();
            let known = state.revocations();
            (known.canaries.get(canary)?.certificate.clone(), known.wanted.as_ref()?.crl)
        };
        let crls = self.crls.read(&wanted)?;
        let keys = match self.stock.keys(&certificate, &crls) {
            Ok(keys) => keys,
            Err(CanaryError::Unknown { .. }) => {
                return Some(Event::Crl(CrlEvent::CanaryGone { name: canary.to_owned() }));
            }
            Err(error) => {
                let reason = Chain(&error).to_string();
                return Some(Event::Crl(CrlEvent::CanaryTrouble { reason }));
            }
        };
        let request = ProveCrlRequest {
            order: Some(order_about(term, generation, SUBJECT)),
            certificate: keys.certificate_pem().as_bytes().to_vec(),
            key: keys.key_pem().as_bytes().to_vec(),
        };
        let reply =
            self.call(&node, request, PROVE_DEADLINE, async |mut c: Client, r| c.prove_crl(r).await).await;
        let refused = match reply {
            Ok(reply) if reply.refused => Ok(reply.refused_ms),
            Ok(reply) => Err(plain(&reply.owed)),
            Err(NoReply::Unknown) => return None,
            Err(NoReply::Refused(why) | NoReply::Failed(why) | NoReply::NotUnderstood(why)) => Err(why),
        };
        Some(Event::Crl(CrlEvent::Proof { node, generation: revoked, refused }))
    }

    pub(super) async fn install_crl(
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
            // They count also where a file did not get them, which the node then owes.
            Ok(reply) if has(&reply, &crl) => CrlEvent::OnNode { node, holds: reply.crl.as_ref().map(held) },
            // Its own Puppet agent was first. The CA's file shows them here, too, or they are held back.
            Ok(reply) if reply.refused.is_empty() => {
                let reason = "it keeps newer CRLs than those that are sent out".to_owned();
                CrlEvent::Refused { node, reason }
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

fn has(reply: &v1::InstallCrlReply, crl: &Digest) -> bool {
    reply.crl.as_ref().is_some_and(|held| held.digest == crl.to_string())
}

/// What a node says of its CRLs, parsed.
pub(crate) fn held(crl: &v1::CrlOnNode) -> CrlHeld {
    CrlHeld {
        crl: crl.digest.parse().ok(),
        generation: Generation(crl.generation),
        provable: crl.provable,
        owed: plain(&crl.owed),
        unread: plain(&crl.unread),
    }
}
