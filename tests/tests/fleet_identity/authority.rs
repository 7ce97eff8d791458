//! F22: the mesh CA is rotated while the fleet works.

use std::path::Path;

use bunraku_agent::EnrollConfig;
use bunraku_proto::{Door, Peer, channel, identity, tls, v1};
use bunraku_tests::fleet::{CA_PHASES, Fleet, MAIN_CERTNAME, MainServer, until};
use tonic::Code;
use zeroize::Zeroizing;

use super::{elsewhere, log_in};

/// What `bunraku token create` prints.
async fn join_line(main: &MainServer, node: &str) -> v1::TokenInfo {
    let roles = vec!["load-balancer".to_owned()];
    let request = v1::CreateTokenRequest { node: node.into(), roles, ttl_s: 0 };
    main.client().create_token(request).await.unwrap().into_inner()
}

/// Runs the printed line.
async fn joins(main: &MainServer, line: v1::TokenInfo) {
    let peer = Peer::Node(line.name.parse().unwrap());
    let (address, pin) = (main.address().to_string(), line.pin.parse().unwrap());
    let identity = identity::with_token(&address, pin, &Zeroizing::new(line.token), &peer).await.unwrap();
    let way = tls::mesh_client(identity.mesh(), Door::H2).unwrap();
    let channel = channel::connect(&address, way).await.unwrap();
    identity::renew(channel, &identity).await.unwrap();
}

