//! Which files of CRLs are good.

use bunraku_certificates::{Authorities, CLOCK_S, CrlError, Crls, PemError};
use rcgen::{KeyPair, KeyUsagePurpose};

use crate::world::{
    Chain, DAY_S, NOW_S, at, authority, below, crl, crl_params, element, parsed, root, signed, to_pem,
};

#[test]
fn puppet_s_own_files_are_good() {
    let authorities = Authorities::parse(include_bytes!("../fixtures/puppet/ca_crt.pem")).unwrap();
    let fresh = Crls::parse(include_bytes!("../fixtures/puppet/ca_crl.pem")).unwrap();
    let later = Crls::parse(include_bytes!("../fixtures/puppet/ca_crl_revoked.pem")).unwrap();
    fresh.check(&authorities, NOW_S).unwrap();
    later.check(&authorities, NOW_S).unwrap();
    assert_eq!(fresh.numbers().iter().map(|(_, number)| number.to_string()).collect::<Vec<_>>(), ["0", "0"]);
    assert_eq!(later.iter().map(|crl| crl.number().to_string()).collect::<Vec<_>>(), ["4", "0"]);
    assert_eq!(later.iter().next().unwrap().issuer_name(), "CN=Puppet CA: main.stack.test");
    // Ruby dates a CRL back by a day and gives it 15 years, Java a second and 5 years.
    assert!(fresh.this_update_s() < later.this_update_s() - DAY_S + 60);
    assert!(later.ends_s() < fresh.ends_s() - 9 * 365 * DAY_S);
}

#[test]
fn each_kind_of_signature_is_accepted_or_refused_by_name() {
    macro_rules! judged {
        ($name:literal) => {{
            let authorities =
                Authorities::parse(include_bytes!(concat!("../fixtures/openssl/", $name, ".crt.pem")))
                    .unwrap();
            Crls::parse(include_bytes!(concat!("../fixtures/openssl/", $name, ".crl.pem")))
                .and_then(|crls| crls.check(&authorities, NOW_S))
        }};
    }
    assert_eq!(judged!("sha256"), Ok(()));
    assert_eq!(judged!("sha384"), Ok(()));
    assert_eq!(judged!("sha512"), Ok(()));
    assert_eq!(judged!("sha1"), Err(CrlError::Algorithm { issuer: "CN=sha1".into() }));
    assert_eq!(judged!("pss"), Err(CrlError::Algorithm { issuer: "CN=pss".into() }));
    assert_eq!(judged!("no-number"), Err(CrlError::NoNumber { issuer: "CN=no-number".into() }));
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = crate::world::Ca::self_signed(authority("p384"), key).unwrap();
    let authorities = Authorities::parse(p384.pem().as_bytes()).unwrap();
    assert_eq!(parsed(&crl(&p384, 1, &[])).check(&authorities, NOW_S), Ok(()));
}

#[test]
fn a_file_without_a_crl_is_refused() {
    for empty in ["", "\n", "no CRL here\n"] {
        assert_eq!(refused(empty), CrlError::Pem(PemError::Empty { wanted: "X509 CRL" }));
    }
    let chain = Chain::new();
    let label = PemError::Label { block: 1, found: "CERTIFICATE".into(), wanted: "X509 CRL" };
    assert_eq!(refused(&chain.ca.pem()), CrlError::Pem(label));
    assert_eq!(refused(&to_pem("X509 CRL", b"\x30\x00")), CrlError::Malformed { block: 1 });
}

#[test]
fn a_file_that_is_cut_off_is_refused_by_that_name() {
    let file = Chain::new().crls(1, &[]);
    let cut = &file[..file.len() - 40];
    assert_eq!(refused(cut), CrlError::Pem(PemError::Truncated { block: 2 }));
}

