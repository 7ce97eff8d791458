//! Which signing requests Puppet's CA may be told to sign.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_certificates::{AltName, KeyError, Refusal, RequestError, SigningRequest, Wanted};
use bunraku_common::NodeName;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::world::{element, to_pem};

#[test]
fn the_requests_of_puppet_s_agent_are_accepted_as_declared() {
    let plain = SigningRequest::parse(include_bytes!("../fixtures/puppet/plain.csr")).unwrap();
    plain.judge(&wanted(&[])).unwrap();
    let names = SigningRequest::parse(include_bytes!("../fixtures/puppet/names.csr")).unwrap();
    names.judge(&wanted(&["puppet", "puppet.stack.test"])).unwrap();
    names.judge(&wanted(&["puppet", "puppet.stack.test", "c1.stack.test"])).unwrap();
    let facts = SigningRequest::parse(include_bytes!("../fixtures/puppet/facts.csr")).unwrap();
    let mut declared = wanted(&["puppet", "IP:10.0.0.5"]);
    declared.facts.insert(PP_ROLE.into(), "compiler".into());
    facts.judge(&declared).unwrap();
}

const PP_ROLE: &str = "1.3.6.1.4.1.34380.1.1.13";

#[test]
fn a_fingerprint_is_the_one_that_puppet_shows() {
    // As `Puppet::SSL::CertificateRequest#fingerprint` printed it when the file was made.
    let names = SigningRequest::parse(include_bytes!("../fixtures/puppet/names.csr")).unwrap();
    assert_eq!(
        names.fingerprint().to_string(),
        "18:69:5E:5A:CD:18:11:02:7E:F4:6B:1A:73:41:78:EB:15:E1:CA:6A:0B:B7:DC:3C:4C:C0:40:C1:2C:7F:2C:D8"
    );
    assert_eq!(names.fingerprint().hex(), "18695e5acd1811027ef46b1a734178eb15e1ca6a0bb7dc3c4cc040c12c7f2cd8");
    let shown: Vec<_> = names.alt_names().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["DNS:c1.stack.test", "DNS:puppet", "DNS:puppet.stack.test"]);
}

#[test]
fn names_that_are_missing_and_names_that_are_foreign_are_both_told() {
    let names = SigningRequest::parse(include_bytes!("../fixtures/puppet/names.csr")).unwrap();
    let refused = names.judge(&wanted(&["puppet", "IP:10.0.0.5", "puppetdb"])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the request's alternative names are not those that were declared: \
         missing DNS:puppetdb, IP:10.0.0.5 foreign DNS:puppet.stack.test"
    );
    let names: Vec<_> = (0..30).map(|n| format!("n{n}.stack.test")).collect();
    let many = request(|params| params.subject_alt_names = names.iter().map(|name| dns(name)).collect());
    assert!(many.judge(&wanted(&[])).unwrap_err().to_string().ends_with(", 10 more"));
}

#[test]
fn names_of_other_kinds_are_foreign() {
    let uri = SanType::URI("spiffe://main/controller".try_into().unwrap());
    let mail = SanType::Rfc822Name("a@b".try_into().unwrap());
    let odd = SanType::DnsName("c1.stack.test\0.evil".try_into().unwrap());
    let wild = SanType::DnsName("*.stack.test".try_into().unwrap());
    let case = SanType::DnsName("C1.stack.test".try_into().unwrap());
    for (name, foreign) in [
        (uri, "the URI `spiffe://main/controller`"),
        (mail, "the mail address `a@b`"),
        (odd, "a DNS name `c1.stack.test\\0.evil`"),
        (wild, "DNS:*.stack.test"),
        (case, "DNS:C1.stack.test"),
    ] {
        let refused =
            request(|params| params.subject_alt_names = vec![name]).judge(&wanted(&[])).unwrap_err();
        assert!(refused.to_string().ends_with(&format!(" foreign {foreign}")), "{refused}");
    }
}

