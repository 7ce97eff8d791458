//! Identities that live for seconds: the true times, the true renewals, and orders all the while.

use std::time::Duration;

use bunraku_tests::fleet::{Fleet, MainServer};

/// Renewals of each node in the test: the life is 18 s, so this takes half of a minute.
const ROTATIONS: usize = 3;

/// The node's renewals that stand in the audit.
async fn renewals(main: &MainServer, node: &str) -> usize {
    let named = format!("\"{node}\"");
    let all = main.audit().await.into_iter();
    let renewal = |json: &str| json.contains(&named) && json.contains("\"renewal\"");
    all.filter(|record| record.kind == "node-enrolled" && renewal(&record.json)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_identities_rotate_at_half_of_their_life_under_load_and_no_order_is_lost_or_doubled() {
    let short =
        |config: &mut bunraku::config::Config| config.identity.survive_outage = Duration::from_secs(8);
    let fleet = Fleet::new().nodes(2).controller(short).up().await;
    let mut deploys = 0;
    loop {
        deploys += 1;
        // Goes live everywhere, or the test fails.
        let snapshot = fleet.deploy_change("production", &format!("change {deploys}")).await;
        fleet.until_all_serve("production", snapshot).await;
        let counts = [renewals(fleet.main(), "c1").await, renewals(fleet.main(), "c2").await];
        if counts.iter().all(|count| *count >= ROTATIONS) {
            break;
        }
    }
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().flushes(), deploys, "I5: each commit takes effect once");
        let served = node.puppet_server().history("production");
        assert_eq!(served.len(), deploys, "{}: no order was lost", node.name());
        let renewed = renewals(fleet.main(), node.name()).await;
        assert!(renewed <= ROTATIONS + 4, "{} renews all the time: {renewed}", node.name());
    }
    let staged = fleet.main().audit_counts().await["node-staged"];
    assert_eq!(staged, 2 * deploys, "nothing had to be staged twice");
    fleet.end().await;
}
