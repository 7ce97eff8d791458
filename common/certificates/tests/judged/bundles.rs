//! CA bundles.

use bunraku_certificates::{Authorities, AuthoritiesError, BLOCKS, BUNDLE_BYTES, KeyError, PemError};

use crate::world::{Chain, NOW_S, below, element, named, root, to_pem};

const PUPPET: &[u8] = include_bytes!("../fixtures/puppet/ca_crt.pem");

#[test]
fn puppet_s_bundle_is_read_with_both_authorities() {
    let authorities = Authorities::parse(PUPPET).unwrap();
    let names: Vec<_> = authorities.names().collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[0], "CN=Puppet CA: main.stack.test");
    assert!(names[1].starts_with("CN=Puppet Root CA: "), "{names:?}");
    // Puppet gives both 15 years.
    assert_eq!((authorities.ends_s() - NOW_S) / (365 * 86_400), 14);
    assert_eq!(authorities.pem(), PUPPET);
}

#[test]
fn text_and_line_ends_of_other_systems_between_the_blocks_are_ignored() {
    let chain = Chain::new();
    let file =
        format!("subject=CN = x\n{}\n\u{e9}\n{}bye", chain.ca.pem(), chain.root.pem()).replace('\n', "\r\n");
    assert_eq!(Authorities::parse(file.as_bytes()).unwrap().names().count(), 2);
}

#[test]
fn a_certificate_that_was_renewed_with_its_key_is_the_same_authority() {
    let chain = Chain::new();
    let again = chain.root.pem() + &chain.root.pem();
    assert_eq!(Authorities::parse(again.as_bytes()).unwrap().names().count(), 1);
    let other_key = chain.root.pem() + &root("Puppet Root CA").pem();
    assert_eq!(Authorities::parse(other_key.as_bytes()).unwrap().names().count(), 2);
}

#[test]
fn a_host_s_certificate_in_the_bundle_is_named() {
    let chain = Chain::new();
    let host = named("c1.stack.test").signed_by(&rcgen::KeyPair::generate().unwrap(), &chain.ca).unwrap();
    let refused = Authorities::parse((chain.ca.pem() + &host.pem()).as_bytes()).unwrap_err();
    assert_eq!(refused, AuthoritiesError::NoAuthority { block: 2, subject: "CN=c1.stack.test".into() });
    assert_eq!(
        refused.to_string(),
        "block 2 of the CA bundle, CN=c1.stack.test, is not an authority's certificate"
    );
}

#[test]
fn a_block_of_another_kind_is_named() {
    let chain = Chain::new();
    let file = chain.ca.pem() + &to_pem("PRIVATE KEY", b"secret");
    let label = PemError::Label { block: 2, found: "PRIVATE KEY".into(), wanted: "CERTIFICATE" };
    assert_eq!(Authorities::parse(file.as_bytes()).unwrap_err(), AuthoritiesError::Pem(label));
    let file = chain.ca.pem() + &to_pem("CERTIFICATE", b"\x30\x00");
    assert_eq!(Authorities::parse(file.as_bytes()).unwrap_err(), AuthoritiesError::Malformed { block: 2 });
}

#[test]
fn an_authority_with_a_key_that_is_not_accepted_is_refused() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let file = crate::world::authority("x").self_signed(&key).unwrap().pem();
    let kind = KeyError::Kind("1.3.101.112".into());
    assert_eq!(
        Authorities::parse(file.as_bytes()).unwrap_err(),
        AuthoritiesError::Key { block: 1, source: kind }
    );
}

#[test]
fn a_bundle_has_a_largest_size_and_number_of_blocks() {
    let pem = |file: &[u8]| {
        let AuthoritiesError::Pem(error) = Authorities::parse(file).unwrap_err() else { panic!("it is PEM") };
        error
    };
    let root = root("root");
    let many: String = (0..=BLOCKS).map(|_| root.pem()).collect();
    assert_eq!(pem(many.as_bytes()), PemError::Blocks { limit: BLOCKS });
    let large = vec![b'\n'; BUNDLE_BYTES + 1];
    assert_eq!(pem(&large), PemError::Size { bytes: BUNDLE_BYTES + 1, limit: BUNDLE_BYTES });
    assert_eq!(pem(b"nothing"), PemError::Empty { wanted: "CERTIFICATE" });
    let long = to_pem("CERTIFICATE", &vec![0x30; 60_000]).repeat(2);
    assert_eq!(Authorities::parse(long.as_bytes()).unwrap_err(), AuthoritiesError::Malformed { block: 1 });
    let longer = to_pem("CERTIFICATE", &vec![0x30; 70_000]);
    assert_eq!(Authorities::parse(longer.as_bytes()).unwrap_err(), AuthoritiesError::Size { block: 1 });
}

#[test]
fn bytes_behind_the_last_field_of_a_certificate_are_refused() {
    let der = root("root").der().to_vec();
    for trailing in [trailing_outside(&der), trailing_in_the_envelope(&der), trailing_in_the_body(&der)] {
        let file = to_pem("CERTIFICATE", &trailing);
        assert_eq!(
            Authorities::parse(file.as_bytes()).unwrap_err(),
            AuthoritiesError::Malformed { block: 1 }
        );
    }
}

fn trailing_outside(der: &[u8]) -> Vec<u8> {
    [der, &[5, 0]].concat()
}

/// The outer sequence of rcgen's certificates has a length of two octets.
fn trailing_in_the_envelope(der: &[u8]) -> Vec<u8> {
    element(0x30, &[&der[4..], &[5, 0]])
}

/// So has what is signed in them.
fn trailing_in_the_body(der: &[u8]) -> Vec<u8> {
    let length = usize::from(u16::from_be_bytes([der[6], der[7]]));
    let (body, rest) = der[8..].split_at(length);
    element(0x30, &[&element(0x30, &[body, &[5, 0]]), rest])
}

#[test]
fn a_longer_chain_is_read() {
    let chain = Chain::new();
    let third = below("Site CA", &chain.ca);
    let file = third.pem() + &chain.ca.pem() + &chain.root.pem();
    assert_eq!(Authorities::parse(file.as_bytes()).unwrap().names().count(), 3);
}
