//! F10, F12: disks that are full, broken or stuck.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{path::Path, process::Command};

use bunraku_common::Digest;
use bunraku_proto::v1;
use bunraku_tests::fleet::{Fleet, SmallDisk, digest_of, noise, until};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_full_disk_on_a_node_is_a_clear_failed_stage_and_the_old_code_is_served() {
    let (fleet, disk) = with_small_disk().await;
    let node = fleet.node("c2");
    let old = fleet.deploy_change("production", "old").await;

    fleet.push("production", &[("data/large.txt", &noise(9 << 20))]);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "abandoned", "{deploy:#?}");
    assert!(deploy.reason.contains("c2"), "{}", deploy.reason);
    assert!(deploy.reason.contains("free") || deploy.reason.contains("space"), "{}", deploy.reason);
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().history("production"), [old]);
    }
    // Full to the last byte: also the small change is refused cleanly, and taken when there is room again.
    fleet.repository().remove("production", "data/large.txt");
    disk.fill();
    fleet.push("production", &[("manifests/site.pp", "# small\n")]);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "abandoned", "{deploy:#?}");
    disk.make_room();
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    assert_eq!(node.puppet_server().history("production"), [old, digest_of(&deploy)], "I1");
    fleet.end().await;
}

/// A node whose code lies on a small disk of its own.
async fn with_small_disk() -> (Fleet, SmallDisk) {
    let fleet = Fleet::new().nodes(2).up().await;
    let node = fleet.node("c2");
    node.stop().await;
    let disk = SmallDisk::mount(&node.dir().join("small"), 8);
    let root = disk.path("code");
    node.change_config(|config| config.code.as_mut().unwrap().versions_dir = root);
    node.start().await.unwrap();
    fleet.main().until_connected("c2").await;
    (fleet, disk)
}

