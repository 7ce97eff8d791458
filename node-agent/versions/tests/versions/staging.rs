//! Stage, swap, spare: the ordinary ways.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    sync::{atomic::AtomicBool, mpsc},
    thread,
    time::Duration,
};

use bunraku_common::EnvironmentName;
use bunraku_versions::{
    Layout, Prepared, Replaced, Versions, VersionsError,
    testing::{Files, Item, Source, files},
};

use crate::fixture::{GO, Node, directory, env, production, read};

fn sample() -> Files {
    let mut sample = files(&[
        ("environment.conf", "modulepath = modules"),
        ("manifests/site.pp", "node default {}"),
        ("modules/ntp/manifests/init.pp", "class ntp {}"),
        ("modules/ntp/manifests/copy.pp", "class ntp {}"),
        ("modules/ntp/lib/puppet/type/x.rb", "x"),
        ("empty", ""),
    ]);
    sample.insert("scripts/run.sh".into(), Item::Executable(b"#!/bin/sh\n".to_vec()));
    sample.insert("scripts/also.sh".into(), Item::Executable(b"node default {}".to_vec()));
    sample.insert("modules/ntp/link".into(), Item::Link("../../manifests/site.pp".into()));
    sample
}

#[test]
fn what_is_served_is_the_snapshot_byte_for_byte() {
    let node = Node::new();
    let digest = node.deploy(&sample());
    assert_eq!(node.served(), sample());
    assert_eq!(node.versions.live(&production()), Some(digest));
    assert!(node.versions.is_sealed(&production(), &digest));
    node.nothing_counts_but(&[digest]);
    let target = fs::read_link(node.dir.path().join("environments/production")).unwrap();
    assert!(target.is_absolute());
    assert_eq!(target, node.version(&digest));
    assert_eq!(fs::read_dir(node.root().join("incoming/production/tmp")).unwrap().count(), 0);
}

#[test]
fn staging_again_says_that_it_is_there_and_asks_nobody() {
    let node = Node::new();
    let digest = node.deploy(&sample());
    let mut source = Source::new(&node.shelf);
    let staged = node.versions.stage(&production(), &digest, &mut source, &GO).unwrap();
    assert!(staged.already);
    assert!(source.asked.is_empty());
}

#[test]
fn a_changed_file_in_a_spare_costs_that_file() {
    let node = Node::new();
    let old = node.deploy(&sample());
    assert_eq!(node.prepare_spare(), Prepared::Linked);
    assert_eq!(node.prepare_spare(), Prepared::Already);
    let mut changed = sample();
    changed.insert("manifests/site.pp".into(), "node default { include ntp }".into());
    let new = node.shelf.put(&changed);
    let mut source = Source::new(&node.shelf);
    let staged = node.versions.stage(&production(), &new, &mut source, &GO).unwrap();
    assert!(staged.from_spare);
    assert_eq!(staged.written_files, 1);
    // The root, `manifests`, and the file.
    assert_eq!(staged.fetched_objects, 3);
    assert_eq!(source.asked, [(vec![old], None)]);
    assert_eq!(read(&node.version(&new)), changed);
    assert_eq!(node.served(), sample(), "nothing that is served changes before the swap");
    node.versions.swap(&production(), &new, false, 0).unwrap();
    assert_eq!(node.served(), changed);
    assert_eq!(read(&node.version(&old)), sample());
}

#[test]
fn without_a_spare_unchanged_files_are_the_same_inodes() {
    let node = Node::new();
    let old = node.deploy(&sample());
    let mut changed = sample();
    changed.insert("manifests/site.pp".into(), "x".into());
    let new = node.deploy(&changed);
    assert_eq!(node.served(), changed);
    let inode = |digest, path: &str| fs::metadata(node.version(digest).join(path)).unwrap().ino();
    assert_eq!(inode(&old, "environment.conf"), inode(&new, "environment.conf"));
    assert_ne!(inode(&old, "manifests/site.pp"), inode(&new, "manifests/site.pp"));
}

