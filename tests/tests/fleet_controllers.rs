//! F1, F9, I6, I9: controllers that end, come back, or come back from yesterday's backup.

use std::{fs, process::Command};

use bunraku_common::Chain;
use bunraku_proto::v1;
use bunraku_tests::fleet::{Fleet, Mood, digest_of, until};

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_controller_that_is_restarted_knows_everything_and_goes_on_with_a_higher_term() {
    let mut fleet = Fleet::new().nodes(2).up().await;
    let snapshot = fleet.deploy_change("production", "one").await;
    let before = fleet.main().audit().await;
    fleet.main_mut().restart().await;
    let after = fleet.main().audit().await;
    let kept = |records: &[v1::AuditRecord]| {
        records.iter().map(|r| (r.sequence, r.hash.clone())).collect::<Vec<_>>()
    };
    assert_eq!(kept(&after)[..before.len()], kept(&before));
    assert_eq!(fleet.main().status().await.term, 2);
    assert_eq!(fleet.main().environment("production").await.committed, snapshot.to_string());
    for node in fleet.nodes() {
        fleet.main().until_connected(node.name()).await;
        assert_eq!(node.puppet_server().flushes(), 1, "nothing is ordered again");
    }
    let unchanged = fleet.deploy("production").await;
    assert_eq!(unchanged.phase, "unchanged", "{unchanged:#?}");
    fleet.deploy_change("production", "two").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_deploy_goes_on_where_a_stopped_controller_left_it_while_staging() {
    let mut fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "old").await;
    fleet.node("c2").silence();
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    fleet.main().until_recorded("node-staged", "c1", 2).await;
    fleet.main_mut().stop().await;
    fleet.node("c2").reconnect();
    fleet.main_mut().start().await.unwrap();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.until_all_serve("production", digest_of(&deploy)).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_i7_a_decided_commit_is_carried_out_by_the_next_run_of_the_controller() {
    let mut fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "old").await;
    fleet.node("c2").puppet_server().set_mood(Mood::Down);
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    fleet.main().until_recorded("node-proven", "c1", 2).await;
    fleet.main_mut().restart().await;
    assert_eq!(fleet.main().show_deploy(id).await.phase, "committing");
    fleet.node("c2").puppet_server().set_mood(Mood::Running);
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    assert_eq!(fleet.node("c1").puppet_server().flushes(), 2, "I5: c1 commits it once");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_agents_that_restart_without_a_controller_serve_on_and_come_back_by_themselves() {
    let mut fleet = Fleet::new().nodes(2).up().await;
    let snapshot = fleet.deploy_change("production", "one").await;
    fleet.main_mut().stop().await;
    for node in fleet.nodes() {
        node.restart().await;
        node.puppet_server().forget();
        node.puppet_server().compile();
        assert_eq!(node.serves("production"), Some(snapshot));
    }
    fleet.main_mut().start().await.unwrap();
    fleet.until_all_serve("production", snapshot).await;
    for node in fleet.nodes() {
        fleet.main().until_connected(node.name()).await;
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_a_controller_from_a_backup_gives_no_orders_until_a_takeover_and_then_adopts_what_is_served() {
    let mut fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "one").await;
    fleet.main_mut().stop().await;
    let backup = fleet.path("backup");
    fleet.main().back_up(&backup);
    fleet.main_mut().start().await.unwrap();
    let newest = fleet.deploy_change("production", "two").await;
    fleet.until_all_serve("production", newest).await;
    fleet.main_mut().stop().await;

    let mut restored = fleet.main().twin(&backup);
    restored.start().await.unwrap();
    for node in fleet.nodes() {
        node.link().lead_to(restored.address());
    }
    until("the restored controller knows that it is not in command", || async {
        restored.status().await.standing.starts_with("gives no orders")
    })
    .await;
    let status = restored.status().await;
    assert!(status.standing.contains("bunraku takeover"), "{}", status.standing);
    // It believes in "one"; nobody is brought back to it.
    for node in fleet.nodes() {
        assert_eq!(node.live("production"), Some(newest));
    }

    assert!(restored.take_over().await > 1000);
    for node in fleet.nodes() {
        restored.until_connected(node.name()).await;
    }
    until("what all serve is adopted", || async {
        let production = restored.environment("production").await;
        production.committed == newest.to_string()
            && production.nodes.iter().all(|node| node.state == "adopted" && node.live == newest.to_string())
    })
    .await;
    let status = restored.status().await;
    assert_eq!((status.standing.as_str(), status.alarms), ("in command", Vec::new()));
    let taken = restored.audit_counts().await;
    assert_eq!(taken.get("environment-adopted"), Some(&1), "{taken:?}");
    for node in fleet.nodes() {
        assert_eq!(node.live("production"), Some(newest), "nothing changed without a request");
    }
    // And it is in command.
    fleet.push("production", &[("manifests/site.pp", "# three\n")]);
    let id = restored.ask_deploy("production").await.unwrap();
    let deploy = restored.until_ended(id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    for node in fleet.nodes() {
        node.until_serves("production", digest_of(&deploy)).await;
    }
    restored.stop().await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_i5_of_two_controllers_only_the_one_with_the_higher_term_is_obeyed() {
    let mut fleet = Fleet::new().nodes(2).up().await;
    let one = fleet.deploy_change("production", "one").await;
    fleet.main_mut().stop().await;
    let backup = fleet.path("backup");
    fleet.main().back_up(&backup);
    fleet.main_mut().start().await.unwrap();
    for node in fleet.nodes() {
        fleet.main().until_connected(node.name()).await;
    }
    // Both run term 2, with different ids; the nodes have met the first.
    let mut twin = fleet.main().twin(&backup);
    twin.start().await.unwrap();
    assert_eq!((fleet.main().status().await.term, twin.status().await.term), (2, 2));
    fleet.node("c2").link().lead_to(twin.address());
    until("the twin is refused", || async { twin.status().await.standing.starts_with("gives no orders") })
        .await;
    let standing = twin.status().await.standing;
    let mut shown = standing.split("term 2 (").skip(1).map(|id| id.split(')').next().unwrap());
    let (theirs, own) = (shown.next().unwrap(), shown.next().unwrap());
    assert!(standing.contains("two controllers") && theirs.len() == 8 && theirs != own, "{standing}");

    fleet.push("production", &[("manifests/site.pp", "# by the twin\n")]);
    let refused = twin.ask_deploy("production").await.unwrap_err();
    assert!(refused.message().contains("gives no orders"), "{refused}");
    assert!(
        refused.message().contains("hint: ") && refused.message().contains("bunraku takeover"),
        "{refused}"
    );
    for node in fleet.nodes() {
        assert_eq!(node.live("production"), Some(one));
    }
    fleet.node("c2").link().lead_to(fleet.main().address());
    fleet.main().until_connected("c2").await;
    let mine = fleet.deploy_change("production", "by the main server").await;
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().history("production"), [one, mine]);
    }
    twin.stop().await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_after_a_takeover_the_former_controller_is_the_one_that_is_refused() {
    let mut fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "one").await;
    fleet.main_mut().stop().await;
    let backup = fleet.path("backup");
    fleet.main().back_up(&backup);
    let mut twin = fleet.main().twin(&backup);
    twin.start().await.unwrap();
    twin.take_over().await;
    for node in fleet.nodes() {
        node.link().lead_to(twin.address());
    }
    twin.until_connected("c1").await;
    twin.until_connected("c2").await;
    twin.stop().await;
    fleet.main_mut().start().await.unwrap();
    for node in fleet.nodes() {
        node.link().lead_to(fleet.main().address());
    }
    until("the former controller is refused", || async {
        fleet.main().status().await.standing.starts_with("gives no orders")
    })
    .await;
    // However often it is restarted.
    fleet.main_mut().restart().await;
    until("the former controller is refused again", || async {
        fleet.main().status().await.standing.starts_with("gives no orders")
    })
    .await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f5_an_index_that_is_lost_or_garbage_is_built_anew_and_nothing_is_forgotten() {
    let mut fleet = Fleet::new().nodes(1).up().await;
    let snapshot = fleet.deploy_change("production", "one").await;
    let index = fleet.main().config().data_dir.join("state/index");
    for damage in ["lost", "garbage"] {
        let before = fleet.main().audit().await;
        fleet.main_mut().stop().await;
        fs::remove_dir_all(&index).unwrap();
        if damage == "garbage" {
            fs::create_dir(&index).unwrap();
            fs::write(index.join("db"), "no database").unwrap();
            fs::write(index.join("conf"), "no settings").unwrap();
        }
        fleet.main_mut().start().await.unwrap();
        let after = fleet.main().audit().await;
        assert_eq!(after[..before.len()], before, "{damage}");
        assert_eq!(fleet.main().environment("production").await.committed, snapshot.to_string());
    }
    fleet.main().until_connected("c1").await;
    fleet.deploy_change("production", "two").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_journal_with_a_flipped_bit_in_the_middle_refuses_to_start_and_the_nodes_serve_on() {
    let mut fleet = Fleet::new().nodes(1).up().await;
    let snapshot = fleet.deploy_change("production", "one").await;
    fleet.main_mut().stop().await;
    let journal = fleet.main().config().data_dir.join("state/journal");
    let segments = fs::read_dir(&journal).unwrap().flatten().map(|entry| entry.path());
    let first = segments.filter(|path| path.extension().is_some_and(|end| end == "seg")).min().unwrap();
    let whole = fs::read(&first).unwrap();
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut damaged = whole.clone();
    damaged[written / 2] ^= 1;
    fs::write(&first, damaged).unwrap();
    let refused = Chain(&fleet.main_mut().start().await.unwrap_err()).to_string();
    assert!(refused.contains(first.file_name().unwrap().to_str().unwrap()), "{refused}");
    assert_eq!(fleet.node("c1").serves("production"), Some(snapshot), "I9");
    fs::write(&first, whole).unwrap();
    fleet.main_mut().start().await.unwrap();
    fleet.main().until_connected("c1").await;
    fleet.deploy_change("production", "two").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_i5_a_controller_from_a_backup_that_was_made_while_it_ran_brings_nobody_back_to_old_code() {
    let mut fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "one").await;
    // Nobody restarted it since: the restored controller's term is one that every node would obey.
    let backup = fleet.path("backup");
    let copied =
        Command::new("cp").arg("-a").arg(&fleet.main().config().data_dir).arg(&backup).status().unwrap();
    assert!(copied.success());
    let newest = fleet.deploy_change("production", "two").await;
    fleet.until_all_serve("production", newest).await;
    fleet.main_mut().stop().await;

    let mut restored = fleet.main().twin(&backup);
    restored.start().await.unwrap();
    assert_eq!(restored.status().await.term, 2);
    for node in fleet.nodes() {
        node.link().lead_to(restored.address());
    }
    until("the restored controller knows that its journal is old", || async {
        restored.status().await.standing.contains("not in this journal")
    })
    .await;
    assert!(restored.take_over().await > 1000);
    until("what all serve is adopted", || async {
        restored.environment("production").await.committed == newest.to_string()
    })
    .await;
    fleet.push("production", &[("manifests/site.pp", "# three\n")]);
    let id = restored.ask_deploy("production").await.unwrap();
    let deploy = restored.until_ended(id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    for node in fleet.nodes() {
        let history = node.puppet_server().history("production");
        assert_eq!(history[1..], [newest, digest_of(&deploy)], "nobody went back");
    }
    restored.stop().await;
    fleet.end().await;
}
