//! What stays and what leaves.

use std::{fs, time::Duration};

use bunraku_common::Digest;
use bunraku_versions::{
    Policy, Retained, StageError, Staged, VersionsError,
    testing::{Source, files},
};

use crate::fixture::{GO, Node, env, production, read};

const HOUR: u64 = 3_600_000;

fn roomy() -> Policy {
    Policy { free_bytes: 0, free_inodes: 0, ..Policy::default() }
}

fn pressed() -> Policy {
    Policy { free_bytes: u64::MAX, ..roomy() }
}

/// Nine versions, made live one after the other, an hour apart.
fn nine(node: &Node) -> Vec<Digest> {
    let mut digests = Vec::new();
    for n in 0..9_u64 {
        let digest = node.shelf.put(&files(&[("a", &n.to_string()), ("same", "x")]));
        node.stage(&digest).unwrap();
        node.versions.swap(&production(), &digest, false, n * HOUR).unwrap();
        node.versions.excess(&production(), n * HOUR, &roomy());
        digests.push(digest);
    }
    digests
}

#[test]
fn the_newest_five_and_everything_of_the_last_two_hours_stay() {
    let node = Node::new();
    let mut digests = Vec::new();
    let mut gone = Vec::new();
    for n in 0..9_u64 {
        let digest = node.shelf.put(&files(&[("a", &n.to_string()), ("same", "x")]));
        node.stage(&digest).unwrap();
        node.versions.swap(&production(), &digest, false, n * HOUR).unwrap();
        gone.extend(node.versions.retain(&production(), n * HOUR, &roomy()).unwrap());
        digests.push(digest);
    }
    assert_eq!(gone, digests[..4], "oldest first, and no more than those");
    let mut kept = digests[4..].to_vec();
    kept.reverse();
    assert_eq!(node.versions.list(&production()), kept, "newest first");
    assert_eq!(read(&node.version(&kept[4])), files(&[("a", "4"), ("same", "x")]));
    node.nothing_counts_but(&kept);
    node.versions.empty_trash(&GO).unwrap();
    assert_eq!(fs::read_dir(node.root().join("trash")).unwrap().count(), 0);
}

#[test]
fn many_pushes_within_the_window_all_stay() {
    let node = Node::new();
    for n in 0..9 {
        node.deploy_text(&[("a", &n.to_string())]);
    }
    assert!(node.versions.retain(&production(), HOUR, &roomy()).unwrap().is_empty());
    let past_the_window = HOUR * 4;
    assert_eq!(node.versions.excess(&production(), past_the_window, &roomy()).len(), 4);
}

#[test]
fn a_full_disk_shortens_the_window_but_never_touches_the_live_one_or_the_one_before() {
    let node = Node::new();
    let digests = nine(&node);
    let now = 8 * HOUR + 60_000;
    let gone = node.versions.retain(&production(), now, &pressed()).unwrap();
    assert_eq!(gone, digests[..7]);
    assert_eq!(node.versions.list(&production()), [digests[8], digests[7]]);
}

#[test]
fn a_full_disk_does_not_take_what_a_running_compile_may_read() {
    let node = Node::new();
    let digests = nine(&node);
    let a_minute_later = 8 * HOUR + 60_000;
    let very_long = Policy { longest_compile: Duration::from_secs(3 * 3600), ..pressed() };
    let gone = node.versions.retain(&production(), a_minute_later, &very_long).unwrap();
    assert_eq!(gone, digests[..5], "left less than three hours ago: the others");
}

#[test]
fn after_a_restart_everything_counts_as_young() {
    let mut node = Node::new();
    nine(&node);
    node.reopen();
    assert!(node.versions.excess(&production(), 5, &roomy()).is_empty());
    assert_eq!(node.versions.excess(&production(), 5 + 3 * HOUR, &roomy()).len(), 4);
}

#[test]
fn the_live_version_cannot_be_discarded_and_a_discarded_one_takes_its_ready_link_along() {
    let node = Node::new();
    let live = node.deploy_text(&[("a", "1")]);
    assert!(matches!(node.versions.discard(&production(), &live), Err(VersionsError::Live { .. })));
    let staged = node.shelf.put(&files(&[("a", "2")]));
    node.stage(&staged).unwrap();
    node.versions.link_ready(&production(), &staged).unwrap();
    node.versions.discard(&production(), &staged).unwrap();
    node.versions.discard(&production(), &staged).unwrap();
    node.nothing_counts_but(&[live]);
    assert!(fs::symlink_metadata(node.dir.path().join("environments/.production.bunraku")).is_err());
}

#[test]
fn listings_that_no_version_needs_are_collected_and_the_others_stay() {
    let node = Node::new();
    let old = node.deploy_text(&[("only/old", "1"), ("both/x", "1")]);
    let live = node.deploy_text(&[("only/new", "1"), ("both/x", "1")]);
    assert_eq!(node.versions.collect(Duration::ZERO).unwrap(), 0);
    node.versions.discard(&production(), &old).unwrap();
    // The root and `only`.
    assert_eq!(node.versions.collect(Duration::ZERO).unwrap(), 2);
    assert_eq!(node.versions.collect(Duration::ZERO).unwrap(), 0);
    assert_eq!(node.versions.haves(&production(), &old), [live]);
    node.deploy_text(&[("only/new", "2"), ("both/x", "1")]);
    assert_eq!(node.served(), files(&[("only/new", "2"), ("both/x", "1")]));
}

