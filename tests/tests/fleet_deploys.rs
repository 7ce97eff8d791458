//! What an operator does every day, on a controller and agents in one process over real mTLS.

use bunraku_proto::v1;
use bunraku_tests::fleet::{Fleet, digest_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_brings_every_compiler_to_the_same_proven_snapshot() {
    let fleet = Fleet::new().nodes(3).up().await;
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    let snapshot = digest_of(&deploy);
    fleet.until_all_serve("production", snapshot).await;
    for node in fleet.nodes() {
        assert_eq!(node.live("production"), Some(snapshot));
        assert_eq!(node.read("production", "modules/ntp/manifests/init.pp"), "class ntp {}\n");
    }
    assert!(deploy.nodes.iter().all(|node| node.state == "proven"), "{deploy:#?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_deploy_of_the_same_commit_is_unchanged_and_orders_nothing() {
    let fleet = Fleet::new().nodes(2).up().await;
    let first = fleet.deploy("production").await;
    let second = fleet.deploy("production").await;
    assert_eq!((second.phase.as_str(), &second.snapshot), ("unchanged", &first.snapshot));
    let counts = fleet.main().audit_counts().await;
    assert_eq!((counts["commit-decided"], counts["node-proven"]), (1, 2));
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().flushes(), 1);
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_lists_say_what_is_there() {
    let fleet = Fleet::new().nodes(2).up().await;
    let deploy = fleet.deploy("production").await;
    let status = fleet.main().status().await;
    assert_eq!((status.standing.as_str(), status.term), ("in command", 1));
    assert_eq!(status.alarms, Vec::<String>::new());
    let production = &status.environments[0];
    assert_eq!(production.committed, deploy.snapshot);
    assert!(
        production.nodes.iter().all(|node| node.proven && node.live == deploy.snapshot),
        "{production:#?}"
    );
    let node = fleet.main().node("c1").await;
    assert_eq!((node.standing.as_str(), node.enrolled_by.as_str()), ("enrolled", "token"));
    assert_eq!(
        (node.puppetserver.as_str(), node.roles.as_slice()),
        ("running", ["compiler".to_owned()].as_slice())
    );
    let request = v1::ListSnapshotsRequest::default();
    let snapshots = fleet.main().client().list_snapshots(request).await.unwrap().into_inner().snapshots;
    assert_eq!(snapshots.len(), 1);
    assert!(snapshots[0].live && snapshots[0].digest == deploy.snapshot && snapshots[0].builder == "g10k");
    fleet.end().await;
}
