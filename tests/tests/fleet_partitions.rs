//! F6: networks that carry one direction only, and a majority of the compilers cut off in each phase of a deploy.

use bunraku_common::Digest;
use bunraku_tests::fleet::{Fleet, Flow, digest_of};

const HELD: Flow = Flow { held: true, delay: std::time::Duration::ZERO, bytes_per_second: 0 };
const OPEN: Flow = Flow { held: false, ..HELD };

/// Short times: what counts is what happens when they are over.
fn impatient(config: &mut bunraku::config::Config) {
    config.deploy.unreachable_s = 1;
    config.deploy.stage_deadline_s = 2;
    config.deploy.commit_deadline_s = 2;
}

/// For tests in which staging has to last until the test goes on.
fn patient(config: &mut bunraku::config::Config) {
    impatient(config);
    config.deploy.stage_deadline_s = 30;
}

fn push_new(fleet: &Fleet) {
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
}

fn all_have_only_served(fleet: &Fleet, snapshots: &[Digest]) {
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().history("production"), snapshots, "{} (I2, I5)", node.name());
    }
}

/// When the faults are over: the next deploy goes live everywhere, each node swaps once, and the journal holds one
/// decision for each snapshot that was ever served.
async fn recovers(fleet: Fleet, old: Digest) {
    for node in fleet.nodes() {
        node.reconnect();
        fleet.main().until_connected(node.name()).await;
    }
    let again = fleet.deploy("production").await;
    assert_eq!(again.phase, "live", "I7: {again:#?}");
    let new = digest_of(&again);
    fleet.until_all_serve("production", new).await;
    all_have_only_served(&fleet, &[old, new]);
    assert_eq!(fleet.main().audit_counts().await["commit-decided"], 2, "I12: one for each that went live");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_i2_a_node_that_orders_do_not_reach_abandons_the_deploy_and_late_orders_change_nothing() {
    let fleet = Fleet::new().nodes(3).controller(impatient).up().await;
    let old = fleet.deploy_change("production", "old").await;
    fleet.node("c2").link().set_flows(OPEN, HELD);
    push_new(&fleet);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "abandoned", "{deploy:#?}");
    assert!(deploy.reason.contains("c2"), "{}", deploy.reason);
    all_have_only_served(&fleet, &[old]);
    assert!(!fleet.main().audit_counts().await.contains_key("node-behind"), "nothing was decided");
    // What was sent meanwhile arrives now: a stage of a deploy that nobody wants any more.
    recovers(fleet, old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_i2_a_node_whose_answers_do_not_arrive_abandons_the_deploy_though_it_has_staged() {
    let fleet = Fleet::new().nodes(3).controller(impatient).up().await;
    let old = fleet.deploy_change("production", "old").await;
    fleet.node("c2").link().set_flows(HELD, OPEN);
    push_new(&fleet);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "abandoned", "{deploy:#?}");
    assert!(deploy.reason.contains("c2"), "{}", deploy.reason);
    all_have_only_served(&fleet, &[old]);
    recovers(fleet, old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_i7_a_majority_cut_off_during_staging_ends_the_deploy_and_nobody_commits() {
    let fleet = Fleet::new().nodes(5).controller(patient).up().await;
    let old = fleet.deploy_change("production", "old").await;
    // Their answers are held, so that staging goes on until they are cut off.
    let cut = ["c3", "c4", "c5"];
    for name in cut {
        fleet.node(name).link().set_flows(HELD, OPEN);
    }
    push_new(&fleet);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    for name in ["c1", "c2"] {
        fleet.main().until_recorded("node-staged", name, 2).await;
    }
    assert_eq!(fleet.main().show_deploy(id).await.phase, "staging");
    for name in cut {
        fleet.node(name).partition();
    }
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "abandoned", "{deploy:#?}");
    assert!(cut.iter().any(|name| deploy.reason.contains(name)), "{}", deploy.reason);
    all_have_only_served(&fleet, &[old]);
    recovers(fleet, old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_i2_a_majority_cut_off_after_the_decision_is_behind_with_an_alarm_and_follows() {
    let fleet = Fleet::new().nodes(5).controller(patient).up().await;
    let old = fleet.deploy_change("production", "old").await;
    let cut = ["c3", "c4", "c5"];
    // The answer of c1 is held until the majority has staged and is gone: then the decision falls.
    fleet.node("c1").link().set_flows(HELD, OPEN);
    push_new(&fleet);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    for name in cut {
        fleet.main().until_recorded("node-staged", name, 2).await;
        fleet.node(name).partition();
        fleet.main().until_gone(name).await;
    }
    fleet.node("c1").reconnect();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "behind", "I7: {deploy:#?}");
    let new = digest_of(&deploy);
    let alarms = fleet.main().status().await.alarms;
    for name in cut {
        assert_eq!(fleet.node(name).live("production"), Some(old), "I9");
        let behind = format!("{name} is behind in production");
        assert!(alarms.iter().any(|alarm| alarm.contains(&behind)), "I2: {alarms:?}");
    }
    for name in ["c1", "c2"] {
        fleet.node(name).until_serves("production", new).await;
    }
    // No deploy is asked for: they follow by themselves.
    for name in cut {
        fleet.node(name).reconnect();
    }
    fleet.until_all_serve("production", new).await;
    all_have_only_served(&fleet, &[old, new]);
    assert_eq!(fleet.main().status().await.alarms, Vec::<String>::new());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_i5_a_majority_whose_answers_to_the_commit_are_lost_is_asked_again_and_commits_once() {
    let fleet = Fleet::new().nodes(3).controller(patient).up().await;
    let old = fleet.deploy_change("production", "old").await;
    fleet.node("c1").link().set_flows(HELD, OPEN);
    push_new(&fleet);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    for name in ["c2", "c3"] {
        fleet.main().until_recorded("node-staged", name, 2).await;
        // The commit will arrive; its answer will not.
        fleet.node(name).link().set_flows(HELD, OPEN);
    }
    fleet.node("c1").reconnect();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "behind", "I7: {deploy:#?}");
    let new = digest_of(&deploy);
    for name in ["c2", "c3"] {
        // Done, and not known: unknown is not failed.
        fleet.node(name).until_serves("production", new).await;
        assert_eq!(fleet.main().audit_counts().await["node-proven"], 4, "three of the old, one of the new");
        // The answer is lost for ever.
        fleet.node(name).partition();
        fleet.main().until_gone(name).await;
        fleet.node(name).reconnect();
    }
    fleet.until_all_serve("production", new).await;
    all_have_only_served(&fleet, &[old, new]);
    for name in ["c2", "c3"] {
        assert_eq!(fleet.node(name).puppet_server().flushes(), 2, "I5: {name} was flushed once for each");
    }
    fleet.end().await;
}
