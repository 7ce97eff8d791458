//! Who gets through which door, over real TLS on the loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bunraku_proto::{
    Door, Peer,
    accept::Accepted,
    dial::{DialError, dial},
    peer,
    tls::{self, ClientTls, Standing},
};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use support::{DAY, Fleet, HOUR, Port, Puppet, SOON, everybody, node, operator, soon};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::UnboundedReceiver,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What came of a dial: the controller's view, or `None` when it refused.
async fn knock(port: &Port, accepted: &mut UnboundedReceiver<Accepted>, tls: &ClientTls) -> Option<Accepted> {
    let mut stream = dial(&port.at(), tls, SOON).await.ok()?;
    // With TLS 1.3 a refusal shows at the first read; a welcome, at the other end.
    tokio::select! {
        came = accepted.recv() => came,
        _ = stream.read_u8() => None,
    }
}

#[tokio::test]
async fn peers_are_known_by_name_at_the_doors_that_are_theirs() {
    let fleet = Fleet::new("f");
    let (port, mut accepted) = Port::open(fleet.doors(everybody(), Duration::ZERO)).await;
    for (peer, door, welcome) in [
        (node("c1"), Door::Node, true),
        (node("c1"), Door::H2, true),
        (operator("ann"), Door::H2, true),
        (operator("ann"), Door::Node, false),
        (node("c1"), Door::EnrollPuppet, false),
    ] {
        let came = knock(&port, &mut accepted, &fleet.client(&peer, door)).await;
        let expected = welcome.then_some((door, Some(peer)));
        assert_eq!(came.map(|a| (a.caller.door, a.caller.peer.map(|p| p.peer))), expected);
    }
}

#[tokio::test]
async fn certificates_that_are_not_exactly_an_identity_are_refused() {
    let fleet = Fleet::new("f");
    let (port, mut accepted) = Port::open(fleet.doors(everybody(), Duration::ZERO)).await;
    let peer = node("c1");
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let strange = [
        fleet.mesh_with(&peer, |p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth)),
        fleet.mesh_with(&peer, |p| p.extended_key_usages.clear()),
        fleet.mesh_with(&peer, |p| p.subject_alt_names.push(uri("spiffe://f/operator/ann"))),
        fleet.mesh_with(&peer, |p| p.subject_alt_names.push(SanType::DnsName("c1".try_into().unwrap()))),
        fleet.mesh_with(&peer, |p| p.subject_alt_names.clear()),
        fleet.mesh_with(&peer, |p| p.subject_alt_names = vec![uri("spiffe://other/node/c1")]),
        fleet.mesh(&Peer::Controller),
    ];
    for (at, mesh) in strange.iter().enumerate() {
        let client = tls::mesh_client(mesh, Door::H2).unwrap();
        assert!(knock(&port, &mut accepted, &client).await.is_none(), "number {at} came in");
    }
    assert!(knock(&port, &mut accepted, &fleet.client(&peer, Door::H2)).await.is_some());
}

#[tokio::test]
async fn a_foreign_ca_is_refused_by_either_end() {
    let (ours, theirs) = (Fleet::new("f"), Fleet::new("f"));
    let (port, mut accepted) = Port::open(ours.doors(everybody(), Duration::ZERO)).await;
    let mut client = theirs.mesh(&node("c1"));
    let refused = dial(&port.at(), &tls::mesh_client(&client, Door::Node).unwrap(), SOON).await;
    assert!(matches!(refused, Err(DialError::Handshake { .. })), "the node believed a foreign controller");
    client.anchors = vec![ours.ca.der()];
    assert!(knock(&port, &mut accepted, &tls::mesh_client(&client, Door::Node).unwrap()).await.is_none());
}