#[test]
fn a_file_that_only_became_executable_is_not_changed_in_older_versions() {
    let node = Node::new();
    let old = node.deploy(&sample());
    node.prepare_spare();
    let mut changed = sample();
    changed.insert("manifests/site.pp".into(), Item::Executable(b"node default {}".to_vec()));
    node.deploy(&changed);
    assert_eq!(node.served(), changed);
    assert_eq!(read(&node.version(&old)), sample());
}

#[test]
fn directories_files_and_links_may_turn_into_each_other() {
    let node = Node::new();
    node.deploy_text(&[("a/b/c", "1"), ("d", "2"), ("e/f", "3"), ("kept", "4")]);
    node.prepare_spare();
    let mut turned = files(&[("a", "now a file"), ("d/x/y", "now a directory"), ("kept", "4")]);
    turned.insert("e".into(), Item::Link("d".into()));
    node.deploy(&turned);
    assert_eq!(node.served(), turned);
    node.prepare_spare();
    let back = files(&[("a/b/c", "1"), ("d", "2"), ("e", "3")]);
    node.deploy(&back);
    assert_eq!(node.served(), back);
}

#[test]
fn a_recycled_version_becomes_the_spare_of_the_live_one() {
    let node = Node::new();
    let old = node.deploy(&sample());
    let mut changed = sample();
    changed.remove("empty");
    changed.insert("manifests/site.pp".into(), "x".into());
    node.deploy(&changed);
    assert_eq!(node.versions.prepare_spare(&production(), Some(&old), &GO).unwrap(), Prepared::Recycled);
    assert!(!node.versions.is_sealed(&production(), &old), "it left the versions");
    assert_eq!(read(&node.root().join("spare/production")), changed);
    assert_eq!(node.served(), changed);
}

#[test]
fn the_live_version_is_never_recycled() {
    let node = Node::new();
    let live = node.deploy(&sample());
    assert_eq!(node.versions.prepare_spare(&production(), Some(&live), &GO).unwrap(), Prepared::Linked);
    assert_eq!(node.served(), sample());
}

#[test]
fn going_back_to_a_snapshot_whose_version_left_takes_what_is_here_from_other_versions() {
    let node = Node::new();
    let (old, new) = (&[("a", "1"), ("b", "1"), ("c", "1")], &[("a", "2"), ("b", "1"), ("c", "1")]);
    let old_digest = node.deploy_text(old);
    let third = node.deploy_text(&[("a", "1"), ("b", "3"), ("c", "1")]);
    node.deploy_text(new);
    node.versions.discard(&production(), &old_digest).unwrap();
    let mut source = Source::new(&node.shelf);
    node.versions.stage(&production(), &old_digest, &mut source, &GO).unwrap();
    assert!(source.asked.is_empty(), "the listings and every content are here: {:?}", source.asked);
    assert_eq!(read(&node.version(&old_digest)), files(old));
    assert!(node.versions.is_sealed(&production(), &third));
}

#[test]
fn another_environment_shares_what_it_has() {
    let node = Node::new();
    let production_digest = node.deploy(&sample());
    let mut other = sample();
    other.insert("manifests/site.pp".into(), "testing".into());
    let digest = node.shelf.put(&other);
    let mut source = Source::new(&node.shelf);
    let staged = node.versions.stage(&env("testing"), &digest, &mut source, &GO).unwrap();
    assert_eq!(source.asked, [(vec![production_digest], None)]);
    assert_eq!(staged.written_files, 1);
    assert_eq!(read(&node.versions.resolve(&env("testing"), &digest)), other);
}

#[test]
fn a_damaged_file_in_another_version_is_not_taken_from_there() {
    let node = Node::new();
    let first = node.deploy_text(&[("a", "wanted"), ("b", "1")]);
    node.deploy_text(&[("a", "x"), ("b", "2")]);
    fs::write(node.version(&first).join("a"), "spoilt").unwrap();
    let third = node.deploy_text(&[("a", "wanted"), ("b", "3")]);
    assert_eq!(read(&node.version(&third)), files(&[("a", "wanted"), ("b", "3")]));
}

