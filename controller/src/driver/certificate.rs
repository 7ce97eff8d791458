//! Orders about compilers' Puppet certificates, and what is asked of Puppet's CA for them.

use std::{collections::BTreeSet, time::Duration};

use bunraku_certificates::SigningRequest;
use bunraku_common::{Chain, Generation, NodeName, Term};
use bunraku_engine::{CertificateEvent, HostCertificate};
use bunraku_proto::v1::{self, RequestCertificateRequest, StageCertificateRequest};

use super::orders::{Client, Hands, NoReply, order_about};
use crate::{
    certificates::{SignError, Signed, sign, wanted},
    words::{plain, word},
};

/// A node makes a key, or judges and writes a file.
const DEADLINE: Duration = Duration::from_secs(30);
const SUBJECT: &str = "certificate";

impl Hands {
    /// The node's word is judged like anybody's: it may ask for no more than what was declared.
    pub(super) async fn request_certificate(
        &self,
        node: NodeName,
        generation: Generation,
        alt_names: &BTreeSet<String>,
        term: Term,
    ) -> Option<CertificateEvent> {
        let names = alt_names.iter().map(|name| name.strip_prefix("DNS:").unwrap_or(name).to_owned());
        let order = Some(order_about(term, generation, SUBJECT));
        let request = RequestCertificateRequest { order, dns_alt_names: names.collect() };
        let reply = self
            .call(&node, request, DEADLINE, async |mut c: Client, r| c.request_certificate(r).await)
            .await;
        let reply = match reply {
            Ok(reply) => reply,
            Err(no_reply) => return not_obeyed(node, generation, no_reply),
        };
        if !reply.refused.is_empty() {
            let (reason, hint) = (plain(&reply.refused), plain(&reply.hint));
            return Some(CertificateEvent::Failed { node, generation, reason, hint });
        }
        let judged = SigningRequest::parse(&reply.request).map_err(|error| Chain(&error).to_string());
        let judged = judged.and_then(|request| {
            let wanted = wanted(&node, alt_names).map_err(|error| format!("{error:?}"))?;
            request.judge(&wanted).map_err(|refusal| Chain(&refusal).to_string())?;
            Ok(request.fingerprint().hex())
        });
        let text = String::from_utf8(reply.request).map_err(|_| "it is no text".to_owned());
        match judged.and_then(|fingerprint| Ok((fingerprint, text?))) {
            Ok((fingerprint, request)) => {
                Some(CertificateEvent::Requested { node, generation, request, fingerprint })
            }
            Err(why) => {
                let reason = format!("the node's request cannot be signed: {why}");
                Some(CertificateEvent::Failed { node, generation, reason, hint: String::new() })
            }
        }
    }

    pub(super) async fn sign_certificate(
        &self,
        node: NodeName,
        generation: Generation,
        alt_names: &BTreeSet<String>,
        request: &str,
        ours: &BTreeSet<String>,
    ) -> CertificateEvent {
        let signed = async {
            let ca = self.puppet_ca.get().map_err(|error| SignError::Trouble(Chain(&error).to_string()))?;
            sign(ca, &wanted(&node, alt_names)?, request, ours).await
        };
        match signed.await {
            Ok(Signed { pem, fingerprint }) => {
                CertificateEvent::Signed { node, generation, certificate: pem, fingerprint }
            }
            Err(SignError::Final { reason, hint }) => {
                CertificateEvent::Failed { node, generation, reason, hint }
            }
            Err(SignError::Trouble(reason)) => CertificateEvent::Trouble { node, generation, reason },
        }
    }

    pub(super) async fn stage_certificate(
        &self,
        node: NodeName,
        generation: Generation,
        certificate: String,
        term: Term,
    ) -> Option<CertificateEvent> {
        let order = Some(order_about(term, generation, SUBJECT));
        let request = StageCertificateRequest { order, certificate: certificate.into_bytes() };
        let reply =
            self.call(&node, request, DEADLINE, async |mut c: Client, r| c.stage_certificate(r).await).await;
        match reply {
            Ok(reply) if reply.refused.is_empty() => Some(CertificateEvent::Staged { node, generation }),
            Ok(reply) => {
                let (reason, hint) = (plain(&reply.refused), plain(&reply.hint));
                Some(CertificateEvent::Failed { node, generation, reason, hint })
            }
            Err(no_reply) => not_obeyed(node, generation, no_reply),
        }
    }
}

fn not_obeyed(node: NodeName, generation: Generation, why: NoReply) -> Option<CertificateEvent> {
    match why {
        NoReply::Unknown => None,
        NoReply::Failed(reason) => Some(CertificateEvent::Trouble { node, generation, reason }),
        NoReply::Refused(reason) | NoReply::NotUnderstood(reason) => {
            let hint =
                "systemctl status bunraku-agent there; an older agent: bunraku rollout start agent-update"
                    .to_owned();
            Some(CertificateEvent::Failed { node, generation, reason, hint })
        }
    }
}

/// What a node says of its own, parsed and bounded.
pub(crate) fn host_certificate(host: &v1::HostCertificate) -> HostCertificate {
    HostCertificate {
        fingerprint: word(&host.fingerprint),
        serial: word(&host.serial),
        alt_names: host.dns_alt_names.iter().take(100).map(|name| word(name)).collect(),
        not_before_s: host.not_before,
        not_after_s: host.not_after,
    }
}
