//! F6, F8, F12, F13: networks that are cut, silent, slow or wrong, and agents that stand still.

use std::time::Duration;

use bunraku_proto::v1;
use bunraku_tests::fleet::{Fleet, Flow, Mood, digest_of, noise};

/// A second instead of a minute: what counts is what happens then.
fn impatient(config: &mut bunraku::config::Config) {
    config.deploy.unreachable_s = 1;
    config.deploy.stage_deadline_s = 20;
    config.deploy.commit_deadline_s = 2;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_a_partition_of_one_node_abandons_a_deploy_and_everybody_stays_on_the_old_code() {
    let fleet = Fleet::new().nodes(3).controller(impatient).up().await;
    let old = fleet.deploy_change("production", "old").await;
    fleet.node("c2").partition();
    fleet.main().until_gone("c2").await;
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "abandoned", "{deploy:#?}");
    assert!(deploy.reason.contains("c2 could not stage: no connection for"), "{}", deploy.reason);
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().history("production"), [old], "I2");
    }
    fleet.node("c2").reconnect();
    fleet.main().until_connected("c2").await;
    let again = fleet.deploy("production").await;
    assert_eq!(again.phase, "live", "{again:#?}");
    fleet.until_all_serve("production", digest_of(&again)).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_i9_with_every_node_cut_off_all_serve_on_and_the_deploy_ends() {
    let fleet = Fleet::new().nodes(2).controller(impatient).up().await;
    let old = fleet.deploy_change("production", "old").await;
    for node in fleet.nodes() {
        node.partition();
    }
    fleet.main().until_gone("c1").await;
    fleet.main().until_gone("c2").await;
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    assert_eq!(fleet.deploy("production").await.phase, "abandoned", "I7");
    for node in fleet.nodes() {
        // Also an interpreter that starts now finds the old code.
        node.puppet_server().forget();
        node.puppet_server().compile();
        assert_eq!(node.serves("production"), Some(old));
        node.reconnect();
    }
    for node in fleet.nodes() {
        fleet.main().until_connected(node.name()).await;
    }
    let again = fleet.deploy("production").await;
    assert_eq!(again.phase, "live", "{again:#?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_i2_an_answer_that_does_not_arrive_holds_the_commit_of_all_and_nothing_is_done_twice() {
    let fleet = Fleet::new().nodes(2).controller(impatient).up().await;
    let old = fleet.deploy_change("production", "old").await;
    // One way only: orders reach c2, its answers do not come back.
    fleet.node("c2").link().set_flows(Flow { held: true, ..Flow::default() }, Flow::default());
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    fleet.main().until_recorded("node-staged", "c1", 2).await;
    let staging = fleet.main().show_deploy(id).await;
    assert_eq!(staging.phase, "staging", "{staging:#?}");
    assert!(staging.waiting.contains("c2"), "{}", staging.waiting);
    assert_eq!(fleet.node("c1").live("production"), Some(old), "I2");
    fleet.node("c2").reconnect();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    assert_eq!(fleet.main().audit_counts().await["node-staged"], 4, "two deploys, two nodes");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_a_node_that_is_cut_off_after_the_decision_is_behind_and_follows_when_it_is_back() {
    let fleet = Fleet::new().nodes(2).controller(impatient).up().await;
    let old = fleet.deploy_change("production", "old").await;
    // c1's answer is held until c2 has staged and is gone: the decision falls without c2's connection.
    fleet.node("c1").link().set_flows(Flow { held: true, ..Flow::default() }, Flow::default());
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    fleet.main().until_recorded("node-staged", "c2", 2).await;
    fleet.node("c2").partition();
    fleet.main().until_gone("c2").await;
    fleet.node("c1").reconnect();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "behind", "{deploy:#?}");
    let new = digest_of(&deploy);
    assert_eq!(
        (fleet.node("c1").live("production"), fleet.node("c2").live("production")),
        (Some(new), Some(old))
    );
    let alarms = fleet.main().status().await.alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("c2 is behind in production")), "{alarms:?}");
    fleet.node("c2").reconnect();
    fleet.until_all_serve("production", new).await;
    assert_eq!(fleet.main().status().await.alarms, Vec::<String>::new());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_a_flapping_network_delays_deploys_and_never_mixes_them() {
    let fleet = Fleet::new().nodes(2).controller(|config| config.deploy.stage_deadline_s = 60).up().await;
    let mut deployed = vec![fleet.deploy_change("production", "0").await];
    for round in 1..=3 {
        fleet.push("production", &[("manifests/site.pp", &format!("# {round}\n"))]);
        let id = fleet.main().ask_deploy("production").await.unwrap();
        let mut flaps = tokio::time::interval(Duration::from_millis(60));
        for flap in 0..20 {
            flaps.tick().await;
            let link = fleet.node("c2").link();
            if flap % 2 == 0 { link.cut() } else { link.mend() }
        }
        let deploy = fleet.main().until_ended(id).await;
        assert_eq!(deploy.phase, "live", "I7: {deploy:#?}");
        deployed.push(digest_of(&deploy));
    }
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().history("production"), deployed, "I5: each once, in order");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_a_node_behind_a_network_that_swallows_everything_is_left_behind_by_policy() {
    let fleet = Fleet::new().nodes(3).controller(|c| c.deploy.stage_deadline_s = 2).up().await;
    let old = fleet.deploy_change("production", "old").await;
    fleet.node("c3").silence();
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_skipping_deploy("production").await.unwrap();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "behind", "{deploy:#?}");
    let new = digest_of(&deploy);
    for name in ["c1", "c2"] {
        fleet.node(name).until_serves("production", new).await;
    }
    assert_eq!(fleet.node("c3").live("production"), Some(old));
    fleet.node("c3").reconnect();
    fleet.until_all_serve("production", new).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_i5_an_agent_that_stood_still_obeys_only_the_newest_decision() {
    let fleet = Fleet::new().nodes(2).controller(|c| c.deploy.stage_deadline_s = 2).up().await;
    let first = fleet.deploy_change("production", "first").await;
    let pause = fleet.node("c2").pause().await;
    let mut newest = first;
    for round in ["second", "third"] {
        fleet.push("production", &[("manifests/site.pp", &format!("# {round}\n"))]);
        let id = fleet.main().ask_skipping_deploy("production").await.unwrap();
        let deploy = fleet.main().until_ended(id).await;
        assert_eq!(deploy.phase, "behind", "{deploy:#?}");
        newest = digest_of(&deploy);
    }
    drop(pause);
    fleet.until_all_serve("production", newest).await;
    assert_eq!(fleet.node("c2").puppet_server().history("production"), [first, newest]);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_an_agent_that_stood_still_during_a_commit_ends_on_it_and_commits_once() {
    let fleet = Fleet::new().nodes(2).up().await;
    let old = fleet.deploy_change("production", "old").await;
    fleet.node("c1").link().set_flows(Flow { held: true, ..Flow::default() }, Flow::default());
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    fleet.main().until_recorded("node-staged", "c2", 2).await;
    let pause = fleet.node("c2").pause().await;
    fleet.node("c1").reconnect();
    fleet.main().until_recorded("node-proven", "c1", 2).await;
    assert_eq!(fleet.main().show_deploy(id).await.phase, "committing");
    assert_eq!(fleet.node("c2").live("production"), Some(old));
    drop(pause);
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    assert_eq!(fleet.node("c2").puppet_server().history("production"), [old, digest_of(&deploy)]);
    assert_eq!(fleet.node("c2").puppet_server().flushes(), 2);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_a_node_with_a_slow_line_delays_nobody_elses_stage() {
    let fleet = Fleet::new().nodes(3).controller(|c| c.deploy.stage_deadline_s = 5).up().await;
    fleet.deploy_change("production", "old").await;
    let slow = Flow { bytes_per_second: 1024, ..Flow::default() };
    fleet.node("c3").link().set_flows(slow, slow);
    fleet.push("production", &[("data/large.txt", &noise(300_000))]);
    let id = fleet.main().ask_skipping_deploy("production").await.unwrap();
    let began = fleet.main().until_recorded("staging-started", "c3", 2).await;
    for name in ["c1", "c2"] {
        let staged = fleet.main().until_recorded("node-staged", name, 2).await;
        assert!(staged.wall_ms - began.wall_ms < 4000, "{name} staged before c3 was given up");
    }
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "behind", "I7: {deploy:#?}");
    fleet.node("c3").reconnect();
    fleet.until_all_serve("production", digest_of(&deploy)).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_bits_that_flip_on_the_wire_are_noticed_and_the_content_is_fetched_again() {
    let fleet = Fleet::new().up().await;
    fleet.deploy_change("production", "old").await;
    let large = noise(300_000);
    fleet.push("production", &[("data/large.txt", &large)]);
    fleet.node("c1").link().flip_bits(2);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    assert_eq!(fleet.node("c1").link().flips_left(), 0, "the fault happened");
    assert_eq!(fleet.node("c1").read("production", "data/large.txt"), large);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_away_changes_nothing_and_what_is_owed_is_settled_without_it() {
    let mut fleet = Fleet::new().nodes(2).controller(impatient).up().await;
    fleet.deploy_change("production", "old").await;
    fleet.node("c2").puppet_server().set_mood(Mood::Down);
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "behind", "{deploy:#?}");
    let new = digest_of(&deploy);
    let owes = deploy.nodes.iter().find(|node| node.node == "c2").unwrap();
    assert!(owes.note.contains("does not answer"), "{owes:?}");
    fleet.main_mut().stop().await;
    fleet.node("c2").puppet_server().set_mood(Mood::Running);
    fleet.node("c2").until_serves("production", new).await;
    assert_eq!(fleet.node("c1").serves("production"), Some(new), "I9");
    fleet.main_mut().start().await.unwrap();
    fleet.until_all_serve("production", new).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puppet_server_that_keeps_its_old_code_is_never_called_proven() {
    let fleet = Fleet::new().nodes(2).controller(impatient).up().await;
    fleet.deploy_change("production", "old").await;
    fleet.node("c1").puppet_server().set_mood(Mood::Stubborn);
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "behind", "{deploy:#?}");
    let note: &v1::DeployNode = deploy.nodes.iter().find(|node| node.node == "c1").unwrap();
    assert!(note.note.contains("has not loaded"), "{note:?}");
    fleet.node("c1").puppet_server().set_mood(Mood::Running);
    fleet.until_all_serve("production", digest_of(&deploy)).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puppet_server_that_starts_is_waited_for_and_proven_in_time() {
    let fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "old").await;
    fleet.node("c2").puppet_server().set_mood(Mood::Starting);
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    fleet.main().until_recorded("node-owes", "c2", 1).await;
    assert_eq!(fleet.main().show_deploy(id).await.phase, "committing");
    fleet.node("c2").puppet_server().set_mood(Mood::Running);
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.end().await;
}