#[test]
fn a_subject_that_is_not_the_certname_alone_is_refused() {
    let plain = SigningRequest::parse(include_bytes!("../fixtures/puppet/plain.csr")).unwrap();
    let c2 = Wanted::new(NodeName::parse("c2.stack.test").unwrap(), BTreeSet::new());
    assert_eq!(
        plain.judge(&c2).unwrap_err().to_string(),
        "the request's subject is `CN=c1.stack.test`, the common name c2.stack.test alone is expected"
    );
    let two = SigningRequest::parse(include_bytes!("../fixtures/openssl/two-common-names.csr")).unwrap();
    assert_eq!(two.common_name(), None);
    assert!(matches!(two.judge(&wanted(&[])), Err(Refusal::Subject { .. })));
}

#[test]
fn an_authorization_extension_is_refused_even_when_it_is_declared() {
    let admin = SigningRequest::parse(include_bytes!("../fixtures/puppet/ca-admin.csr")).unwrap();
    let mut declared = wanted(&[]);
    declared.facts.insert(PP_CLI_AUTH.into(), "true".into());
    for wanted in [wanted(&[]), declared] {
        let refusal = Refusal::Authorization { oid: PP_CLI_AUTH.into(), value: "true".into() };
        assert_eq!(admin.judge(&wanted), Err(refusal));
    }
    for oid in [&[1, 3, 6, 1, 4, 1, 34380, 1, 3][..], &[1, 3, 6, 1, 4, 1, 34380, 1, 3, 1]] {
        let refused = extended(oid, b"\x0c\x01x".to_vec()).judge(&wanted(&[]));
        assert!(matches!(refused, Err(Refusal::Authorization { .. })), "{refused:?}");
    }
}

const PP_CLI_AUTH: &str = "1.3.6.1.4.1.34380.1.3.39";

#[test]
fn trusted_facts_are_exactly_those_that_were_declared() {
    let facts = SigningRequest::parse(include_bytes!("../fixtures/puppet/facts.csr")).unwrap();
    let judge = |facts_wanted: &[(&str, &str)]| {
        let mut wanted = wanted(&["puppet", "IP:10.0.0.5"]);
        wanted.facts = facts_wanted
            .iter()
            .map(|(oid, value)| ((*oid).into(), (*value).into()))
            .collect::<BTreeMap<_, _>>();
        facts.judge(&wanted).unwrap_err()
    };
    assert_eq!(
        judge(&[]).to_string(),
        format!("the request asks for the extension {PP_ROLE} (`compiler`), which was not declared")
    );
    assert_eq!(
        judge(&[(PP_ROLE, "database")]).to_string(),
        format!("the request has `compiler` as trusted fact {PP_ROLE}, `database` was declared")
    );
    let environment = "1.3.6.1.4.1.34380.1.1.12";
    assert_eq!(
        judge(&[(PP_ROLE, "compiler"), (environment, "production")]).to_string(),
        format!("the request has nothing as trusted fact {environment}, `production` was declared")
    );
}

#[test]
fn a_request_to_become_an_authority_is_refused() {
    let ca = SigningRequest::parse(include_bytes!("../fixtures/openssl/ca-true.csr")).unwrap();
    assert_eq!(ca.judge(&wanted(&[])), Err(Refusal::Authority));
    let constrained = request(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    assert_eq!(constrained.judge(&wanted(&[])), Err(Refusal::Authority));
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        let signer = request(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature, usage]);
        assert_eq!(signer.judge(&wanted(&[])), Err(Refusal::Authority));
    }
    // TRUE as BER has it, which some readers take.
    let ber = extended(&BASIC_CONSTRAINTS, vec![0x30, 3, 1, 1, 1]);
    assert_eq!(ber.judge(&wanted(&[])), Err(Refusal::Authority));
    let odd = extended(&BASIC_CONSTRAINTS, vec![0x30, 0, 1, 1, 0xff]);
    assert_eq!(odd.judge(&wanted(&[])), Err(Refusal::Unreadable { oid: "2.5.29.19".into() }));
}

