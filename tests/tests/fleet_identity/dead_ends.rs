//! F22: where other systems need a person at each host. Here a node comes back by itself, or says the exact command.

use std::time::Duration;

use bunraku_tests::fleet::{Fleet, until};

use super::authority::by_puppet_certificate;

/// Certificates live for seconds.
fn short_lives(config: &mut bunraku::config::Config) {
    config.identity.survive_outage = Duration::from_secs(2);
}

/// And may not renew themselves once they have expired.
fn short_lives_without_grace(config: &mut bunraku::config::Config) {
    short_lives(config);
    config.identity.expired_renewal_days = 0;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_expired_while_off_a_node_renews_itself_and_comes_back() {
    let fleet = Fleet::new().nodes(1).controller(short_lives).up().await;
    let node = fleet.node("c1");
    node.stop().await;
    until("its identity has expired", || async { !node.has_identity() }).await;
    node.start().await.unwrap();
    fleet.main().until_connected("c1").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_expired_while_off_for_too_long_a_node_comes_back_by_its_puppet_certificate() {
    let plan = Fleet::new().nodes(1).controller(short_lives_without_grace);
    let fleet = plan.puppet_door().agents(by_puppet_certificate).up().await;
    let node = fleet.node("c1");
    node.stop().await;
    until("its identity has expired", || async { !node.has_identity() }).await;
    let before = fleet.main().audit_counts().await["node-enrolled"];
    node.start().await.unwrap();
    fleet.main().until_connected("c1").await;
    let after = fleet.main().audit_counts().await["node-enrolled"];
    assert!(after > before, "it was given a new identity");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_the_key_is_lost_and_the_node_comes_back_by_its_puppet_certificate() {
    let fleet = Fleet::new().nodes(1).puppet_door().agents(by_puppet_certificate).up().await;
    let node = fleet.node("c1");
    node.stop().await;
    node.lose_identity();
    node.start().await.unwrap();
    fleet.main().until_connected("c1").await;
    assert_eq!(node.set_aside(), 0, "it remembers what it obeyed");
    fleet.deploy_change("production", "as before").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_the_key_is_lost_and_the_node_comes_back_with_a_token() {
    let fleet = Fleet::new().nodes(1).up().await;
    let node = fleet.node("c1");
    node.stop().await;
    node.lose_identity();
    node.start().await.unwrap();
    // What it says then is asked of the program itself, among the kills.
    node.enrol(fleet.main()).await;
    fleet.main().until_connected("c1").await;
    fleet.deploy_change("production", "as before").await;
    fleet.end().await;
}
