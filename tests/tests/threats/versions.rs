//! T12: nobody talks the other side down: not TLS, not the protocol.

use bunraku_proto::{Door, PROTOCOL, v1};
use bunraku_tests::fleet::{Fleet, until};
use tonic::Code;

use super::{
    liar::Liar,
    raw::{Client, soon, stolen_node},
    usurper::{TERM, Usurper, commit, hello, order, stage},
};

#[tokio::test(flavor = "multi_thread")]
async fn t12_tls_1_2_opens_no_door_and_neither_does_a_protocol_that_is_not_served() {
    let fleet = Fleet::new().nodes(0).up().await;
    let main = fleet.main();
    let holder = stolen_node(main, "c1").await;
    for door in [Door::Node, Door::H2, Door::Enroll] {
        let alpn = [door.alpn().as_bytes()];
        let old = Client::with(main, &alpn, &[&rustls::version::TLS12], Some(&holder));
        let refused = soon("the refusal", old.dial()).await.unwrap_err();
        assert!(refused.to_string().contains("ProtocolVersion"), "{door}: {refused}");
        let both = [&rustls::version::TLS13, &rustls::version::TLS12];
        let io = Client::with(main, &alpn, &both, Some(&holder)).dial().await.unwrap();
        assert_eq!(io.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(io.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
    for wrong in [&[][..], &[&b"http/1.1"[..]], &[b"bunraku-node/0"], &[b"bunraku-node/2"], &[b"H2"]] {
        let client = Client::with(main, wrong, &[&rustls::version::TLS13], Some(&holder));
        assert!(soon("the refusal", client.dial()).await.is_err(), "{wrong:?}");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_a_node_of_another_protocol_gets_no_orders() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let snapshot = fleet.deploy_change("production", "one").await;
    let holder = stolen_node(main, "c9").await;
    for protocol in [0, PROTOCOL + 1, u32::MAX] {
        let liar = Liar::new(v1::HelloReply { protocol, ..Liar::honest() }, String::new());
        soon("the controller leaves", liar.serve(main, &holder)).await;
        assert_eq!((liar.greeted(), liar.ordered()), (1, 0), "protocol {protocol}");
        assert!(!main.node("c9").await.connected);
    }
    // One that speaks it is ordered to follow what is committed.
    main.client().release_node(v1::NodeRequest { node: "c9".into() }).await.unwrap();
    let liar = Liar::new(Liar::honest(), String::new());
    let serving = tokio::spawn(liar.clone().serving(main, &holder).await);
    until("it gets orders", || async { liar.ordered() > 0 }).await;
    let hold = v1::HoldNodeRequest { node: "c9".into(), reason: "it lies".into() };
    main.client().hold_node(hold).await.unwrap();
    serving.abort();
    assert_eq!(fleet.node("c1").live("production"), Some(snapshot));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_a_node_obeys_no_controller_that_has_not_said_hello_in_its_protocol() {
    let fleet = Fleet::new().nodes(1).up().await;
    let node = fleet.node("c1");
    let live = fleet.deploy_change("production", "one").await;
    let mut usurper = Usurper::rise(fleet.main()).await;
    let mut client = usurper.capture(node).await;
    for (oldest, newest) in
        [None, Some((0, 0)), Some((PROTOCOL + 1, PROTOCOL + 9)), Some((9, 1))].map(Option::unzip)
    {
        if let (Some(protocol_oldest), Some(protocol_newest)) = (oldest, newest) {
            let _answer =
                client.hello(v1::HelloRequest { protocol_oldest, protocol_newest, ..hello(TERM) }).await;
        }
        let refused = [
            client.stage(stage(TERM, 50, &live)).await.map(drop).unwrap_err(),
            client.commit(commit(TERM, 50, &live)).await.map(drop).unwrap_err(),
            client.heal(v1::HealRequest { order: order(TERM, 50) }).await.map(drop).unwrap_err(),
        ];
        for status in refused {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        }
    }
    client.hello(hello(TERM)).await.unwrap();
    client.heal(v1::HealRequest { order: order(TERM, 50) }).await.unwrap();
    assert_eq!(node.puppet_server().history("production"), [live]);
    fleet.end().await;
}
