//! Every door after a reload: the controller's certificate is renewed and served without a restart.

use std::{fs, path::Path};

use bunraku_proto::{
    Door, Peer, dial,
    identity::{self, Identity},
    tls::{self, ClientTls, Credentials, PuppetAuthorities},
    v1,
};
use bunraku_tests::fleet::{Fleet, MAIN_CERTNAME, MainServer, until};
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

const DOORS: [Door; 4] = [Door::Node, Door::H2, Door::Enroll, Door::EnrollPuppet];

/// Somebody who can come through every door.
struct Visitor {
    identity: Identity,
    puppet: Credentials,
    authorities: PuppetAuthorities,
}

impl Visitor {
    async fn new(main: &MainServer, puppet: &Path) -> Self {
        let request =
            v1::CreateTokenRequest { node: "visitor".into(), roles: vec!["load-balancer".into()], ttl_s: 0 };
        let token = Zeroizing::new(main.client().create_token(request).await.unwrap().into_inner().token);
        let (address, peer) = (main.address().to_string(), Peer::Node("visitor".parse().unwrap()));
        let identity = identity::with_token(&address, main.pin(), &token, &peer).await.unwrap();
        let read = |name: &str| fs::read(puppet.join(name)).unwrap();
        Self {
            identity,
            puppet: Credentials::from_pem("a node", &read("cert.pem"), &read("key.pem")).unwrap(),
            authorities: PuppetAuthorities::from_pem(&read("ca.pem"), &read("crl.pem")).unwrap(),
        }
    }

    fn way_to(&self, main: &MainServer, door: Door) -> ClientTls {
        let way = match door {
            Door::Node | Door::H2 => tls::mesh_client(self.identity.mesh(), door),
            Door::Enroll => tls::pinned_client(main.pin()),
            Door::EnrollPuppet => tls::puppet_client(&self.puppet, &self.authorities, MAIN_CERTNAME),
        };
        way.unwrap()
    }

    /// The certificate that the door shows in a whole handshake, after which it says its first HTTP/2 word: a door
    /// that does not accept the visitor would end there.
    async fn shown(&self, main: &MainServer, door: Door) -> Option<Vec<u8>> {
        let address = main.address().to_string();
        let way = self.way_to(main, door);
        let mut stream = dial::dial(&address, &way, bunraku_common::limits::HANDSHAKE).await.ok()?;
        // At the node's door the controller is the client: its first word is the preface.
        stream.read_u8().await.ok()?;
        Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec())
    }

    async fn shown_at_all(&self, main: &MainServer) -> Vec<Vec<u8>> {
        let mut shown = Vec::new();
        for door in DOORS {
            shown.push(self.shown(main, door).await.unwrap_or_else(|| panic!("{door} does not answer")));
        }
        shown
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_the_controllers_certificate_is_renewed_without_a_restart_and_every_door_shows_the_new_one() {
    let fleet = Fleet::new().nodes(1).puppet_door().up().await;
    let (main, node) = (fleet.main(), fleet.node("c1"));
    let visitor = Visitor::new(main, node.dir()).await;
    until("the Puppet door is open", || async { visitor.shown(main, Door::EnrollPuppet).await.is_some() })
        .await;
    let before = visitor.shown_at_all(main).await;
    let connected = main.node("c1").await.since_ms;

    main.renew_certificate();
    let after = visitor.shown_at_all(main).await;
    assert!((0..3).all(|door| after[door] != before[door]), "a mesh door shows the old certificate");
    assert_eq!(after[0], after[1], "those with an identity see one controller");
    assert_eq!(after[3], before[3], "the door of Puppet shows Puppet's certificate");

    fleet.renew_puppet_certificate();
    until("the Puppet door shows its new certificate", || async {
        visitor.shown(main, Door::EnrollPuppet).await.is_some_and(|shown| shown != after[3])
    })
    .await;
    let last = visitor.shown_at_all(main).await;
    assert_eq!(last[..3], after[..3], "what Puppet renews concerns its own door");

    assert_eq!(main.node("c1").await.since_ms, connected, "the node kept its connection");
    fleet.deploy_change("production", "over the old connection").await;
    node.restart().await;
    main.until_connected("c1").await;
    fleet.deploy_change("production", "over a new one").await;
    fleet.end().await;
}