const BASIC_CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];

#[test]
fn what_other_tools_ask_for_without_harm_is_accepted() {
    let harmless = request(|params| {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.custom_extensions = vec![
            CustomExtension::from_oid_content(
                &[2, 5, 29, 37],
                element(
                    0x30,
                    &[
                        b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01",
                        b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02",
                    ],
                ),
            ),
            CustomExtension::from_oid_content(&[2, 5, 29, 14], vec![4, 1, 0]),
            CustomExtension::from_oid_content(&[2, 16, 840, 1, 113730, 1, 13], vec![0x16, 1, b'x']),
        ];
    });
    harmless.judge(&wanted(&[])).unwrap();
    let p384 = SigningRequest::parse(include_bytes!("../fixtures/openssl/p384.csr")).unwrap();
    p384.judge(&wanted(&[])).unwrap();
}

#[test]
fn unexpected_uses_extensions_and_attributes_are_refused_by_name() {
    let code_signing = element(0x30, &[b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03"]);
    let usage = extended(&[2, 5, 29, 37], code_signing).judge(&wanted(&[]));
    assert_eq!(usage, Err(Refusal::Usage { usage: "1.3.6.1.5.5.7.3.3".into() }));
    let constraints = extended(&[2, 5, 29, 30], vec![0x30, 0]).judge(&wanted(&[]));
    assert_eq!(constraints, Err(Refusal::Extension { oid: "2.5.29.30".into(), value: "0\\0".into() }));
    let mut declared = wanted(&[]);
    declared.facts.insert("2.5.29.30".into(), "x".into());
    let no_fact = extended(&[2, 5, 29, 30], b"\x0c\x01x".to_vec()).judge(&declared);
    assert!(matches!(no_fact, Err(Refusal::Extension { .. })), "{no_fact:?}");
    // Microsoft's way to ask for extensions, which OpenSSL reads too.
    const MICROSOFT: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 14];
    let attribute = with_attributes(vec![Attribute { oid: MICROSOFT, values: element(0x31, &[&[0x30, 0]]) }]);
    assert_eq!(
        attribute.judge(&wanted(&[])),
        Err(Refusal::Attribute { oid: "1.3.6.1.4.1.311.2.1.14".into() })
    );
}

#[test]
fn what_is_there_twice_is_refused() {
    let name = element(0x30, &[b"\x82\x06puppet"]);
    let san = || CustomExtension::from_oid_content(&[2, 5, 29, 17], name.clone());
    let twice = request(|params| params.custom_extensions = vec![san(), san()]);
    assert_eq!(twice.judge(&wanted(&["puppet"])), Err(Refusal::Repeated { oid: "2.5.29.17".into() }));

    // A second extension request: in an attribute of its own, and as a second value of the first.
    const REQUEST: &[u64] = &[1, 2, 840, 113549, 1, 9, 14];
    let extension = element(0x30, &[b"\x06\x03\x55\x1d\x11", &element(4, &[&name])]);
    let list = element(0x30, &[&extension]);
    let one = || Attribute { oid: REQUEST, values: element(0x31, &[&list]) };
    let two_values = Attribute { oid: REQUEST, values: element(0x31, &[&[0x30, 0], &list]) };
    let repeated = Refusal::Repeated { oid: "1.2.840.113549.1.9.14".into() };
    assert_eq!(with_attributes(vec![one(), one()]).judge(&wanted(&["puppet"])), Err(repeated.clone()));
    assert_eq!(with_attributes(vec![two_values]).judge(&wanted(&[])), Err(repeated));
    with_attributes(vec![one()]).judge(&wanted(&["puppet"])).unwrap();
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let key = KeyPair::generate().unwrap();
    let made = crate::world::named("c1.stack.test");
    let mut params = CertificateParams::default();
    params.distinguished_name = made.distinguished_name;
    let mut der = params.serialize_request(&key).unwrap().der().to_vec();
    // The last byte belongs to the signature.
    *der.last_mut().unwrap() ^= 1;
    let forged = SigningRequest::parse(to_pem("CERTIFICATE REQUEST", &der).as_bytes()).unwrap();
    assert_eq!(forged.judge(&wanted(&[])), Err(Refusal::Signature));
    let sha1 = SigningRequest::parse(include_bytes!("../fixtures/openssl/rsa-sha1.csr")).unwrap();
    assert_eq!(sha1.judge(&wanted(&[])), Err(Refusal::Signature));
}

#[test]
fn weak_and_unknown_keys_are_refused() {
    macro_rules! refused {
        ($name:literal) => {
            match SigningRequest::parse(include_bytes!(concat!("../fixtures/openssl/", $name, ".csr")))
                .unwrap()
                .judge(&wanted(&[]))
            {
                Err(Refusal::Key(error)) => error,
                other => panic!("{other:?}"),
            }
        };
    }
    assert_eq!(refused!("rsa-1024"), KeyError::RsaBits(1024));
    assert_eq!(refused!("rsa-exponent-3"), KeyError::Exponent("3".into()));
    assert_eq!(refused!("p521"), KeyError::Curve("1.3.132.0.35".into()));
    assert_eq!(refused!("secp256k1"), KeyError::Curve("1.3.132.0.10".into()));
    assert_eq!(refused!("p256-explicit"), KeyError::Malformed);
    assert_eq!(refused!("ed25519"), KeyError::Kind("1.3.101.112".into()));
    assert_eq!(refused!("dsa"), KeyError::Kind("1.2.840.10040.4.1".into()));
}

#[test]
fn what_is_no_request_is_refused() {
    for file in [String::new(), "x".into(), to_pem("CERTIFICATE", &[0x30, 0]), "-".repeat(70_000)] {
        assert!(matches!(SigningRequest::parse(file.as_bytes()), Err(RequestError::Pem(_))), "{file:.40}");
    }
    for der in [&[][..], &[0x30, 0], &[0x30, 0x80, 0, 0], &[0x30, 3, 2, 1, 1]] {
        assert!(SigningRequest::parse(to_pem("CERTIFICATE REQUEST", der).as_bytes()).is_err(), "{der:?}");
    }
}

#[test]
fn declared_names_are_read_as_puppet_s_setting_has_them() {
    let texts = ["puppet", "DNS:puppet.stack.test", "IP:10.0.0.5", "IP:2001:db8::1"];
    let names: Vec<AltName> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let shown: Vec<_> = names.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["DNS:puppet", "DNS:puppet.stack.test", "IP:10.0.0.5", "IP:2001:db8::1"]);
    for name in &names {
        let json = serde_json::to_string(name).unwrap();
        assert_eq!(serde_json::from_str::<AltName>(&json).unwrap(), *name);
    }
    for wrong in ["", "*.stack.test", "Puppet", "IP:puppet", "URI:x", "a b", "DNS:DNS:a"] {
        assert!(wrong.parse::<AltName>().is_err(), "{wrong}");
    }
}

fn wanted(names: &[&str]) -> Wanted {
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    Wanted::new(NodeName::parse("c1.stack.test").unwrap(), names)
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn extended(oid: &[u64], value: Vec<u8>) -> SigningRequest {
    request(|params| params.custom_extensions = vec![CustomExtension::from_oid_content(oid, value)])
}

fn request(change: impl FnOnce(&mut CertificateParams)) -> SigningRequest {
    made(change, Vec::new())
}

fn with_attributes(attributes: Vec<Attribute>) -> SigningRequest {
    made(|_| {}, attributes)
}

fn made(change: impl FnOnce(&mut CertificateParams), attributes: Vec<Attribute>) -> SigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = crate::world::named("c1.stack.test").distinguished_name;
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let request = params.serialize_request_with_attributes(&key, attributes).unwrap();
    SigningRequest::parse(request.pem().unwrap().as_bytes()).unwrap()
}