#[test]
fn a_chain_without_the_root_s_crl_is_incomplete() {
    let chain = Chain::new();
    let only = |ca| parsed(&crl(ca, 1, &[])).check(&chain.authorities(), NOW_S).unwrap_err();
    assert_eq!(only(&chain.ca).to_string(), "the chain is incomplete: there is no CRL of CN=Puppet Root CA");
    assert_eq!(only(&chain.root), CrlError::Missing { authority: "CN=Puppet CA".into() });
}

#[test]
fn two_crls_of_one_authority_are_refused_even_when_they_are_equal() {
    let chain = Chain::new();
    let twice = chain.crls(1, &[]) + &crl(&chain.ca, 2, &[]);
    assert_eq!(check(&chain, &twice), Err(CrlError::Twice { issuer: "CN=Puppet CA".into() }));
}

#[test]
fn a_crl_of_another_ca_is_refused() {
    let chain = Chain::new();
    let stranger = below("Other CA", &chain.root);
    let with = chain.crls(1, &[]) + &crl(&stranger, 1, &[]);
    assert_eq!(check(&chain, &with), Err(CrlError::OtherAuthority { issuer: "CN=Other CA".into() }));
    // The same name, and another key that says so: as after a CA was set up anew.
    let anew = below("Puppet CA", &chain.root);
    let other = crl(&anew, 9, &[]) + &crl(&chain.root, 1, &[]);
    assert_eq!(check(&chain, &other), Err(CrlError::OtherAuthority { issuer: "CN=Puppet CA".into() }));
}

#[test]
fn a_crl_of_a_key_that_only_claims_to_be_the_ca_s_is_refused() {
    let chain = Chain::new();
    let forger = below("Puppet CA", &chain.root);
    let mut params = crl_params(&[9], &[]);
    params.key_identifier_method =
        rcgen::KeyIdMethod::PreSpecified(authority("Puppet CA").key_identifier(chain.ca.key()));
    let forged = signed(&params, &forger) + &crl(&chain.root, 1, &[]);
    assert_eq!(check(&chain, &forged), Err(CrlError::Signature { issuer: "CN=Puppet CA".into() }));
}

#[test]
fn an_authority_whose_certificate_does_not_say_so_signs_no_crl() {
    let key = KeyPair::generate().unwrap();
    let mut params = authority("root");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let silent = params.self_signed(&key).unwrap();
    let authorities = Authorities::parse(silent.pem().as_bytes()).unwrap();
    let signer = rcgen::Issuer::new(authority("root"), key);
    let crls = parsed(&signed(&crl_params(&[1], &[]), &signer));
    assert_eq!(crls.check(&authorities, NOW_S), Err(CrlError::MayNotSign { issuer: "CN=root".into() }));
}

#[test]
fn a_crl_is_good_from_minutes_before_it_was_issued_until_it_ends() {
    let root = root("root");
    let authorities = Authorities::parse(root.pem().as_bytes()).unwrap();
    let mut params = crl_params(&[1], &[]);
    (params.this_update, params.next_update) = (at(NOW_S), at(NOW_S + DAY_S));
    let crls = parsed(&signed(&params, &root));
    let check = |now_s| crls.check(&authorities, now_s);
    let issuer = || "CN=root".to_owned();
    assert_eq!(check(0), Err(CrlError::Ahead { issuer: issuer(), at_s: NOW_S }));
    assert_eq!(check(NOW_S - CLOCK_S - 1), Err(CrlError::Ahead { issuer: issuer(), at_s: NOW_S }));
    assert_eq!(check(NOW_S - CLOCK_S), Ok(()));
    assert_eq!(check(NOW_S + DAY_S - 1), Ok(()));
    assert_eq!(check(NOW_S + DAY_S), Err(CrlError::Ended { issuer: issuer(), at_s: NOW_S + DAY_S }));
    assert_eq!(check(u64::MAX).unwrap_err().to_string().split(" ended ").next(), Some("the CRL of CN=root"));
}