#[test]
fn a_spare_that_was_changed_by_hand_is_dropped_and_the_stage_succeeds() {
    let node = Node::new();
    node.deploy_text(&[("d/a", "1"), ("b", "1")]);
    node.prepare_spare();
    let spare = node.root().join("spare/production");
    fs::remove_dir_all(spare.join("d")).unwrap();
    let outside = node.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, spare.join("d")).unwrap();
    node.deploy_text(&[("d/a", "2"), ("b", "1")]);
    assert_eq!(node.served(), files(&[("d/a", "2"), ("b", "1")]));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_device_put_into_the_base_by_hand_is_neither_linked_nor_opened() {
    let node = Node::new();
    let old = node.deploy_text(&[("dir/a", "1"), ("b", "1")]);
    let path = node.version(&old).join("dir/a");
    fs::remove_file(&path).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, rustix::fs::Mode::RWXU, 0).unwrap();
    let new = node.deploy_text(&[("dir/a", "1"), ("b", "2")]);
    assert_eq!(read(&node.version(&new)), files(&[("dir/a", "1"), ("b", "2")]));
}

#[test]
fn lost_listings_cost_one_full_fetch_and_nothing_else() {
    let mut node = Node::new();
    node.deploy_text(&[("d/a", "1"), ("d/e/f", "1"), ("b", "1")]);
    node.prepare_spare();
    fs::remove_dir_all(node.root().join("trees")).unwrap();
    node.reopen();
    node.deploy_text(&[("d/a", "2"), ("d/e/f", "1"), ("b", "1")]);
    assert_eq!(node.served(), files(&[("d/a", "2"), ("d/e/f", "1"), ("b", "1")]));
}

#[test]
fn a_group_reads_and_others_do_not() {
    let dir = directory();
    let shelf = bunraku_versions::testing::Shelf::open(&dir.path().join("shelf"));
    fs::create_dir(dir.path().join("environments")).unwrap();
    let mut layout = Node::layout(dir.path());
    layout.group = Some(65534);
    let versions = Versions::open(layout).unwrap();
    let digest = shelf.put(&sample());
    versions.stage(&production(), &digest, &mut Source::new(&shelf), &GO).unwrap();
    let version = versions.resolve(&production(), &digest);
    for (path, mode) in [("", 0o750), ("manifests", 0o750), ("empty", 0o640), ("scripts/run.sh", 0o750)] {
        let found = fs::metadata(version.join(path)).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{path}");
        assert_eq!(found.gid(), 65534, "{path}");
        assert_eq!(found.uid(), rustix::process::geteuid().as_raw(), "{path}");
    }
    assert_eq!(fs::metadata(dir.path().join("node/versions/production")).unwrap().gid(), 65534);
}

#[test]
fn an_unsealed_version_cannot_become_live() {
    let node = Node::new();
    let digest = node.deploy(&sample());
    let never = node.shelf.put(&files(&[("a", "b")]));
    for swapped in [
        node.versions.swap(&production(), &never, false, 0).map(drop),
        node.versions.link_ready(&production(), &never),
    ] {
        assert!(matches!(swapped, Err(VersionsError::NotSealed { .. })));
    }
    assert_eq!(node.versions.live(&production()), Some(digest));
}

#[test]
fn a_rehearsed_link_is_taken_and_a_repeated_swap_changes_nothing() {
    let node = Node::new();
    let old = node.deploy_text(&[("a", "1")]);
    let new = node.shelf.put(&files(&[("a", "2")]));
    node.stage(&new).unwrap();
    node.versions.link_ready(&production(), &new).unwrap();
    node.versions.link_ready(&production(), &new).unwrap();
    let ready = node.dir.path().join("environments/.production.bunraku");
    assert_eq!(fs::read_link(&ready).unwrap(), node.version(&new));
    let swapped = node.versions.swap(&production(), &new, false, 0).unwrap();
    assert_eq!(swapped.replaced, Replaced::Version(old));
    assert!(fs::symlink_metadata(&ready).is_err());
    assert_eq!(node.versions.swap(&production(), &new, false, 0).unwrap().replaced, Replaced::Same);
}