#[test]
fn haves_name_the_best_base_first() {
    let node = Node::new();
    let first = node.deploy_text(&[("a", "1")]);
    node.prepare_spare();
    let second = node.shelf.put(&files(&[("a", "2")]));
    node.versions
        .stage(&env("testing"), &second, &mut bunraku_versions::testing::Source::new(&node.shelf), &GO)
        .unwrap();
    node.versions.swap(&env("testing"), &second, false, 0).unwrap();
    let third = node.shelf.put(&files(&[("a", "3")]));
    assert_eq!(node.versions.haves(&production(), &third), [first, second]);
    assert_eq!(node.versions.haves(&env("testing"), &third), [second, first]);
}

#[test]
fn observing_names_versions_links_and_directories() {
    let node = Node::new();
    let old = node.deploy_text(&[("a", "1")]);
    let new = node.deploy_text(&[("a", "2")]);
    let environments = node.dir.path().join("environments");
    fs::create_dir(environments.join("legacy")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", environments.join("foreign")).unwrap();
    fs::write(environments.join("README.md"), "not an environment").unwrap();
    let states = node.versions.observe();
    let names: Vec<&str> = states.iter().map(|state| state.environment.as_str()).collect();
    assert_eq!(names, ["foreign", "legacy", "production"]);
    assert_eq!(states[0].foreign_link.as_deref(), Some(std::path::Path::new("../elsewhere")));
    assert!(states[1].unmanaged);
    assert_eq!((states[2].live, states[2].sealed), (Some(new), true));
    assert_eq!(states[2].versions, [new, old]);
}

#[test]
fn i5_a_swap_that_was_overtaken_while_it_waited_changes_nothing() {
    let node = Node::new();
    let old = node.deploy_text(&[("a", "1")]);
    let new = node.shelf.put(&files(&[("a", "2")]));
    node.stage(&new).unwrap();
    let refused = node.versions.swap_if(&production(), &new, false, 0, || None::<()>);
    assert!(matches!(refused, Err(VersionsError::Overtaken { .. })));
    assert_eq!(node.versions.live(&production()), Some(old));
}

#[test]
fn i5_a_late_discard_leaves_what_was_staged_again() {
    let node = Node::new();
    node.deploy_text(&[("a", "1")]);
    let staged = node.shelf.put(&files(&[("a", "2")]));
    node.stage(&staged).unwrap();
    let refused = node.versions.discard_if(&production(), &staged, || false);
    assert!(matches!(refused, Err(VersionsError::Overtaken { .. })));
    assert!(node.versions.is_sealed(&production(), &staged));
}

#[test]
fn an_old_version_that_is_staged_for_a_rollback_stays() {
    let node = Node::new();
    let digests = nine(&node);
    node.versions.link_ready(&production(), &digests[1]).unwrap();
    let excess = node.versions.excess(&production(), 8 * HOUR, &roomy());
    assert_eq!(excess, [&digests[..1], &digests[2..4]].concat());
    node.versions.swap(&production(), &digests[1], false, 8 * HOUR).unwrap();
}

/// Stages a retained version, as an order of the controller does.
fn bring(node: &Node, want: &Digest, list: &[Digest], policy: &Policy) -> Result<Staged, StageError> {
    let retained = Retained { newest_first: list, policy, now: 0 };
    node.versions.stage_retained(&production(), want, &retained, &mut Source::new(&node.shelf), &GO)
}

#[test]
fn an_old_version_that_comes_later_is_no_newer_than_the_live_one() {
    let node = Node::new();
    let texts = ["d", "c", "b", "a"];
    let list: Vec<Digest> = texts.iter().map(|text| node.shelf.put(&files(&[("a", text)]))).collect();
    node.stage(&list[0]).unwrap();
    node.versions.swap(&production(), &list[0], false, 0).unwrap();
    // What an abandoned deploy left is no reason to throw away what the controller retains.
    let left = node.shelf.put(&files(&[("a", "left")]));
    node.stage(&left).unwrap();
    for want in [&list[2], &list[1], &list[3]] {
        bring(&node, want, &list, &roomy()).unwrap();
        assert!(bring(&node, want, &list, &roomy()).unwrap().already);
    }
    let expected = [list.as_slice(), &[left]].concat();
    assert_eq!(node.versions.list(&production()), expected, "newest first");
    let few = Policy { newest: 4, window: Duration::ZERO, longest_compile: Duration::ZERO, ..roomy() };
    assert!(!node.versions.excess(&production(), HOUR, &few).contains(&list[3]));
    let next = node.deploy_text(&[("a", "e")]);
    assert_eq!(node.versions.list(&production())[0], next, "what is deployed after it is newer");
}

#[test]
fn a_version_that_would_leave_again_is_not_brought() {
    let node = Node::new();
    let list: Vec<Digest> = ["b", "a"].iter().map(|text| node.shelf.put(&files(&[("a", text)]))).collect();
    node.stage(&list[0]).unwrap();
    node.versions.swap(&production(), &list[0], false, 0).unwrap();
    let one = Policy { newest: 1, ..roomy() };
    assert!(bring(&node, &list[1], &list, &one).unwrap_err().reason.contains("keeps 1 versions"));
    assert_eq!((node.versions.keeps(&one), node.versions.keeps(&pressed())), (1, 0));
    bring(&node, &list[1], &list, &pressed()).unwrap_err();
    assert_eq!(node.versions.list(&production()), [list[0]]);
}

#[test]
fn a_retained_version_leaves_the_spare_to_the_next_deploy() {
    let node = Node::new();
    let old = node.shelf.put(&files(&[("a", "old")]));
    let live = node.deploy_text(&[("a", "live")]);
    node.prepare_spare();
    assert!(!bring(&node, &old, &[live, old], &roomy()).unwrap().from_spare);
    let next = node.shelf.put(&files(&[("a", "next")]));
    assert!(node.stage(&next).unwrap().from_spare);
}