#[test]
fn a_crl_that_is_a_part_or_a_delta_or_demands_more_is_refused() {
    const CRITICAL: &[u8] = &[1, 1, 0xff];
    for (oid, critical) in [
        // Issuing distribution point, delta CRL indicator (also without the mark that RFC 5280 demands), and an unknown
        // one that must be understood.
        ([0x55, 0x1d, 28], CRITICAL),
        ([0x55, 0x1d, 27], CRITICAL),
        ([0x55, 0x1d, 27], &[]),
        ([0x55, 0x1d, 99], CRITICAL),
    ] {
        let extension = element(0x30, &[&element(6, &[&oid]), critical, &element(4, &[&[5, 0]])]);
        let refused = refused(&unsigned(&[&number(1), &extension]));
        assert_eq!(refused, CrlError::Extension { block: 1, oid: format!("2.5.29.{}", oid[2]) });
    }
    let harmless = element(0x30, &[&element(6, &[&[0x55, 0x1d, 99]]), &element(4, &[&[5, 0]])]);
    Crls::parse(unsigned(&[&number(1), &harmless]).as_bytes()).unwrap();
}

#[test]
fn two_numbers_a_negative_one_and_one_that_is_too_long_are_refused() {
    assert_eq!(
        refused(&unsigned(&[&number(1), &number(2)])),
        CrlError::Extension { block: 1, oid: "2.5.29.20".into() }
    );
    assert_eq!(refused(&unsigned(&[&number(0x80)])), CrlError::Number { block: 1 });
    let chain = Chain::new();
    let long = signed(&crl_params(&[0x7f; 21], &[]), &chain.ca);
    assert_eq!(refused(&long), CrlError::Number { block: 1 });
    let longest = signed(&crl_params(&[0xff; 20], &[]), &chain.ca);
    assert_eq!(parsed(&longest).iter().next().unwrap().number().to_string(), format!("0x{}", "f".repeat(40)));
}

#[test]
fn a_crl_that_never_ends_is_refused() {
    let name = element(0x30, &[]);
    let body = [&ALGORITHM[..], &name, TIME, &extensions(&[&number(1)])].concat();
    assert_eq!(refused(&enveloped(&body)), CrlError::NoEnd { issuer: String::new() });
}

#[test]
fn a_crl_whose_envelope_names_another_signature_than_its_body_is_refused() {
    let inner = element(
        0x30,
        &[&[2, 1, 1], &ALGORITHM[..], &element(0x30, &[]), TIME, TIME, &extensions(&[&number(1)])],
    );
    let mut outer = ALGORITHM;
    outer[11] = 3;
    let crl = element(0x30, &[&inner, &outer, &[3, 2, 0, 0]]);
    assert_eq!(refused(&to_pem("X509 CRL", &crl)), CrlError::Malformed { block: 1 });
}

fn check(chain: &Chain, crls: &str) -> Result<(), CrlError> {
    parsed(crls).check(&chain.authorities(), NOW_S)
}

fn refused(file: &str) -> CrlError {
    Crls::parse(file.as_bytes()).unwrap_err()
}

const ALGORITHM: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const TIME: &[u8] = b"\x17\x0d261128000000Z";

/// A CRL with these extensions and a signature that is none: it can be read.
fn unsigned(wanted: &[&[u8]]) -> String {
    let name = element(0x30, &[]);
    enveloped(&[&ALGORITHM[..], &name, TIME, TIME, &extensions(wanted)].concat())
}

fn enveloped(body: &[u8]) -> String {
    let body = element(0x30, &[&[2, 1, 1], body]);
    to_pem("X509 CRL", &element(0x30, &[&body, &ALGORITHM, &[3, 2, 0, 0]]))
}

fn extensions(wanted: &[&[u8]]) -> Vec<u8> {
    element(0xa0, &[&element(0x30, wanted)])
}

fn number(number: u8) -> Vec<u8> {
    element(0x30, &[&element(6, &[&[0x55, 0x1d, 20]]), &element(4, &[&[2, 1, number]])])
}
