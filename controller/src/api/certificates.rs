//! Compilers' Puppet certificates: asked for, followed, and listed with all others that matter.

use std::{collections::BTreeSet, time::Duration};

use bunraku_common::{NodeName, hint};
use bunraku_engine::{Request, certificate::NodeCertificate};
use bunraku_proto::v1;
use futures_util::StreamExt;
use tonic::Status;

use super::{Api, caller::Subject, parse};
use crate::{
    certificates::{SignError, may_be_signed, of_the_controller, trouble, wanted},
    words,
};

/// A node asks its own servers side by side.
const DEADLINE: Duration = Duration::from_secs(30);
const ASKED_AT_ONCE: usize = 32;

impl Api {
    pub(super) async fn certificate_asked(
        &self,
        request: v1::AskCertificateRequest,
        who: &Subject,
    ) -> Result<v1::CertificateInfo, Status> {
        self.in_command()?;
        let node: NodeName = parse(&request.node)?;
        self.may_be_signed(&node, &request.dns_alt_names)?;
        let request = Request::Certificate { node: node.clone(), alt_names: request.dns_alt_names };
        self.driver.request(request, &who.to_string()).await?;
        self.certificate_shown(&node)
    }

    /// What Puppet's CA would refuse is told before anything is tried.
    fn may_be_signed(&self, node: &NodeName, alt_names: &[String]) -> Result<(), Status> {
        let not_now = |reason: String| Status::failed_precondition(reason);
        let ca = self.puppet_ca.get().map_err(|error| not_now(error.to_string()))?;
        let names = alt_names.iter().map(|name| format!("DNS:{}", name.trim_start_matches("DNS:")));
        let declared = {
            let state = self.driver.shared.state();
            let known = state.certificates().nodes.get(node).and_then(|known| known.declared.clone());
            known.filter(|_| alt_names.is_empty()).unwrap_or_else(|| names.collect())
        };
        // A name that is none is told by the engine, which says more.
        let Ok(wanted) = wanted(node, &declared) else { return Ok(()) };
        match may_be_signed(ca, &wanted) {
            Ok(()) => Ok(()),
            Err(SignError::Final { reason, hint }) => Err(not_now(hint::join(&reason, &hint))),
            Err(SignError::Trouble(reason)) => Err(not_now(reason)),
        }
    }

    pub(super) fn certificate_shown(&self, node: &NodeName) -> Result<v1::CertificateInfo, Status> {
        let state = self.driver.shared.state();
        if !state.fleet().nodes.contains_key(node) {
            return Err(Status::not_found(format!("there is no node {node}\nhint: bunraku nodes list")));
        }
        let known = state.certificates().nodes.get(node).cloned().unwrap_or_default();
        let mut info = self.reporter.certificate(node.as_str(), &known);
        let crls = state.revocations().wanted.as_ref().and_then(|wanted| self.crls.read(&wanted.crl));
        info.host_revoked = crls.zip(known.host).is_some_and(|(crls, host)| crls.revokes(&host.serial));
        Ok(info)
    }

    pub(super) async fn all_certificates(&self) -> v1::ListCertificatesReply {
        let mut certificates = of_the_controller(
            &self.driver.shared.state(),
            &self.identities.authorities().bundle(),
            self.config.puppet.as_ref(),
        );
        let asked = futures_util::stream::iter(self.connections.nodes());
        let told: Vec<_> = asked
            .map(|node| async move { (self.certificates_of(&node).await, node) })
            .buffer_unordered(ASKED_AT_ONCE)
            .collect()
            .await;
        for (told, node) in told {
            let of = node.to_string();
            match told {
                Ok(all) => {
                    certificates.extend(all.into_iter().map(|certificate| v1::CertificateOf {
                        of: of.clone(),
                        certificate: Some(certificate),
                    }))
                }
                Err(why) => certificates.push(trouble(&of, "node", "", why)),
            }
        }
        drop_known_twice(&mut certificates);
        certificates.sort_by_key(|line| line.certificate.as_ref().map_or(u64::MAX, ends));
        let state = self.driver.shared.state();
        let known = state.certificates().nodes.iter();
        let worth = |known: &NodeCertificate| {
            let phase = known.attempt.as_ref().map(|attempt| attempt.phase.name());
            phase.is_some_and(|phase| phase != "done")
        };
        let attempts = known.filter(|(_, known)| worth(known));
        let attempts = attempts.map(|(node, known)| self.reporter.certificate(node.as_str(), known));
        v1::ListCertificatesReply { certificates, attempts: attempts.collect() }
    }

    async fn certificates_of(&self, node: &NodeName) -> Result<Vec<v1::CertificateOnNode>, String> {
        let mut client = self.connections.client(node).ok_or("not connected")?;
        let mut request = tonic::Request::new(v1::CertificatesRequest {});
        request.set_timeout(DEADLINE);
        match client.certificates(request).await {
            Ok(reply) => Ok(words::certificates(reply.into_inner())),
            Err(status) => Err(words::plain(status.message())),
        }
    }
}

/// A node that shows its identity says more of it than the journal.
fn drop_known_twice(all: &mut Vec<v1::CertificateOf>) {
    let placed = |line: &v1::CertificateOf| {
        let certificate = line.certificate.as_ref()?;
        (!certificate.r#where.is_empty()).then(|| (line.of.clone(), certificate.serial.clone()))
    };
    let shown: BTreeSet<_> = all.iter().filter_map(placed).collect();
    all.retain(|line| {
        let certificate = line.certificate.clone().unwrap_or_default();
        !certificate.r#where.is_empty() || !shown.contains(&(line.of.clone(), certificate.serial))
    });
}

/// What cannot be told comes last.
fn ends(certificate: &v1::CertificateOnNode) -> u64 {
    if certificate.not_after == 0 { u64::MAX } else { certificate.not_after }
}