/// Regression: on a host with Debian's packages, where nothing was ever deployed, every stage failed for ever.
#[test]
fn a_directory_for_environments_that_is_not_there_yet_is_made_and_no_other() {
    let node = Node::new();
    let directory = node.dir.path().join("environments");
    fs::remove_dir(&directory).unwrap();
    node.deploy(&sample());
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o755);

    let mut layout = Node::layout(node.dir.path());
    layout.environments_dir = node.dir.path().join("no/environments");
    let versions = Versions::open(layout).unwrap();
    let refused =
        versions.link_ready(&production(), &node.versions.live(&production()).unwrap()).unwrap_err();
    assert!(refused.to_string().ends_with("/no/environments"), "{refused}");
    assert!(!node.dir.path().join("no").exists());
}

#[test]
fn a_cancelled_stage_and_a_cancelled_spare_leave_nothing_that_counts() {
    let node = Node::new();
    let live = node.deploy(&sample());
    let stop = AtomicBool::new(true);
    let cancelled = node.versions.prepare_spare(&production(), None, &stop);
    assert!(matches!(cancelled, Err(VersionsError::Cancelled)), "{cancelled:?}");
    let other = node.shelf.put(&files(&[("x", "y")]));
    let stage = node.versions.stage(&production(), &other, &mut Source::new(&node.shelf), &stop);
    assert_eq!(stage.unwrap_err().reason, "the stage was cancelled");
    node.nothing_counts_but(&[live]);
    assert!(!node.root().join("spare/production").exists());
    node.stage(&other).unwrap();
}

#[test]
fn what_a_killed_agent_left_is_gone_after_its_start() {
    let mut node = Node::new();
    let digest = node.deploy(&sample());
    node.prepare_spare();
    let root = node.root();
    let unsealed = node.version(&node.shelf.put(&files(&[("q", "q")])));
    fs::create_dir(&unsealed).unwrap();
    fs::create_dir(root.join("spare/production.dirty")).unwrap();
    fs::create_dir(root.join("spare/testing")).unwrap();
    fs::write(root.join("tmp/1"), "x").unwrap();
    symlink("/nowhere", node.dir.path().join("environments/.production.bunraku")).unwrap();
    node.reopen();
    assert!(!unsealed.exists());
    assert!(!root.join("spare/production.dirty").exists());
    assert!(!root.join("spare/testing").exists());
    assert!(root.join("spare/production").exists(), "a sealed spare stays");
    assert!(fs::symlink_metadata(node.dir.path().join("environments/.production.bunraku")).is_err());
    node.nothing_counts_but(&[digest]);
    node.versions.empty_trash(&GO).unwrap();
    assert_eq!(fs::read_dir(root.join("trash")).unwrap().count(), 0);
    assert_eq!(node.served(), sample());
}

#[test]
fn a_live_version_that_lost_its_seal_is_never_removed_and_can_be_staged_again() {
    let mut node = Node::new();
    let digest = node.deploy(&sample());
    fs::remove_file(node.root().join(format!("versions/production/production_{digest}.seal"))).unwrap();
    node.reopen();
    assert_eq!(node.served(), sample());
    let state = &node.versions.observe()[0];
    assert_eq!((state.live, state.sealed), (Some(digest), false));
    node.stage(&digest).unwrap();
    assert!(node.versions.is_sealed(&production(), &digest));
    assert_eq!(node.served(), sample());
}

