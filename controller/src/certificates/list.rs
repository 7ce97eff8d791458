//! Every certificate that matters, by whoever has it.

use std::fs;

use bunraku_certificates::{AltName, Certificate};
use bunraku_engine::{State, certificate::NodeCertificate, fleet::Owner};
use bunraku_proto::v1::{self, CertificateOf, CertificateOnNode};

use crate::{config::PuppetConfig, report::Reporter};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

impl Reporter {
    pub(crate) fn certificate(&self, node: &str, known: &NodeCertificate) -> v1::CertificateInfo {
        use bunraku_engine::CertificatePhase::{Done, Failed, Installing, Ready, Staging};
        let mut info = v1::CertificateInfo {
            node: node.to_owned(),
            declared: known.declared.iter().flatten().cloned().collect(),
            host: known.host.as_ref().map(|host| v1::HostCertificate {
                fingerprint: host.fingerprint.clone(),
                serial: host.serial.clone(),
                dns_alt_names: host.alt_names.iter().cloned().collect(),
                not_before: host.not_before_s,
                not_after: host.not_after_s,
            }),
            ..v1::CertificateInfo::default()
        };
        let Some(attempt) = &known.attempt else { return info };
        (info.phase, info.who) = (attempt.phase.name().to_owned(), attempt.who.clone());
        (info.asked_ms, info.since_ms) = (self.shown(attempt.asked_at), self.shown(attempt.since));
        info.trouble = attempt.trouble.clone();
        if let Staging { fingerprint, .. }
        | Ready { fingerprint }
        | Installing { fingerprint, .. }
        | Done { fingerprint } = &attempt.phase
        {
            info.fingerprint = fingerprint.clone();
        }
        if let Installing { rollout, .. } = &attempt.phase {
            info.rollout = rollout.0;
        }
        if let Failed { reason, hint } = &attempt.phase {
            (info.reason, info.hint) = (reason.clone(), hint.clone());
        }
        info
    }
}

/// Those of this host, and the identities that the mesh CA (its bundle, PEM) gave out.
pub(crate) fn of_the_controller(
    state: &State,
    mesh: &str,
    puppet: Option<&PuppetConfig>,
) -> Vec<CertificateOf> {
    let mut all = Vec::new();
    if let Some(puppet) = puppet {
        let files = [("puppet ca", "authority", &puppet.ca), ("main server", "host", &puppet.certificate)];
        for (of, what, path) in files {
            let whole = path.display().to_string();
            match fs::read_to_string(path) {
                Ok(text) => all.extend(blocks(&text).map(|pem| line(of, what, &whole, pem))),
                Err(error) => all.push(trouble(of, what, &whole, error.to_string())),
            }
        }
    }
    all.extend(blocks(mesh).map(|pem| line("mesh ca", "authority", "", pem)));
    all.extend(state.fleet().identities.iter().map(|(serial, identity)| {
        let of = match &identity.owner {
            Owner::Node(node) => node.to_string(),
            Owner::Operator(name) => format!("operator {name}"),
        };
        let certificate = CertificateOnNode {
            what: "identity".into(),
            serial: serial.clone(),
            not_after: identity.expires_s,
            ..CertificateOnNode::default()
        };
        CertificateOf { of, certificate: Some(certificate) }
    }));
    all
}

/// Each certificate of a bundle.
fn blocks(bundle: &str) -> impl Iterator<Item = &str> {
    let starts: Vec<usize> = bundle.match_indices(BEGIN).map(|(at, _)| at).collect();
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([bundle.len()]).collect();
    starts.into_iter().zip(ends).map(|(from, to)| &bundle[from..to])
}

fn line(of: &str, what: &str, place: &str, pem: &str) -> CertificateOf {
    match Certificate::parse(pem.as_bytes()) {
        Err(error) => trouble(of, what, place, error.to_string()),
        Ok(certificate) => {
            let name = |name: &AltName| name.to_string().trim_start_matches("DNS:").to_owned();
            let certificate = CertificateOnNode {
                what: what.to_owned(),
                r#where: place.to_owned(),
                subject: certificate.subject().to_owned(),
                serial: certificate.serial().to_owned(),
                fingerprint: certificate.fingerprint().hex(),
                dns_alt_names: certificate.alt_names().iter().map(name).collect(),
                not_before: certificate.not_before_s(),
                not_after: certificate.not_after_s(),
                ..CertificateOnNode::default()
            };
            CertificateOf { of: of.to_owned(), certificate: Some(certificate) }
        }
    }
}

pub(crate) fn trouble(of: &str, what: &str, place: &str, why: String) -> CertificateOf {
    let certificate = CertificateOnNode {
        what: what.to_owned(),
        r#where: place.to_owned(),
        trouble: why,
        ..CertificateOnNode::default()
    };
    CertificateOf { of: of.to_owned(), certificate: Some(certificate) }
}
