//! T3, I8: what a stolen key is worth once its owner knows.

use std::time::{Duration, Instant};

use bunraku_proto::{
    Door,
    v1::{self, control_client::ControlClient},
};
use bunraku_tests::fleet::{Fleet, MainServer};
use rustls::HandshakeKind;
use tokio::io::AsyncReadExt;
use tonic::{Code, Streaming, transport::Channel};

use super::raw::{self, Client, Holder, audit_head, operator, soon, stolen_node};

/// From the acknowledged revocation until nothing more may have an effect.
const EFFECTIVE: Duration = Duration::from_secs(2);

async fn revoke_node(main: &MainServer, node: &str) {
    let request = v1::RevokeNodeRequest { node: node.into(), reason: "its key was stolen".into() };
    main.client().revoke_node(request).await.unwrap();
}

async fn follow(client: &mut ControlClient<Channel>) -> Streaming<v1::Event> {
    let request = v1::WatchRequest { from_now: true, follow: true, ..Default::default() };
    client.watch(request).await.unwrap().into_inner()
}

async fn cannot_shake_hands(main: &MainServer, door: Door, holder: &Holder) {
    is_turned_away(&Client::new(main, door, Some(holder))).await;
}

async fn is_turned_away(client: &Client) {
    // With TLS 1.3 a client hears of its refusal at the first read.
    if let Ok(mut io) = client.dial().await {
        let mut byte = [0];
        let read = soon("the refusal", io.read(&mut byte)).await;
        let refused = read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::InvalidData);
        assert!(refused, "{read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_a_revoked_nodes_streams_end_within_two_seconds_and_it_never_comes_back() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let files: Vec<(String, String)> =
        (0..8).map(|n| (format!("data/{n}"), bunraku_tests::fleet::noise(1 << 20))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    fleet.push("production", &files);
    let snapshot = fleet.deploy("production").await.snapshot;

    let thief = stolen_node(main, "c9").await;
    let client = Client::new(main, Door::H2, Some(&thief));
    let request = v1::PackRequest { want: snapshot.clone(), ..Default::default() };
    let mut pack = client.content().pack(request.clone()).await.unwrap().into_inner();
    pack.message().await.unwrap().unwrap();
    let mut control = client.control();
    let mut link = Client::new(main, Door::Node, Some(&thief)).dial().await.unwrap();

    revoke_node(main, "c9").await;
    let acknowledged = Instant::now();
    let ended = soon("the pack ends", async {
        loop {
            match pack.message().await {
                Ok(Some(_)) => {}
                end => break end,
            }
        }
    })
    .await;
    assert!(ended.is_err(), "it did not just end well");
    let _cut = soon("the link ends", link.read_to_end(&mut Vec::new())).await;
    assert!(acknowledged.elapsed() < EFFECTIVE, "{:?}", acknowledged.elapsed());

    let before = audit_head(main).await;
    let renewal = v1::RenewRequest { csr: raw::key_and_csr().1 };
    control.renew(renewal).await.unwrap_err();
    client.content().pack(request).await.unwrap_err();
    for door in [Door::Node, Door::H2] {
        cannot_shake_hands(main, door, &thief).await;
    }
    let token = main
        .client()
        .create_token(v1::CreateTokenRequest { node: "c9".into(), roles: vec!["compiler".into()], ttl_s: 0 })
        .await;
    assert_eq!(token.unwrap_err().code(), Code::PermissionDenied, "the name is barred");
    assert_eq!(audit_head(main).await, before, "nothing that it tried had an effect");
    main.until_connected("c1").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_revoked_operators_open_connection_gets_nothing_more() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let thief = operator(main, "mallory", "admin").await;
    let client = Client::new(main, Door::H2, Some(&thief));
    let (mut watching, mut asking) = (client.control(), client.control());
    let mut events = follow(&mut watching).await;
    asking.status(v1::StatusRequest {}).await.unwrap();

    main.client().revoke_operator(v1::RevokeOperatorRequest { name: "mallory".into() }).await.unwrap();
    let acknowledged = Instant::now();
    soon("the stream of events ends", async { while let Ok(Some(_)) = events.message().await {} }).await;
    assert!(acknowledged.elapsed() < EFFECTIVE, "{:?}", acknowledged.elapsed());

    let before = audit_head(main).await;
    asking.status(v1::StatusRequest {}).await.unwrap_err();
    asking.renew(v1::RenewRequest { csr: raw::key_and_csr().1 }).await.unwrap_err();
    asking.takeover(v1::TakeoverRequest { reason: "mine".into() }).await.unwrap_err();
    cannot_shake_hands(main, Door::H2, &thief).await;
    assert_eq!(audit_head(main).await, before);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_an_older_key_of_a_node_ends_when_the_node_enrols_anew() {
    let fleet = Fleet::new().nodes(0).up().await;
    let main = fleet.main();
    let stolen = stolen_node(main, "c1").await;
    let mut link = Client::new(main, Door::Node, Some(&stolen)).dial().await.unwrap();
    let owner = stolen_node(main, "c1").await;
    let _cut = soon("the thief's link ends", link.read_to_end(&mut Vec::new())).await;
    cannot_shake_hands(main, Door::H2, &stolen).await;
    Client::new(main, Door::H2, Some(&owner)).dial().await.unwrap();
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_a_nodes_key_opens_nothing_that_belongs_to_another() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    fleet.deploy_change("production", "one").await;
    let thief = stolen_node(main, "c9").await;
    let mut control = Client::new(main, Door::H2, Some(&thief)).control();
    // It renews itself: whatever name the request carries, the certificate is its own.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "node c1");
    let uri = raw::node("c1").uri(&"test".parse().unwrap());
    parameters.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
    let csr = parameters.serialize_request(&key).unwrap().pem().unwrap();
    let renewed = control.renew(v1::RenewRequest { csr }).await.unwrap().into_inner();
    assert_eq!(renewed.name, "c9");
    // A key that another node uses does not become a second identity's.
    let other = stolen_node(main, "c8").await;
    let own = rcgen::KeyPair::from_pem(&other.key).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&own).unwrap().pem().unwrap();
    let refused = control.renew(v1::RenewRequest { csr }).await.unwrap_err();
    assert!(refused.message().contains("belongs to another"), "{refused}");
    assert!(main.node("c1").await.connected, "the true c1 did not notice anything");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_a_revoked_node_resumes_no_session_from_before_its_revocation() {
    let fleet = Fleet::new().nodes(0).up().await;
    let main = fleet.main();
    let thief = stolen_node(main, "c9").await;
    // Each remembers what the controller would give it to resume.
    let clients = [Door::Node, Door::H2].map(|door| Client::new(main, door, Some(&thief)));
    for client in clients.iter().flat_map(|client| [client, client]) {
        let mut io = client.dial().await.unwrap();
        soon("the first word", io.read_u8()).await.unwrap();
        assert_eq!(io.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(io.get_ref().1.tls13_tickets_received(), 0, "nothing to resume is given out");
    }
    revoke_node(main, "c9").await;
    for client in &clients {
        is_turned_away(client).await;
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_a_stolen_key_gets_no_command_that_is_meant_for_another_node() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    // A whole node agent's connection, in the name of c9.
    let thief = fleet.add_actor("c9").await;
    let request = v1::HoldNodeRequest { node: "c9".into(), reason: "its owner is away".into() };
    main.client().hold_node(request).await.unwrap();
    let snapshot = fleet.deploy_change("production", "for c1").await;
    fleet.node("c1").until_serves("production", snapshot).await;
    assert!(thief.orders("stage").is_empty() && thief.orders("commit").is_empty(), "{thief:?}");
    // And it may not call as if it were one that gives commands.
    let key = stolen_node(main, "c8").await;
    let mut control = Client::new(main, Door::H2, Some(&key)).control();
    let refused = control.show_node(v1::NodeRequest { node: "c1".into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let refused = control.watch(v1::WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    fleet.end().await;
}
