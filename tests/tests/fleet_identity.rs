//! What a node's identity means for its orders: a renewal loses none, another fleet's are not mixed with this one's.

use std::time::Duration;

use bunraku_tests::fleet::{Fleet, Flow, digest_of, until};

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_over_a_renewal_and_the_node_is_never_gone() {
    let fleet = Fleet::new().nodes(1).up().await;
    fleet.deploy_change("production", "before").await;
    let node = fleet.node("c1");
    // A new connection takes half a second: in that time orders go over the one before.
    let far = Flow { delay: Duration::from_millis(50), ..Flow::default() };
    node.link().set_flows(far, far);
    for round in 0..3 {
        let before = fleet.main().node("c1").await;
        fleet.push("production", &[("manifests/site.pp", &format!("# round {round}\n"))]);
        let id = fleet.main().ask_deploy("production").await.unwrap();
        node.renew_identity().await;
        until("the controller calls the node on another connection", || async {
            let now = fleet.main().node("c1").await;
            assert!(now.connected, "round {round}: for a moment no order could reach the node");
            now.since_ms != before.since_ms
        })
        .await;
        let deploy = fleet.main().until_ended(id).await;
        assert_eq!(deploy.phase, "live", "{deploy:#?}");
        fleet.until_all_serve("production", digest_of(&deploy)).await;
        assert_eq!(node.puppet_server().flushes(), 2 + round, "I5: each commit takes effect once");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_from_another_fleet_obeys_the_new_one_and_keeps_its_old_memory_aside() {
    let old = Fleet::new().nodes(1).up().await;
    old.deploy_change("production", "old").await;
    let new = Fleet::new().nodes(0).up().await;
    let node = old.node("c1");
    let memory = || -> Vec<String> {
        let names = std::fs::read_dir(node.config().data_dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("memory-of-other-fleet-")).collect()
    };
    node.restart().await;
    old.main().until_connected("c1").await;
    assert_eq!(memory(), Vec::<String>::new(), "the same CA: nothing is set aside");
    node.stop().await;
    node.link().lead_to(new.main().address());
    node.enrol(new.main()).await;
    node.start().await.unwrap();
    new.main().until_connected("c1").await;
    assert_eq!(memory().len(), 1);
    let standing = new.main().status().await.standing;
    assert!(!standing.contains("takeover"), "{standing}");
    new.end().await;
}
