//! T4: signing requests that ask for more, or are none, through the real enrolment door.

use bunraku_proto::{Door, PeerIdentity, v1};
use bunraku_tests::fleet::Fleet;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tonic::Code;

use super::raw::{Client, Holder, enrol, node, token_for};

type Ask = fn(&mut CertificateParams);

const GREEDY: [(&str, Ask); 5] = [
    ("an authority", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
    ("another's name", |p| {
        p.subject_alt_names = vec![
            SanType::URI("spiffe://test/node/c2".try_into().unwrap()),
            SanType::DnsName("controller.test.bunraku".try_into().unwrap()),
        ];
    }),
    ("the controller", |p| {
        p.subject_alt_names = vec![SanType::URI("spiffe://test/controller".try_into().unwrap())];
        p.distinguished_name.push(DnType::CommonName, "the controller");
    }),
    ("a server", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
    ("everything", |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning];
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn t4_a_request_that_asks_for_more_gets_a_nodes_certificate_and_nothing_else() {
    let fleet = Fleet::new().nodes(0).up().await;
    let main = fleet.main();
    let client = Client::new(main, Door::Enroll, None);
    for (what, ask) in GREEDY {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        ask(&mut parameters);
        let csr = parameters.serialize_request(&key).unwrap().pem().unwrap();
        let token = token_for(main, "c1", "compiler", 0).await.token;
        let request = v1::WithTokenRequest { token, csr, name: "c1".into() };
        let given = client.enrollment().with_token(request).await.unwrap().into_inner();
        let der = CertificateDer::from_pem_slice(given.certificate.as_bytes()).unwrap();
        // Reads only what has exactly one name, a client's usage, and is no authority.
        let identity = PeerIdentity::from_certificate(&der).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(identity.peer, node("c1"), "{what}");
        // It serves nobody: a client that trusts the mesh CA does not take it for the controller.
        let holder = Holder { certificate: given.certificate, key: key.serialize_pem() };
        Client::new(main, Door::H2, Some(&holder)).dial().await.unwrap();
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t4_weak_foreign_and_broken_requests_are_refused_and_cost_no_token() {
    let fleet = Fleet::new().nodes(0).up().await;
    let main = fleet.main();
    let client = Client::new(main, Door::Enroll, None);
    let token = token_for(main, "c1", "compiler", 0).await.token;
    let (_, honest) = super::raw::key_and_csr();
    let lines: Vec<&str> = honest.lines().collect();
    // The last line of the body belongs to the signature.
    let signature = lines[lines.len() - 2];
    let at = signature.len() / 2;
    let flipped = if signature.as_bytes()[at] == b'A' { "B" } else { "A" };
    let forged = honest.replace(signature, &format!("{}{flipped}{}", &signature[..at], &signature[at + 1..]));
    for (what, csr) in [
        ("RSA 1024", include_str!("../../../controller/src/identity/fixtures/rsa-1024.csr").to_owned()),
        ("RSA 2048", include_str!("../../../controller/src/identity/fixtures/rsa-2048.csr").to_owned()),
        ("P-384", include_str!("../../../controller/src/identity/fixtures/p384-sha256.csr").to_owned()),
        ("Ed25519", include_str!("../../../controller/src/identity/fixtures/ed25519.csr").to_owned()),
        ("a bad signature", forged),
        ("a certificate", std::fs::read_to_string(main.config().data_dir.join("ca/ca.pem")).unwrap()),
        ("nothing", String::new()),
        ("noise", bunraku_tests::fleet::noise(2000)),
        ("much", "-".repeat(60 << 10)),
    ] {
        let request = v1::WithTokenRequest { token: token.clone(), csr, name: "c1".into() };
        let refused = client.enrollment().with_token(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
    }
    assert!(main.status().await.nodes.is_empty());
    enrol(&client, "c1", &token).await.unwrap();
    fleet.end().await;
}
