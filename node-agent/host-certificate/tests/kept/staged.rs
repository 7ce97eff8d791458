//! What was signed is judged before it lies beside.

use std::fs;

use bunraku_common::{Chain, hint};
use bunraku_host_certificate::Refused;
use rcgen::{BasicConstraints, CertificateParams, IsCa, SanType};

use crate::world::{Ca, Host, NOW_S, SERIAL, at};

/// Refused, with a reason and what helps, and nothing lies there.
fn refused(change: impl FnOnce(&mut CertificateParams)) -> Refused {
    let mut host = Host::new();
    let request = host.request(1, &["puppet.example"]).unwrap();
    let certificate = host.ca.sign(&request, change);
    let refused = host.stage(1, &certificate).unwrap_err();
    let (reason, hint) = hint::split(&Chain(&refused).to_string());
    assert!(!reason.is_empty() && !hint.is_empty(), "{refused}");
    assert!(host.can_place(&crate::world::fingerprint(&certificate)).is_err());
    refused
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

#[test]
fn what_was_asked_for_is_taken_and_once_more() {
    let mut host = Host::new();
    let (certificate, fingerprint) = host.ready(1);
    host.stage(1, &certificate).unwrap();
    host.can_place(&fingerprint).unwrap();
    assert!(matches!(host.stage(2, &certificate), Err(Refused::NotAsked)));
}

#[test]
fn names_that_are_missing_or_too_many_are_refused() {
    let extra = refused(|params| params.subject_alt_names.push(dns("evil.example")));
    assert!(extra.to_string().contains("foreign DNS:evil.example"), "{extra}");
    let missing = refused(|params| params.subject_alt_names.retain(|name| *name != dns("puppet.example")));
    assert!(missing.to_string().contains("missing DNS:puppet.example"), "{missing}");
    let address = refused(|params| {
        params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 5].into()));
    });
    assert!(address.to_string().contains("foreign IP:10.0.0.5"), "{address}");
    let subject = refused(|params| params.distinguished_name.push(rcgen::DnType::CommonName, "c2.example"));
    assert!(matches!(subject, Refused::Subject { .. }), "{subject}");
}

#[test]
fn what_has_ended_or_has_not_begun_is_refused() {
    let ended = refused(|params| params.not_after = at(NOW_S - 5));
    assert!(matches!(ended, Refused::Ended { since_s: 5 }), "{ended}");
    let early = refused(|params| params.not_before = at(NOW_S + 7));
    assert!(matches!(early, Refused::NotYet { in_s: 7 }), "{early}");
}

#[test]
fn an_authority_is_refused() {
    let authority = refused(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(authority, Refused::Authority), "{authority}");
}

#[test]
fn a_foreign_ca_another_key_and_a_cut_file_are_refused() {
    let mut host = Host::new();
    let request = host.request(1, &["puppet.example"]).unwrap();
    let foreign = host.stage(1, &Ca::new().sign(&request, |_| ())).unwrap_err();
    assert!(matches!(foreign, Refused::OtherAuthority { .. }), "{foreign}");
    let newer = host.request(2, &["puppet.example"]).unwrap();
    let other = host.stage(2, &host.ca.sign(&request, |_| ())).unwrap_err();
    assert!(matches!(other, Refused::OtherKey), "{other}");
    let good = host.ca.sign(&newer, |_| ());
    assert!(matches!(host.stage(2, &good[..good.len() / 2]), Err(Refused::Unreadable(_))));
    fs::write(host.path("ssl/ca.pem"), "").unwrap();
    assert!(matches!(host.stage(2, &good), Err(Refused::NothingToJudgeBy { .. })));
}

#[test]
fn what_is_revoked_is_refused_also_when_it_lies_there_already() {
    let mut host = Host::new();
    let request = host.request(1, &["puppet.example"]).unwrap();
    let certificate = host.ca.sign(&request, |_| ());
    fs::write(host.path("ssl/crl.pem"), host.ca.crl(&[SERIAL])).unwrap();
    assert!(matches!(host.stage(1, &certificate), Err(Refused::Revoked { .. })));
    fs::write(host.path("ssl/crl.pem"), "").unwrap();
    assert!(matches!(host.stage(1, &certificate), Err(Refused::NothingToJudgeBy { .. })));
    fs::write(host.path("ssl/crl.pem"), host.ca.crl(&[3])).unwrap();
    host.stage(1, &certificate).unwrap();
    fs::write(host.path("ssl/crl.pem"), host.ca.crl(&[3, SERIAL])).unwrap();
    let late = host.can_place(&crate::world::fingerprint(&certificate)).unwrap_err();
    assert!(late.contains("no longer holds: it is revoked"), "{late}");
}
