//! Certificates as they come back from the CA.

use bunraku_certificates::{Authorities, Certificate, CertificateError, PemError, SigningRequest};
use rcgen::KeyPair;

use crate::world::{Chain, NOW_S, named};

#[test]
fn the_certificate_that_puppet_server_signed_is_read() {
    let authorities = Authorities::parse(include_bytes!("../fixtures/puppet/ca_crt.pem")).unwrap();
    let request = SigningRequest::parse(include_bytes!("../fixtures/puppet/names.csr")).unwrap();
    let other = SigningRequest::parse(include_bytes!("../fixtures/openssl/p256.csr")).unwrap();
    let c1 = Certificate::parse(include_bytes!("../fixtures/puppet/c1.pem")).unwrap();
    assert_eq!(c1.common_name(), Some("c1.stack.test"));
    assert_eq!(c1.subject(), "CN=c1.stack.test");
    let names: Vec<_> = c1.alt_names().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["DNS:c1.stack.test", "DNS:puppet", "DNS:puppet.stack.test"]);
    assert_eq!(c1.serial(), "7");
    assert_eq!(c1.not_after_s(), 2_240_000_000);
    assert!(NOW_S - c1.not_before_s() < 86_400);
    assert!(c1.is_issued_by(&authorities) && !c1.is_authority());
    assert!(c1.has_key_of(&request) && !c1.has_key_of(&other));
    assert_eq!(c1.key(), request.key());
}

/// Puppet Server writes the issuer's name and serial into a certificate's authority key identifier, the Ruby of
/// `ca setup` and both CRLs do not: all of them name one authority.
#[test]
fn what_puppet_s_ruby_and_java_issued_is_of_one_issuer() {
    let c1 = Certificate::parse(include_bytes!("../fixtures/puppet/c1.pem")).unwrap();
    let main = Certificate::parse(include_bytes!("../fixtures/puppet/main.pem")).unwrap();
    assert_eq!(c1.issuer(), main.issuer());
    for crls in [
        &include_bytes!("../fixtures/puppet/ca_crl.pem")[..],
        include_bytes!("../fixtures/puppet/ca_crl_revoked.pem"),
    ] {
        let crls = bunraku_certificates::Crls::parse(crls).unwrap();
        assert!(crls.numbers().get(&c1.issuer()).is_some());
    }
}

#[test]
fn a_certificate_of_a_ca_with_the_same_name_is_not_of_this_one() {
    let (chain, other) = (Chain::new(), Chain::new());
    let key = KeyPair::generate().unwrap();
    let mut params = named("c1.stack.test");
    let mut parse = |with_key_id| {
        params.use_authority_key_identifier_extension = with_key_id;
        Certificate::parse(params.signed_by(&key, &chain.ca).unwrap().pem().as_bytes()).unwrap()
    };
    for issued in [parse(true), parse(false)] {
        assert!(issued.is_issued_by(&chain.authorities()));
        assert!(!issued.is_issued_by(&other.authorities()));
    }
    assert!(parse(true).has_key(&rcgen::PublicKeyData::subject_public_key_info(&key)));
}

#[test]
fn an_authority_s_certificate_is_known_as_one() {
    let chain = Chain::new();
    let ca = Certificate::parse(chain.ca.pem().as_bytes()).unwrap();
    assert!(ca.is_authority() && ca.is_issued_by(&chain.authorities()));
}

#[test]
fn a_file_with_two_certificates_or_none_is_refused() {
    let chain = Chain::new();
    let two = chain.ca.pem() + &chain.root.pem();
    assert_eq!(
        Certificate::parse(two.as_bytes()).unwrap_err(),
        CertificateError::Pem(PemError::Blocks { limit: 1 })
    );
    assert!(Certificate::parse(b"").is_err());
}
