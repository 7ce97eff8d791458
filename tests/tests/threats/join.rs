//! T1, T2: what a stolen token is worth, and who gets to see one.

use std::{collections::BTreeSet, sync::Arc};

use bunraku_common::{Digest, NodeName};
use bunraku_proto::Door;
use bunraku_tests::fleet::{Fleet, MainServer, until};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{io::AsyncReadExt, net::TcpListener};
use tokio_rustls::TlsAcceptor;
use tonic::Code;
use zeroize::Zeroizing;

use super::raw::{self, Client, enrol, key_and_csr, soon, token_for};

/// What the audit says about refused enrolments.
async fn refusals(main: &MainServer) -> Vec<String> {
    let records = main.audit().await.into_iter().filter(|record| record.kind == "refused");
    records.map(|record| format!("{} {}", record.who, record.what)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_stolen_token_is_refused_when_used_late_or_again_or_for_another_name_and_each_is_audited() {
    let fleet = Fleet::new().nodes(0).up().await;
    let main = fleet.main();
    let thief = Client::new(main, Door::Enroll, None);

    let used = token_for(main, "c1", "compiler", 0).await;
    enrol(&thief, "c1", &used.token).await.unwrap();
    let again = enrol(&thief, "c1", &used.token).await.err().unwrap();
    let other = token_for(main, "c2", "compiler", 0).await;
    let for_another = enrol(&thief, "c3", &other.token).await.err().unwrap();
    let revoked = token_for(main, "c4", "compiler", 0).await;
    let request = bunraku_proto::v1::RevokeTokenRequest { id: revoked.id.clone() };
    main.client().revoke_token(request).await.unwrap();
    let after_revocation = enrol(&thief, "c4", &revoked.token).await.err().unwrap();
    let late = token_for(main, "c5", "compiler", 1).await;
    until("the token has expired", || async {
        let tokens = main.client().list_tokens(bunraku_proto::v1::ListTokensRequest {}).await.unwrap();
        tokens.into_inner().tokens.iter().any(|token| token.id == late.id && token.state == "expired")
    })
    .await;
    let too_late = enrol(&thief, "c5", &late.token).await.err().unwrap();

    let refused = refusals(main).await;
    for (status, token, why) in [
        (again, &used, "used already"),
        (for_another, &other, "another name"),
        (after_revocation, &revoked, "revoked"),
        (too_late, &late, "expired"),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains(why), "{status}");
        let from = raw::address_in(main, 200).to_string();
        let audited = |line: &&String| line.contains(&token.id) && line.contains(why) && line.contains(&from);
        assert_eq!(refused.iter().filter(audited).count(), 1, "{why}: {refused:#?}");
        assert!(!refused.iter().any(|line| line.contains(&token.token)), "the secret is not in the audit");
    }
    let known: Vec<String> = main.status().await.nodes.into_iter().map(|node| node.name).collect();
    assert_eq!(known, ["c1"], "nobody else got in");
    // A refusal does not use the token up: its owner can still join.
    enrol(&thief, "c2", &other.token).await.unwrap();
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_token_gives_the_role_it_was_made_for_and_no_other() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let snapshot = fleet.deploy_change("production", "one").await;
    let token = token_for(main, "lb", "load-balancer", 0).await.token;
    let balancer = enrol(&Client::new(main, Door::Enroll, None), "lb", &token).await.unwrap();
    assert_eq!(main.node("lb").await.roles, ["load-balancer"]);
    // Not a compiler: no code for it, and no deploy waits for it.
    let request = bunraku_proto::v1::PackRequest { want: snapshot.to_string(), ..Default::default() };
    let refused = Client::new(main, Door::H2, Some(&balancer)).content().pack(request).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    fleet.deploy_change("production", "two").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_of_a_thousand_uses_of_one_token_at_once_exactly_one_wins() {
    let fleet = Fleet::new().nodes(0).up().await;
    let main = fleet.main();
    let token: Arc<str> = token_for(main, "c1", "compiler", 0).await.token.into();
    let mut thieves = tokio::task::JoinSet::new();
    // Below the failures of one address after which it is turned away.
    for connection in 0..250 {
        let client = Client::new(main, Door::Enroll, None).from(100 + connection % 25).enrollment();
        // As many as one connection at this door may have at once.
        for _ in 0..4 {
            let (mut client, token) = (client.clone(), token.clone());
            thieves.spawn(async move {
                let (_, csr) = key_and_csr();
                let request =
                    bunraku_proto::v1::WithTokenRequest { token: token.to_string(), csr, name: "c1".into() };
                client.with_token(request).await
            });
        }
    }
    let outcomes = soon("all thieves have an answer", thieves.join_all()).await;
    let won: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    assert_eq!((outcomes.len(), won.len()), (1000, 1));
    let codes: BTreeSet<String> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().err())
        .map(|s| format!("{:?}", s.code()))
        .collect();
    assert!(codes.iter().all(|code| code == "PermissionDenied" || code == "ResourceExhausted"), "{codes:?}");
    let counts = main.audit_counts().await;
    assert_eq!(counts["node-enrolled"], 1);
    let audited = counts["refused"];
    assert!((1..=200).contains(&audited), "on record, and the journal is not filled: {audited}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_token_that_nobody_made_costs_its_address_and_not_the_journal() {
    let fleet = Fleet::new().nodes(0).up().await;
    let main = fleet.main();
    let before = raw::audit_head(main).await;
    let guesser = Client::new(main, Door::Enroll, None).from(77);
    let mut client = guesser.enrollment();
    for number in 0..60 {
        let token = format!("bnk_{number:064x}");
        let request = bunraku_proto::v1::WithTokenRequest { token, csr: key_and_csr().1, name: "c1".into() };
        assert_eq!(client.with_token(request).await.unwrap_err().code(), Code::PermissionDenied);
    }
    assert!(guesser.dial().await.is_err(), "the address is turned away now");
    enrol(&Client::new(main, Door::Enroll, None), "c1", &token_for(main, "c1", "compiler", 0).await.token)
        .await
        .unwrap();
    let new = main.audit().await.into_iter().filter(|record| record.sequence > before);
    let kinds: Vec<String> = new.map(|record| record.kind).collect();
    assert_eq!(kinds, ["token-created", "node-enrolled"]);
    fleet.end().await;
}

/// A server with a controller's certificate of another CA: hands out every byte that it could read.
async fn impostor() -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["controller.test.bunraku".into()]).unwrap();
    parameters.subject_alt_names.push(SanType::URI("spiffe://test/controller".try_into().unwrap()));
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = parameters.self_signed(&key).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone(), certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = Door::ALL.iter().map(|door| door.alpn().into()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hears) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                let _until_the_victim_leaves = tls.read_to_end(&mut bytes).await;
            }
            let _the_test_may_be_over = heard.send(bytes);
        }
    });
    (address, hears)
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_a_controller_of_another_ca_sees_no_byte_of_the_token() {
    let fleet = Fleet::new().nodes(0).up().await;
    let (address, mut heard) = impostor().await;
    let token = Zeroizing::new(token_for(fleet.main(), "c1", "compiler", 0).await.token);
    let name = NodeName::parse("c1").unwrap();
    let joined =
        bunraku_agent::identity::enroll_with_token(&address.to_string(), fleet.main().pin(), &token, &name)
            .await;
    let why = bunraku_common::Chain(&joined.unwrap_err()).to_string();
    assert!(why.contains("pin"), "{why}");
    assert_eq!(soon("the impostor is left", heard.recv()).await, Some(Vec::new()));
    // The very same call reaches the true controller: it was the pin that held it back.
    let address = fleet.main().address().to_string();
    let wrong = Digest::of(b"another pin");
    bunraku_agent::identity::enroll_with_token(&address, wrong, &token, &name).await.unwrap_err();
    bunraku_agent::identity::enroll_with_token(&address, fleet.main().pin(), &token, &name).await.unwrap();
    fleet.end().await;
}