#[tokio::test]
async fn a_node_cannot_pose_as_the_controller() {
    let fleet = Fleet::new("f");
    let mut doors = fleet.doors(everybody(), Duration::ZERO);
    // Even with the controller's DNS name: its certificate is good for calling only.
    let posing = fleet.mesh_with(&node("evil"), |p| {
        p.subject_alt_names.push(SanType::DnsName(fleet.name.controller().try_into().unwrap()));
    });
    doors.node = Some(tls::node_door(&posing, everybody()).unwrap());
    let (port, _accepted) = Port::open(doors).await;
    let refused = dial(&port.at(), &fleet.client(&node("c1"), Door::Node), SOON).await;
    assert!(matches!(refused, Err(DialError::Handshake { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_expired_node_gets_in_to_renew_and_for_nothing_else() {
    let fleet = Fleet::new("f");
    let (port, mut accepted) = Port::open(fleet.doors(everybody(), 30 * DAY)).await;
    let expired = |peer: &Peer, ago: Duration, door| {
        tls::mesh_client(&fleet.mesh_until(peer, SystemTime::now() - ago), door).unwrap()
    };
    let came = knock(&port, &mut accepted, &expired(&node("c1"), 29 * DAY, Door::H2)).await.unwrap();
    assert!(came.caller.peer.unwrap().expired(SystemTime::now()));
    for refused in [
        expired(&node("c1"), HOUR, Door::Node),
        expired(&node("c1"), 31 * DAY, Door::H2),
        expired(&operator("ann"), HOUR, Door::H2),
    ] {
        assert!(knock(&port, &mut accepted, &refused).await.is_none(), "{refused:?}");
    }
}

#[tokio::test]
async fn a_revoked_peer_does_not_come_back_by_resuming_a_session() {
    let fleet = Fleet::new("f");
    let revoked = Arc::new(AtomicBool::new(false));
    let standing = {
        let revoked = Arc::clone(&revoked);
        Standing::new(move |_| !revoked.load(Ordering::SeqCst))
    };
    let (port, mut accepted) = Port::open(fleet.doors(standing, Duration::ZERO)).await;
    // A client of its own making that would resume, with a store that lives over both handshakes.
    let (pem, key) = fleet.ca.leaf(|p| {
        p.subject_alt_names = vec![SanType::URI("spiffe://f/node/c1".try_into().unwrap())];
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let connector = TlsConnector::from(Arc::new(eager_to_resume(&fleet, &pem, &key)));
    let name = ServerName::try_from(fleet.name.controller()).unwrap();

    let tcp = TcpStream::connect(port.address).await.unwrap();
    let mut first = connector.connect(name.clone(), tcp).await.unwrap();
    let mut came = soon(accepted.recv()).await.unwrap();
    came.stream.write_all(b"x").await.unwrap();
    came.stream.flush().await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), b'x');
    assert_eq!(first.get_ref().1.tls13_tickets_received(), 0, "the controller gave out a ticket");

    revoked.store(true, Ordering::SeqCst);
    let tcp = TcpStream::connect(port.address).await.unwrap();
    let second = match connector.connect(name, tcp).await {
        Ok(mut stream) => soon(stream.read_u8()).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(second.is_err(), "the revoked peer came back");
    assert!(accepted.try_recv().is_err());
}

fn eager_to_resume(fleet: &Fleet, pem: &str, key: &rcgen::KeyPair) -> ClientConfig {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let mut roots = RootCertStore::empty();
    roots.add(fleet.ca.der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![Door::Node.alpn().into()];
    config
}

#[tokio::test]
async fn tls_1_2_and_unknown_protocols_find_no_door() {
    let fleet = Fleet::new("f");
    let (port, mut accepted) = Port::open(fleet.doors(everybody(), Duration::ZERO)).await;
    let (pem, key) = fleet.ca.leaf(|p| {
        p.subject_alt_names = vec![SanType::URI("spiffe://f/node/c1".try_into().unwrap())];
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let good = eager_to_resume(&fleet, &pem, &key);
    let with_alpn = |alpn: &[&str]| {
        let mut config = good.clone();
        config.alpn_protocols = alpn.iter().map(|name| (*name).into()).collect();
        config
    };
    let old = {
        let mut roots = RootCertStore::empty();
        roots.add(fleet.ca.der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![Door::Enroll.alpn().into()];
        config
    };
    for config in [old, with_alpn(&[]), with_alpn(&["http/1.1"]), with_alpn(&["bunraku-node/2"])] {
        let name = ServerName::try_from(fleet.name.controller()).unwrap();
        let tcp = TcpStream::connect(port.address).await.unwrap();
        let came = soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await;
        assert!(came.is_err());
    }
    assert!(accepted.try_recv().is_err());
    assert!(knock(&port, &mut accepted, &fleet.client(&node("c1"), Door::Node)).await.is_some());
}

#[tokio::test]
async fn nothing_is_sent_to_a_controller_without_the_pinned_ca() {
    let (ours, theirs) = (Fleet::new("f"), Fleet::new("f"));
    let pin = peer::pin(&ours.ca.der()).unwrap();
    // The man in the middle: the right doors, another CA, and everything that reaches him counted.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = tls::enroll_door(&theirs.mesh(&Peer::Controller)).unwrap();
    let middle = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(config).accept(tcp).await?;
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).await?;
        std::io::Result::Ok(seen)
    });
    let refused = dial(&address.to_string(), &tls::pinned_client(pin).unwrap(), SOON).await.unwrap_err();
    let text = bunraku_common::Chain(&refused).to_string();
    assert!(text.contains("does not have the expected pin"), "{text}");
    assert!(soon(middle).await.unwrap().is_err(), "the handshake went through");

    let (port, mut accepted) = Port::open(ours.doors(everybody(), Duration::ZERO)).await;
    let came = knock(&port, &mut accepted, &tls::pinned_client(pin).unwrap()).await.unwrap();
    assert_eq!((came.caller.door, came.caller.peer), (Door::Enroll, None));
}

#[tokio::test]
async fn showing_the_pinned_ca_without_its_key_does_not_help() {
    let (ours, theirs) = (Fleet::new("f"), Fleet::new("f"));
    let pin = peer::pin(&ours.ca.der()).unwrap();
    // The pinned CA's certificate is public: the man in the middle puts it into his chain.
    let mut middle = theirs.mesh(&Peer::Controller);
    middle.anchors = vec![ours.ca.der()];
    let mut doors = theirs.doors(everybody(), Duration::ZERO);
    doors.enroll = Some(tls::enroll_door(&middle).unwrap());
    let (port, _accepted) = Port::open(doors).await;
    let refused = dial(&port.at(), &tls::pinned_client(pin).unwrap(), SOON).await;
    assert!(matches!(refused, Err(DialError::Handshake { .. })), "{refused:?}");
}

#[tokio::test]
async fn the_puppet_door_opens_for_certificates_that_puppets_ca_and_crls_accept() {
    let (fleet, puppet) = (Fleet::new("f"), Puppet::new());
    let next = SystemTime::now() + DAY;
    let main = puppet.certificate("main.test", "puppet", 2);
    let (good, revoked) =
        (puppet.certificate("c1.test", "puppet", 5), puppet.certificate("c2.test", "puppet", 6));
    let crls = puppet.authorities(&[6], next);
    let mut doors = fleet.doors(everybody(), Duration::ZERO);
    doors.enroll_puppet = Some(tls::puppet_door(&main, &crls).unwrap());
    let (port, mut accepted) = Port::open(doors.clone()).await;
    let client = |own| tls::puppet_client(own, &crls, "main.test").unwrap();

    let came = knock(&port, &mut accepted, &client(&good)).await.unwrap();
    assert_eq!(came.caller.certificate.as_ref(), Some(good.leaf()));
    assert_eq!(came.caller.peer, None);
    assert!(knock(&port, &mut accepted, &client(&revoked)).await.is_none(), "revoked by Puppet's CA");
    let mesh = fleet.mesh(&node("c1")).own;
    assert!(
        knock(&port, &mut accepted, &client(&mesh)).await.is_none(),
        "a mesh certificate at Puppet's door"
    );

    let ended = puppet.authorities(&[6], SystemTime::now() - HOUR);
    doors.enroll_puppet = Some(tls::puppet_door(&main, &ended).unwrap());
    port.doors.store(Arc::new(doors));
    assert!(knock(&port, &mut accepted, &client(&good)).await.is_none(), "the CRL has expired");
    assert!(knock(&port, &mut accepted, &fleet.client(&node("c1"), Door::H2)).await.is_some());
}

#[tokio::test]
async fn a_compiler_with_the_shared_alias_cannot_pose_as_the_main_server() {
    let (fleet, puppet) = (Fleet::new("f"), Puppet::new());
    let crls = puppet.authorities(&[], SystemTime::now() + DAY);
    let posing = puppet.certificate("c2.test", "puppet", 7);
    // The worst case: its certificate even carries the main server's name as an alias.
    let aliased = puppet.certificate("c2.test", "main.test", 8);
    for own in [posing, aliased] {
        let mut doors = fleet.doors(everybody(), Duration::ZERO);
        doors.enroll_puppet = Some(tls::puppet_door(&own, &crls).unwrap());
        let (port, _accepted) = Port::open(doors).await;
        let client = tls::puppet_client(&puppet.certificate("c1.test", "puppet", 5), &crls, "main.test");
        let refused = dial(&port.at(), &client.unwrap(), SOON).await;
        assert!(matches!(refused, Err(DialError::Handshake { .. })), "{refused:?}");
    }
}