pub(crate) fn by_puppet_certificate(config: &mut bunraku_agent::Config) {
    config.enroll = Some(EnrollConfig { main_certname: MAIN_CERTNAME.into(), roles: Vec::new() });
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_the_mesh_ca_is_rotated_phase_by_phase_while_orders_go_on_and_nobody_is_locked_out() {
    let mut fleet = Fleet::new().nodes(2).up().await;
    let first = fleet.main().ca().await;
    assert_eq!((first.phase.as_str(), first.anchors.len()), ("", 1));
    let since = fleet.main().node("c1").await.since_ms;
    for (number, phase) in CA_PHASES.into_iter().enumerate() {
        let main = fleet.main();
        main.until_ready_but_for(&[]).await;
        // Printed before the phase, used after it.
        let line = join_line(main, &format!("lb{number}")).await;
        let now = main.rotate_ca(phase, &[]).await.unwrap();
        if phase != "retire" {
            assert_eq!(now.phase, phase);
            joins(main, line).await;
            main.client().remove_node(v1::NodeRequest { node: format!("lb{number}") }).await.unwrap();
        }
        joins(main, join_line(main, "lb").await).await;
        main.client().remove_node(v1::NodeRequest { node: "lb".into() }).await.unwrap();
        assert!(main.node("c1").await.connected && main.node("c2").await.connected, "{phase}");
        let snapshot = fleet.deploy_change("production", phase).await;
        fleet.until_all_serve("production", snapshot).await;
    }
    let last = fleet.main().ca().await;
    assert_eq!((last.phase.as_str(), last.anchors.as_slice()), ("", [last.pin.clone()].as_slice()));
    assert_ne!(last.pin, first.pin);
    assert_ne!(fleet.main().node("c1").await.since_ms, since, "it has another identity");
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().flushes(), CA_PHASES.len(), "I5: each commit takes effect once");
    }

    // What is on disk is what is in memory, on either side.
    fleet.main_mut().restart().await;
    for node in fleet.nodes() {
        node.restart().await;
        fleet.main().until_connected(node.name()).await;
        assert_eq!(node.set_aside(), 0, "a rotated CA is no other fleet's");
    }
    let ca = fleet.main().config().data_dir.join("ca");
    assert!(!ca.join("next").exists() && ca.join("ca.key").exists());
    fleet.deploy_change("production", "after all").await;
    // And once more: the second successor names the first CA, too.
    fleet.main().rotate_whole_ca(&[]).await;
    fleet.deploy_change("production", "after a second rotation").await;
    assert_eq!(fleet.node("c1").set_aside(), 0);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_a_phase_waits_for_a_node_that_is_off_and_names_it_and_two_who_ask_begin_one_phase() {
    let fleet = Fleet::new().nodes(2).up().await;
    let main = fleet.main();
    fleet.node("c2").stop().await;
    main.rotate_ca("announce", &[]).await.unwrap();
    main.until_ready_but_for(&["c2"]).await;
    let refused = main.rotate_ca("overlap", &[]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for part in ["phase overlap waits: c2 has not heard of the new CA yet", "--leave c2"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    let again = main.rotate_ca("announce", &[]).await.unwrap_err();
    assert!(again.message().contains("the next one is overlap"), "{again}");
    let waits = main.ca().await.waits;
    assert_eq!((waits.len(), waits[0].node.as_str(), waits[0].connected), (1, "c2", false));
    // It comes in time, and needs nobody.
    fleet.node("c2").start().await.unwrap();
    for phase in ["overlap", "switch", "retire"] {
        main.until_ready_but_for(&[]).await;
        main.rotate_ca(phase, &[]).await.unwrap();
    }
    let snapshot = fleet.deploy_change("production", "both are there").await;
    fleet.until_all_serve("production", snapshot).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_a_node_that_was_off_during_the_whole_rotation_comes_back_by_its_puppet_certificate() {
    let fleet = Fleet::new().nodes(2).puppet_door().agents(by_puppet_certificate).up().await;
    fleet.deploy_change("production", "before").await;
    let away = fleet.node("c2");
    away.stop().await;
    fleet.main().rotate_whole_ca(&["c2"]).await;
    fleet.deploy_change("production", "without it").await;
    away.start().await.unwrap();
    fleet.main().until_connected("c2").await;
    assert_eq!(away.set_aside(), 0, "it is the same fleet");
    let snapshot = fleet.deploy_change("production", "with it").await;
    fleet.until_all_serve("production", snapshot).await;
    fleet.end().await;
}

/// It heard of the new CA, so it knows the controller; the controller does not know it any more.
#[tokio::test(flavor = "multi_thread")]
async fn f22_a_node_whose_ca_was_retired_meanwhile_comes_back_by_its_puppet_certificate() {
    let fleet = Fleet::new().nodes(2).puppet_door().agents(by_puppet_certificate).up().await;
    let main = fleet.main();
    main.rotate_ca("announce", &[]).await.unwrap();
    main.until_ready_but_for(&[]).await;
    fleet.node("c2").stop().await;
    for phase in ["overlap", "switch", "retire"] {
        main.until_ready_but_for(&["c2"]).await;
        main.rotate_ca(phase, &["c2"]).await.unwrap();
    }
    assert_eq!(main.node("c2").await.standing, "identity ended, must enrol again");
    fleet.node("c2").start().await.unwrap();
    main.until_connected("c2").await;
    let snapshot = fleet.deploy_change("production", "with it").await;
    fleet.until_all_serve("production", snapshot).await;
    fleet.end().await;
}

/// The same for people: they learn by calling, and who did not call is told what to do.
#[tokio::test(flavor = "multi_thread")]
async fn f22_old_certificates_are_refused_after_the_retirement_and_open_connections_are_cut() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let mut alice = main.operator("alice", "admin").await;
    let request = v1::WatchRequest { from_now: true, follow: true, ..Default::default() };
    let mut events = alice.watch(request).await.unwrap().into_inner();
    main.rotate_ca("announce", &[]).await.unwrap();
    assert_eq!(main.ca().await.operators, ["alice"]);
    for phase in ["overlap", "switch", "retire"] {
        main.until_ready_but_for(&[]).await;
        main.rotate_ca(phase, &[]).await.unwrap();
    }
    until("her connection is cut", || async { alice.clone().status(v1::StatusRequest {}).await.is_err() })
        .await;
    while let Ok(Some(_)) = events.message().await {}
    // Her name is not barred: a new login does.
    main.client().revoke_operator(v1::RevokeOperatorRequest { name: "alice".into() }).await.unwrap();
    assert!(main.ca().await.operators.is_empty());
    fleet.end().await;
}

/// Alice calls in every phase but one, Bob in none.
#[tokio::test(flavor = "multi_thread")]
async fn f22_an_operator_who_calls_during_a_rotation_goes_on_and_one_who_does_not_is_told_what_to_do() {
    let fleet = Fleet::new().nodes(1).up().await;
    let alice = log_in(&fleet, "alice", "admin").await;
    let bob = log_in(&fleet, "bob", "viewer").await;
    let says = |home: &Path, arguments: &[&str]| {
        let said = elsewhere(home, 0, arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (said.status.code().unwrap(), text(&said.stdout), text(&said.stderr))
    };
    let (code, plan, _) = says(&alice, &["ca", "rotate"]);
    assert_eq!(code, 0);
    assert!(plan.contains("nothing was changed") && plan.contains("bunraku ca rotate --yes"), "{plan}");
    assert_eq!(fleet.main().audit_counts().await.get("ca-rotation-moved"), None, "a dry run");
    assert!(!fleet.main().config().data_dir.join("ca/next").exists(), "a dry run");
    for phase in CA_PHASES {
        fleet.main().until_ready_but_for(&[]).await;
        let (code, moved, error) = says(&alice, &["ca", "rotate", "--yes"]);
        assert_eq!(code, 0, "{phase}: {error}");
        assert!(moved.contains(phase) || phase == "retire", "{moved}");
    }
    let (code, status, error) = says(&alice, &["-o", "json", "ca", "status"]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&status).unwrap()["phase"], "");
    let (code, _, error) = says(&bob, &["status"]);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("bunraku operator add NAME") && error.contains("bunraku login"), "{error}");
    fleet.end().await;
}
