//! F13: bytes that are not what they were, on disks and on the wire.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use bunraku_common::Digest;
use bunraku_proto::v1;
use bunraku_tests::fleet::{Fleet, digest_of, noise, until};

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
    let request = v1::ListAuditRequest { after: 0, limit: 0 };
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

/// What comes damaged again and again is never used: the node gives up, people are told, and it is fetched anew later.
#[tokio::test(flavor = "multi_thread")]
async fn f13_i1_content_that_never_comes_whole_is_used_by_nobody_and_is_an_alarm_until_it_does() {
    let fleet = Fleet::new().nodes(2).up().await;
    let old = fleet.deploy_change("production", "old").await;
    let content = noise(100_000);
    fleet.push("production", &[("data/new.txt", &content)]);
    fleet.node("c2").link().flip_bits(u32::MAX);
    let id = fleet.main().ask_skipping_deploy("production").await.unwrap();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "behind", "{deploy:#?}");
    let new = digest_of(&deploy);
    let alarm = format!("could not fetch snapshot {}", new.short());
    until("c2 is an alarm, with the reason", || async {
        let alarms = fleet.main().status().await.alarms;
        alarms.iter().any(|line| line.contains("c2 is behind in production") && line.contains(&alarm))
    })
    .await;
    assert_eq!(fleet.node("c2").puppet_server().history("production"), [old], "I1");
    assert_eq!(fleet.node("c1").serves("production"), Some(new));
    fleet.node("c2").link().flip_bits(0);
    fleet.until_all_serve("production", new).await;
    assert_eq!(fleet.node("c2").read("production", "data/new.txt"), content);
    until("nothing is alarming", || async { fleet.main().status().await.alarms.is_empty() }).await;
    fleet.end().await;
}