#[test]
fn generated_types_stay_outside_the_digest_and_are_carried_over() {
    let node = Node::new();
    let old = node.deploy_text(&[("a", "1")]);
    let made = node.versions.make_resource_types(&production(), &old, None).unwrap();
    fs::create_dir(made.join("types")).unwrap();
    fs::write(made.join("types/x.pp"), "type").unwrap();
    node.versions.settle_resource_types(&production(), &old).unwrap();
    node.prepare_spare();
    assert!(!node.root().join("spare/production/.resource_types").exists());
    let new = node.deploy_text(&[("a", "2")]);
    assert!(!node.version(&new).join(".resource_types").exists());
    assert!(node.versions.carry_resource_types(&production(), &old, &new).unwrap());
    assert!(!node.versions.carry_resource_types(&env("testing"), &old, &new).unwrap());
    let mut expected = files(&[("a", "2")]);
    expected.insert(".resource_types/types/x.pp".into(), "type".into());
    assert_eq!(node.served(), expected);
    // From a version that has them, by recycling: they go.
    assert_eq!(node.versions.prepare_spare(&production(), Some(&old), &GO).unwrap(), Prepared::Recycled);
    assert!(!node.root().join("spare/production/.resource_types").exists());
}

#[test]
fn a_link_among_generated_types_is_refused() {
    let node = Node::new();
    let digest = node.deploy_text(&[("a", "1")]);
    let made = node.versions.make_resource_types(&production(), &digest, None).unwrap();
    symlink("/etc/passwd", made.join("evil")).unwrap();
    let settled = node.versions.settle_resource_types(&production(), &digest);
    assert!(matches!(settled, Err(VersionsError::Generated(_))));
}

#[test]
fn relative_places_are_refused() {
    let layout = Layout::new("relative".into(), "/tmp".into(), None);
    assert!(matches!(Versions::open(layout), Err(VersionsError::NotAbsolute { .. })));
}

/// Found by the demo: two environments share contents, and the one that was staged first took the received file away
/// from the other.
#[test]
fn environments_that_are_staged_side_by_side_do_not_take_each_others_files() {
    let node = Node::new();
    let all: Vec<(String, String)> =
        (0..300).map(|n| (format!("dir{}/f{n}", n % 7), format!("shared {n}"))).collect();
    let all: Vec<(&str, &str)> =
        all.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
    let want = node.shelf.put(&files(&all));
    let names: Vec<EnvironmentName> =
        (0..6).map(|n| EnvironmentName::parse(&format!("env_{n}")).unwrap()).collect();
    std::thread::scope(|scope| {
        for env in &names {
            scope.spawn(|| node.versions.stage(env, &want, &mut Source::new(&node.shelf), &GO).unwrap());
        }
    });
    for env in &names {
        assert!(node.versions.is_sealed(env, &want));
    }
}

#[test]
fn environments_that_come_to_an_empty_node_side_by_side_are_received_once() {
    let node = Node::new();
    let mut other = sample();
    other.insert("data/own.yaml".into(), "own: true".into());
    let (first, second) = (node.shelf.put(&sample()), node.shelf.put(&other));
    let (begun, has_begun) = mpsc::channel();
    let (asked, was_asked) = mpsc::channel();
    let second_held = thread::scope(|scope| {
        let (node, first) = (&node, &first);
        scope.spawn(move || {
            let mut source = Source::new(&node.shelf).spoilt(|_, bytes| {
                begun.send(()).unwrap();
                // As long as a second stage that does not wait would need to ask.
                let _waits = was_asked.recv_timeout(Duration::from_millis(300));
                Ok(bytes)
            });
            node.versions.stage(&production(), first, &mut source, &GO).unwrap();
        });
        has_begun.recv().unwrap();
        let mut source = Source::new(&node.shelf).spoilt(|_, bytes| {
            let _first_has_ended = asked.send(());
            Ok(bytes)
        });
        node.versions.stage(&env("testing"), &second, &mut source, &GO).unwrap();
        source.asked[0].0.clone()
    });
    assert_eq!(second_held, [first]);
    assert_eq!(read(&node.versions.resolve(&env("testing"), &second)), other);
}

#[test]
fn an_environment_that_equals_another_one_is_linked_from_it() {
    let node = Node::new();
    let digest = node.deploy(&sample());
    let mut source = Source::new(&node.shelf);
    let staged = node.versions.stage(&env("testing"), &digest, &mut source, &GO).unwrap();
    assert_eq!((source.asked.len(), staged.fetched_bytes), (0, 0));
    assert_eq!(read(&node.versions.resolve(&env("testing"), &digest)), sample());
}