/// A deploy that must be abandoned because of `c2`, while everybody stays on `old`; answers the reason and the hint.
async fn abandoned(fleet: &Fleet, old: Digest) -> String {
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "abandoned", "{deploy:#?}");
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().history("production"), [old], "I1");
    }
    assert!(deploy.reason.contains("c2"), "{}", deploy.reason);
    format!("{} {}", deploy.reason, deploy.hint)
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_node_without_inodes_abandons_the_deploy_and_recovers() {
    let (fleet, disk) = with_small_disk().await;
    let old = fleet.deploy_change("production", "old").await;
    disk.fill_inodes();
    let why = abandoned(&fleet, old).await;
    assert!(why.contains("inodes") && why.contains("df -i"), "{why}");
    disk.make_inodes();
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.until_all_serve("production", digest_of(&deploy)).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_disk_that_became_read_only_abandons_the_deploy_and_the_node_recovers() {
    let (fleet, disk) = with_small_disk().await;
    let old = fleet.deploy_change("production", "old").await;
    disk.set_read_only(true);
    let why = abandoned(&fleet, old).await;
    assert!(why.to_lowercase().contains("read-only"), "{why}");
    disk.set_read_only(false);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.until_all_serve("production", digest_of(&deploy)).await;
    fleet.end().await;
}

/// What c1 remembers lies on this disk from now on.
async fn move_memory_to(fleet: &Fleet, mount: impl FnOnce(&Path) -> SmallDisk) -> SmallDisk {
    let node = fleet.node("c1");
    node.stop().await;
    let disk = mount(&node.dir().join("small"));
    let data = disk.path("data");
    copy(&node.config().data_dir, &data);
    node.change_config(|config| config.data_dir = data);
    node.start().await.unwrap();
    fleet.main().until_connected("c1").await;
    disk
}

/// A deploy that c1's memory refuses; answers the hint.
async fn not_remembered(fleet: &Fleet, old: Digest, why: &str) -> String {
    fleet.push("production", &[("manifests/site.pp", &format!("# {}\n", noise(20)))]);
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "abandoned", "{deploy:#?}");
    let said =
        format!("c1 could not stage: could not write {}", fleet.node("c1").config().data_dir.display());
    assert!(deploy.reason.starts_with(&said) && deploy.reason.contains(why), "{}", deploy.reason);
    assert_eq!(fleet.node("c1").live("production"), Some(old), "I1");
    deploy.hint
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_i5_an_agent_without_room_to_remember_an_order_says_so_obeys_none_and_recovers() {
    let fleet = Fleet::new().nodes(1).up().await;
    let disk = move_memory_to(&fleet, |at| SmallDisk::mount(at, 2)).await;
    let mut old = fleet.deploy_change("production", "old").await;
    type Change = fn(&SmallDisk);
    let troubles: [(Change, Change); 2] =
        [(SmallDisk::fill, SmallDisk::make_room), (SmallDisk::fill_inodes, SmallDisk::make_inodes)];
    for (begin, end) in troubles {
        begin(&disk);
        let hint = not_remembered(&fleet, old, "No space left on device").await;
        assert!(hint.contains("df -i"), "{hint}");
        end(&disk);
        let deploy = fleet.deploy("production").await;
        assert_eq!(deploy.phase, "live", "{deploy:#?}");
        old = digest_of(&deploy);
        fleet.until_all_serve("production", old).await;
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_i5_an_agent_whose_disk_became_read_only_obeys_nothing_and_recovers() {
    let fleet = Fleet::new().nodes(1).up().await;
    let disk = move_memory_to(&fleet, |at| SmallDisk::mount_ext4(at, 16)).await;
    let old = fleet.deploy_change("production", "old").await;
    disk.fail();
    not_remembered(&fleet, old, "Read-only file system").await;
    fleet.node("c1").stop().await;
    disk.repair();
    fleet.node("c1").start().await.unwrap();
    fleet.main().until_connected("c1").await;
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.until_all_serve("production", digest_of(&deploy)).await;
    fleet.end().await;
}

/// F12: what a stuck NFS server does to whoever writes there.
#[tokio::test(flavor = "multi_thread")]
async fn f12_i7_a_node_whose_disk_stands_still_delays_nobody_and_follows_when_it_moves_again() {
    let fleet = Fleet::new().nodes(2).controller(|config| config.deploy.stage_deadline_s = 5).up().await;
    let node = fleet.node("c2");
    node.stop().await;
    let disk = SmallDisk::mount_ext4(&node.dir().join("stuck"), 64);
    let root = disk.path("code");
    node.change_config(|config| config.code.as_mut().unwrap().versions_dir = root);
    node.start().await.unwrap();
    fleet.main().until_connected("c2").await;
    let old = fleet.deploy_change("production", "old").await;

    let stuck = disk.stop();
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_skipping_deploy("production").await.unwrap();
    let began = fleet.main().until_recorded("staging-started", "c2", 2).await;
    let staged = fleet.main().until_recorded("node-staged", "c1", 2).await;
    assert!(staged.wall_ms - began.wall_ms < 4000, "c1 staged before c2 was given up");
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "behind", "{deploy:#?}");
    assert_eq!(fleet.node("c1").serves("production"), Some(digest_of(&deploy)));
    assert_eq!(node.serves("production"), Some(old), "what is there can be read");
    let late = deploy.nodes.iter().find(|node| node.node == "c2").unwrap();
    assert!(late.note.contains("not staged within 5 s"), "{late:?}");
    assert!(late.note.contains("hint: journalctl -u bunraku-agent"), "{late:?}");
    assert!(fleet.main().status().await.alarms.iter().any(|alarm| alarm.contains("c2 is behind")));
    // Nor does it keep other environments waiting.
    fleet.push("testing", &[("manifests/site.pp", "# testing\n")]);
    let id = fleet.main().ask_skipping_deploy("testing").await.unwrap();
    let testing = fleet.main().until_ended(id).await;
    assert_eq!(fleet.node("c1").serves("testing"), Some(digest_of(&testing)));

    drop(stuck);
    fleet.until_all_serve("production", digest_of(&deploy)).await;
    fleet.until_all_serve("testing", digest_of(&testing)).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_i6_a_controller_whose_disk_has_failed_acknowledges_nothing_and_forgets_nothing() {
    let mut fleet = Fleet::new().nodes(1).up().await;
    let old = fleet.deploy_change("production", "old").await;
    let disk = move_controller_to(&mut fleet, |at| SmallDisk::mount_ext4(at, 256)).await;
    let before = fleet.main().audit().await;
    let last = before.last().unwrap().sequence;
    disk.fail();
    for _ in 0..2 {
        let request = v1::CreateTokenRequest { node: "c9".into(), roles: vec!["compiler".into()], ttl_s: 0 };
        let unknown = fleet.main().client().create_token(request).await.unwrap_err();
        assert_eq!(unknown.code(), Code::Unavailable, "{unknown}");
    }
    assert_eq!(fleet.node("c1").serves("production"), Some(old), "I9");
    fleet.main_mut().stop().await;
    disk.repair();
    fleet.main_mut().start().await.unwrap();
    fleet.main().until_connected("c1").await;
    let after = fleet.main().audit().await;
    assert_eq!(after[..before.len()], before, "I6");
    assert!(
        after.iter().all(|record| record.kind != "token-created" || record.sequence <= last),
        "{after:#?}"
    );
    fleet.deploy_change("production", "new").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_controller_without_inodes_refuses_a_deploy_by_name_and_recovers() {
    let mut fleet = Fleet::new().nodes(1).up().await;
    let old = fleet.deploy_change("production", "old").await;
    let disk = move_controller_to(&mut fleet, |at| SmallDisk::mount(at, 256)).await;
    disk.fill_inodes();
    fleet.push("production", &[("data/new.txt", &noise(100))]);
    let refused = fleet.main().ask_deploy("production").await.unwrap_err();
    assert!(refused.message().contains("No space left on device"), "{refused}");
    assert!(refused.message().contains("df -i"), "it is not git's configuration: {refused}");
    assert_eq!(fleet.node("c1").serves("production"), Some(old), "I9");
    disk.make_inodes();
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.until_all_serve("production", digest_of(&deploy)).await;
    fleet.end().await;
}

/// The copy is on disk when this returns.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    assert!(Command::new("sync").arg("-f").arg(to).status().unwrap().success());
}

/// Everything that the controller keeps lies on this disk from now on.
async fn move_controller_to(fleet: &mut Fleet, mount: impl FnOnce(&Path) -> SmallDisk) -> SmallDisk {
    fleet.main_mut().stop().await;
    let disk = mount(&fleet.path("small"));
    let data = disk.path("data");
    copy(&fleet.main().config().data_dir, &data);
    fleet.main_mut().config_mut().build.root = data.join("build");
    fleet.main_mut().config_mut().data_dir = data;
    fleet.main_mut().start().await.unwrap();
    fleet.main().until_connected("c1").await;
    disk
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_i6_a_full_disk_on_the_controller_refuses_requests_cleanly_and_recovers() {
    let mut fleet = Fleet::new().nodes(1).up().await;
    let old = fleet.deploy_change("production", "old").await;
    let disk = move_controller_to(&mut fleet, |at| SmallDisk::mount(at, 64)).await;
    let before = fleet.main().audit().await.len();

    disk.fill();
    // The journal has space in reserve, so requests are accepted until that is used up, and each of those counts.
    let mut accepted = 0;
    let refused = loop {
        let request = v1::CreateTokenRequest { node: "c9".into(), roles: vec!["compiler".into()], ttl_s: 0 };
        match fleet.main().client().create_token(request).await {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
        assert!(accepted < 100_000, "a full disk is noticed");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("hint: make room"), "{refused}");
    assert_eq!(fleet.node("c1").serves("production"), Some(old), "I9");
    let listed = fleet.main().client().list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.tokens.iter().filter(|token| token.name == "c9").count(), accepted, "I6");

    disk.make_room();
    until("requests are accepted again", || async {
        let request = v1::CreateTokenRequest { node: "c9".into(), roles: vec!["compiler".into()], ttl_s: 0 };
        fleet.main().client().create_token(request).await.is_ok()
    })
    .await;
    let after: Vec<u64> = fleet.main().audit().await.iter().map(|record| record.sequence).collect();
    assert!(after.len() > before && after.windows(2).all(|pair| pair[1] == pair[0] + 1), "I12");
    fleet.deploy_change("production", "new").await;
    fleet.end().await;
}
