//! F10, F13: disks that are full, and bytes on disks that are not what they were.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use bunraku_common::Digest;
use bunraku_proto::v1;
use bunraku_tests::fleet::{Fleet, SmallDisk, digest_of, noise, until};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_full_disk_on_a_node_is_a_clear_failed_stage_and_the_old_code_is_served() {
    let fleet = Fleet::new().nodes(2).up().await;
    let node = fleet.node("c2");
    node.stop().await;
    let disk = SmallDisk::mount(&node.dir().join("small"), 8);
    let root = disk.path("code");
    node.change_config(|config| config.code.as_mut().unwrap().versions_dir = root);
    node.start().await.unwrap();
    fleet.main().until_connected("c2").await;
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
#[expect(clippy::unwrap_used, reason = "what helps tests")]
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

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_full_disk_under_the_agents_memory_refuses_orders_and_recovers() {
    let fleet = Fleet::new().nodes(1).up().await;
    let node = fleet.node("c1");
    let old = fleet.deploy_change("production", "old").await;
    node.stop().await;
    let disk = SmallDisk::mount(&node.dir().join("small"), 2);
    let moved = disk.path("data");
    assert!(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(node.config().data_dir)
            .arg(&moved)
            .status()
            .unwrap()
            .success()
    );
    node.change_config(|config| config.data_dir = moved);
    node.start().await.unwrap();
    fleet.main().until_connected("c1").await;
    disk.fill();
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    fleet.main().until_recorded("staging-started", "c1", 2).await;
    assert_eq!(node.live("production"), Some(old));
    disk.make_room();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_i6_a_full_disk_on_the_controller_refuses_requests_cleanly_and_recovers() {
    let mut fleet = Fleet::new().nodes(1).up().await;
    let old = fleet.deploy_change("production", "old").await;
    fleet.main_mut().stop().await;
    let disk = SmallDisk::mount(&fleet.path("small"), 64);
    let data = disk.path("data");
    fleet.main().back_up(&data);
    fleet.main_mut().config_mut().data_dir = data;
    fleet.main_mut().start().await.unwrap();
    fleet.main().until_connected("c1").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn f13_a_damaged_object_in_the_controllers_store_is_used_by_nobody_and_named() {
    let fleet = Fleet::new().nodes(2).up().await;
    let old = fleet.deploy_change("production", "old").await;
    let content = format!("# {}\n", noise(2000));
    fleet.push("production", &[("data/new.txt", &content)]);
    // Built and stored, but not staged: a plan.
    let plan =
        v1::DeployRequest { environments: vec!["production".into()], plan: true, ..Default::default() };
    let asked = fleet.main().ask_deploys(plan).await.unwrap();
    assert_eq!(fleet.main().until_ended(asked[0].id).await.phase, "planned");
    let object = fleet.main().object(&Digest::of(content.as_bytes()));
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&object, bytes).unwrap();

    let deploy = fleet.deploy("production").await;
    assert_ne!(deploy.phase, "live", "{deploy:#?}");
    assert!(deploy.reason.contains(&Digest::of(content.as_bytes()).short()), "{}", deploy.reason);
    for node in fleet.nodes() {
        assert_eq!(node.puppet_server().history("production"), [old], "I1");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_a_live_file_that_was_changed_by_hand_is_named_and_mended_by_heal() {
    let fleet = Fleet::new().nodes(1).up().await;
    let node = fleet.node("c1");
    fleet.deploy_change("production", "right").await;
    node.puppet_server().allow_damage();
    let file = node.environment("production").join("manifests/site.pp");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "# by hand\n").unwrap();
    fs::write(node.environment("production").join("manifests/extra.pp"), "# extra\n").unwrap();
    let request = v1::HealNodeRequest { node: "c1".into(), environment: String::new() };
    let healed = fleet.main().client().heal_node(request).await.unwrap().into_inner();
    let request = bunraku_proto::v1::ListAuditRequest { after: 0, limit: 0 };
    let audit = fleet.main().client().list_audit(request).await.unwrap().into_inner();
    assert!(audit.records.iter().any(|record| record.kind == "heal-asked"), "I12: the heal is not on record");
    let [production] = healed.environments.as_slice() else { panic!("{healed:?}") };
    assert_eq!(production.error, "");
    assert!(production.mended.iter().any(|path| path.contains("manifests/site.pp")), "{production:?}");
    assert!(production.mended.iter().any(|path| path.contains("manifests/extra.pp")), "{production:?}");
    assert_eq!(node.read("production", "manifests/site.pp"), "# right\n");
    assert!(!node.environment("production").join("manifests/extra.pp").exists());
    fleet.deploy_change("production", "next").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_heal_also_mends_what_an_earlier_version_passed_on() {
    let fleet = Fleet::new().nodes(1).up().await;
    let node = fleet.node("c1");
    let keep = noise(500);
    fleet.push("production", &[("data/keep.txt", &keep)]);
    fleet.deploy_change("production", "one").await;
    node.puppet_server().allow_damage();
    let file = node.environment("production").join("data/keep.txt");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "by hand").unwrap();
    let new = fleet.deploy_change("production", "two").await;
    assert_eq!(node.live("production"), Some(new));
    let request = v1::HealNodeRequest { node: "c1".into(), environment: "production".into() };
    let healed = fleet.main().client().heal_node(request).await.unwrap().into_inner();
    assert_eq!(healed.environments[0].error, "");
    assert_eq!(node.read("production", "data/keep.txt"), keep);
    fleet.end().await;
}

/// Regression: for up to 30 s such a deploy said that nothing had changed, and left it so.
#[tokio::test(flavor = "multi_thread")]
async fn f13_a_deploy_without_a_change_notices_a_live_link_that_was_changed_by_hand() {
    let mut fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "one").await;
    let node = fleet.node("c1");
    let old = fs::read_link(node.environment("production")).unwrap();
    let two = fleet.deploy_change("production", "two").await;
    fleet.until_all_serve("production", two).await;
    let by_hand = node.environment("production").with_extension("by_hand");
    symlink(&old, &by_hand).unwrap();
    fs::rename(&by_hand, node.environment("production")).unwrap();
    let before = fleet.main().audit().await.last().unwrap().sequence;
    let again = fleet.deploy("production").await;
    assert_eq!(again.phase, "unchanged");
    let audit = fleet.main().audit().await;
    let place = |kind: &str| audit.iter().position(|r| r.sequence > before && r.kind == kind);
    let (seen, asked) = (place("node-observed"), place("deploy-requested"));
    assert!(seen.is_some() && seen < asked, "{seen:?} {asked:?}: the nodes were asked first");
    node.until_serves("production", two).await;
    // Without the check of all that was ever served: what was done by hand was decided by nobody.
    for node in fleet.nodes() {
        node.stop().await;
    }
    fleet.main_mut().stop().await;
}
