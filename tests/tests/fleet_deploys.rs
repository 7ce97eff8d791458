//! What an operator does every day, on a controller and agents in one process over real mTLS.

use std::fs;

use bunraku_proto::v1;
use bunraku_tests::fleet::{Fleet, Mood, digest_of, noise, until};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_file_costs_about_one_file_on_the_wire() {
    let fleet = Fleet::new().up().await;
    let files: Vec<(String, String)> = (0..200).map(|n| (format!("data/{n}.yaml"), noise(4000))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    fleet.push("production", &files);
    let before = fleet.node("c1").link().bytes_to_node();
    fleet.deploy("production").await;
    let whole = fleet.node("c1").link().bytes_to_node() - before;
    assert!(whole > 400_000, "the first deploy sends everything: {whole} bytes");

    let changed = noise(4000);
    fleet.push("production", &[("data/7.yaml", &changed)]);
    let before = fleet.node("c1").link().bytes_to_node();
    assert_eq!(fleet.deploy("production").await.phase, "live");
    let sent = fleet.node("c1").link().bytes_to_node() - before;
    assert!(sent < 3 * 4000 + (64 << 10), "{sent} bytes for one file of 4000");
    assert_eq!(fleet.node("c1").read("production", "data/7.yaml"), changed);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_what_would_change_and_moves_nothing() {
    let fleet = Fleet::new().up().await;
    let old = fleet.deploy_change("production", "one").await;
    fleet.push("production", &[("manifests/site.pp", "# two\n"), ("manifests/more.pp", "# more\n")]);
    let request =
        v1::DeployRequest { environments: vec!["production".into()], plan: true, ..Default::default() };
    let asked = fleet.main().ask_deploys(request).await.unwrap();
    let plan = fleet.main().until_ended(asked[0].id).await;
    assert_eq!(plan.phase, "planned");
    let difference = plan.difference.unwrap();
    assert!(difference.changed.contains(&"manifests/site.pp".to_owned()), "{difference:?}");
    assert!(difference.added.contains(&"manifests/more.pp".to_owned()), "{difference:?}");
    let counts = fleet.main().audit_counts().await;
    assert_eq!((counts["staging-started"], counts["commit-decided"]), (1, 1));
    assert_eq!(fleet.node("c1").live("production"), Some(old));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_needs_no_git_and_holds_the_environment_until_it_is_released() {
    let fleet = Fleet::new().nodes(2).up().await;
    let old = fleet.deploy_change("production", "one").await;
    let new = fleet.deploy_change("production", "two").await;
    fs::rename(fleet.path("git"), fleet.path("no-git")).unwrap();
    let back = fleet.main().roll_back("production", "").await;
    assert_eq!((back.phase.as_str(), back.snapshot), ("live", old.to_string()));
    fleet.until_all_serve("production", old).await;
    fs::rename(fleet.path("no-git"), fleet.path("git")).unwrap();

    let refused = fleet.main().ask_deploy("production").await.unwrap_err();
    assert!(refused.message().contains("held by root"), "{refused}");
    assert!(fleet.main().environment("production").await.held.starts_with("by root"));
    let release = v1::ReleaseRequest { environment: "production".into() };
    fleet.main().client().release(release).await.unwrap();
    let again = fleet.deploy("production").await;
    assert_eq!((again.phase.as_str(), again.snapshot), ("live", new.to_string()));
    fleet.until_all_serve("production", new).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_cannot_be_a_snapshot_changes_nothing_anywhere() {
    let fleet = Fleet::new().nodes(2).up().await;
    let good = fleet.deploy_change("production", "good").await;
    fleet.repository().commit_link("production", "escape", "/etc/shadow");
    let bad = fleet.deploy("production").await;
    assert_eq!(bad.phase, "failed", "{bad:#?}");
    assert!(bad.reason.contains("escape"), "the path is named: {}", bad.reason);
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().history("production"), [good]);
    }
    fleet.repository().remove("production", "escape");
    fleet.deploy_change("production", "better").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_one_node_that_cannot_stage_keeps_every_node_on_the_old_code() {
    let fleet = Fleet::new().nodes(3).up().await;
    let old = fleet.deploy_change("production", "old").await;
    fleet.node("c2").puppet_server().set_mood(Mood::Forbidding);
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "abandoned", "{deploy:#?}");
    assert!(deploy.reason.contains("c2") && deploy.reason.contains("forbids"), "{}", deploy.reason);
    assert!(deploy.hint.contains("bunraku nodes hold c2"), "{}", deploy.hint);
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().history("production"), [old]);
    }
    fleet.node("c2").puppet_server().set_mood(Mood::Running);
    let again = fleet.deploy("production").await;
    assert_eq!(again.phase, "live", "{again:#?}");
    fleet.until_all_serve("production", digest_of(&again)).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_environments_are_deployed_side_by_side_and_keep_apart() {
    let fleet = Fleet::new().nodes(2).up().await;
    fleet.push("production", &[("manifests/site.pp", "# production\n")]);
    fleet.push("testing", &[("manifests/site.pp", "# testing\n")]);
    let all = v1::DeployRequest { all: true, ..Default::default() };
    let asked = fleet.main().ask_deploys(all).await.unwrap();
    assert_eq!(asked.len(), 2);
    for deploy in asked {
        let ended = fleet.main().until_ended(deploy.id).await;
        assert_eq!(ended.phase, "live", "{ended:#?}");
        fleet.until_all_serve(&ended.environment, digest_of(&ended)).await;
    }
    for node in fleet.nodes() {
        assert_eq!(node.read("production", "manifests/site.pp"), "# production\n");
        assert_eq!(node.read("testing", "manifests/site.pp"), "# testing\n");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_node_is_left_alone_and_brought_up_when_it_is_released() {
    let fleet = Fleet::new().nodes(2).up().await;
    let old = fleet.deploy_change("production", "old").await;
    let hold = v1::HoldNodeRequest { node: "c2".into(), reason: "disk is replaced".into() };
    let held = fleet.main().client().hold_node(hold).await.unwrap().into_inner();
    assert_eq!(held.standing, "held by root: disk is replaced");
    let new = fleet.deploy_change("production", "new").await;
    assert_eq!(
        (fleet.node("c1").live("production"), fleet.node("c2").live("production")),
        (Some(new), Some(old))
    );
    fleet.main().client().release_node(v1::NodeRequest { node: "c2".into() }).await.unwrap();
    fleet.until_all_serve("production", new).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_off_follows_when_it_is_back_and_a_new_node_gets_everything() {
    let mut fleet = Fleet::new().nodes(2).controller(|config| config.deploy.unreachable_s = 1).up().await;
    fleet.deploy_change("production", "old").await;
    fleet.node("c2").stop().await;
    fleet.main().until_gone("c2").await;
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let skip = v1::DeployRequest {
        environments: vec!["production".into()],
        policy: "skip".into(),
        ..Default::default()
    };
    let asked = fleet.main().ask_deploys(skip).await.unwrap();
    let deploy = fleet.main().until_ended(asked[0].id).await;
    assert_eq!(deploy.phase, "behind", "{deploy:#?}");
    let new = digest_of(&deploy);
    let status = fleet.main().status().await;
    assert!(
        status.alarms.iter().any(|alarm| alarm.contains("c2 is behind in production")),
        "{:?}",
        status.alarms
    );

    fleet.node("c2").start().await.unwrap();
    fleet.add_node("c3").await;
    fleet.until_all_serve("production", new).await;
    assert_eq!(fleet.main().status().await.alarms, Vec::<String>::new());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_can_be_compared_and_events_are_told_in_order_and_once() {
    let fleet = Fleet::new().up().await;
    let a = fleet.deploy_change("production", "a").await;
    let b = fleet.deploy_change("production", "b").await;
    let compared = v1::DiffSnapshotsRequest { a: a.short(), b: b.short() };
    let compared = fleet.main().client().diff_snapshots(compared).await.unwrap().into_inner();
    let difference = compared.difference.unwrap();
    assert!(difference.changed.contains(&"manifests/site.pp".to_owned()), "{difference:?}");
    assert_eq!((difference.added, difference.removed), (Vec::new(), Vec::new()));

    let events = fleet.main().events_after(0).await;
    let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
    let rest = fleet.main().events_after(sequences[3]).await;
    assert_eq!(rest.first().map(|event| event.sequence), Some(sequences[4]));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_another_tool_made_is_adopted_whole_and_no_file_is_lost() {
    let fleet = Fleet::new().up().await;
    let node = fleet.node("c1");
    fs::create_dir_all(node.environment("production").join("manifests")).unwrap();
    fs::write(node.environment("production").join("manifests/site.pp"), "# from r10k\n").unwrap();
    fs::write(node.environment("production").join("local.txt"), "not in git").unwrap();
    let snapshot = fleet.deploy_change("production", "managed").await;
    assert_eq!(node.live("production"), Some(snapshot));
    assert_eq!(fs::read_to_string(node.code("adopted/production-1/local.txt")).unwrap(), "not in git");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i10_old_versions_become_spares_every_version_is_whole_and_the_disk_does_not_fill() {
    let fleet = Fleet::new()
        .agents(|config| {
            let code = config.code.as_mut().unwrap();
            (code.keep_versions, code.keep_minutes, code.longest_compile_minutes) = (2, 0, 0);
        })
        .up()
        .await;
    let kept = noise(2000);
    fleet.push("production", &[("data/kept.txt", &kept)]);
    for round in 0..8 {
        fleet.deploy_change("production", &format!("round {round}")).await;
        assert_eq!(fleet.node("c1").read("production", "data/kept.txt"), kept);
    }
    let versions = fleet.node("c1").code("versions/production");
    until("at most the kept versions and the live one are there", || async {
        fs::read_dir(&versions).unwrap().flatten().filter(|entry| entry.path().is_dir()).count() <= 3
    })
    .await;
    fleet.end().await;
}

/// A flush costs every interpreter a new load: who looks after debts leaves one alone that an order is about to pay.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_flushes_once_however_late_puppet_server_answers() {
    let fleet = Fleet::new().up().await;
    fleet.deploy_change("production", "old").await;
    let server = fleet.node("c1").puppet_server();
    let before = server.flushes();
    server.set_mood(Mood::Late);
    let new = fleet.deploy_change("production", "new").await;
    fleet.until_all_serve("production", new).await;
    assert_eq!(server.flushes() - before, 1);
    fleet.end().await;
}

/// The witness itself can fail: a tree that somebody wrote into is seen.
#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "I1: ")]
async fn i1_the_witness_sees_a_version_that_is_not_what_its_name_says() {
    let fleet = Fleet::new().up().await;
    let node = fleet.node("c1");
    fs::create_dir_all(node.code("elsewhere/production_half")).unwrap();
    std::os::unix::fs::symlink(node.code("elsewhere/production_half"), node.environment("production"))
        .unwrap();
    fleet.end().await;
}
