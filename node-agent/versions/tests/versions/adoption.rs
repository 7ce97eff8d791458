//! An existing directory or foreign link becomes a managed link.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use bunraku_common::Digest;
use bunraku_versions::{ForeignFile, Replaced, VersionsError, testing::files};

use crate::fixture::{GO, Node, fingerprint, production};

/// A node with a real directory, as r10k leaves it, and a staged snapshot.
fn unmanaged() -> (Node, Digest) {
    let node = Node::new();
    let directory = node.dir.path().join("environments/production");
    for (path, content) in [
        ("environment.conf", "same"),
        ("manifests/site.pp", "edited by hand"),
        ("modules/local/init.pp", "not in git"),
        ("notes.txt", "not in git"),
        (".git/config", "git"),
        (".resource_types/x.pp", "generated"),
    ] {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let digest = node.shelf.put(&files(&[
        ("environment.conf", "same"),
        ("manifests/site.pp", "from git"),
        ("new", "x"),
    ]));
    node.stage(&digest).unwrap();
    (node, digest)
}

#[test]
fn what_is_not_in_the_snapshot_is_named_before_anything_is_replaced() {
    let (node, digest) = unmanaged();
    assert!(node.versions.unmanaged(&production()));
    assert_eq!(
        node.versions.foreign_files(&production(), &digest).unwrap(),
        [
            ForeignFile { path: "manifests/site.pp".into(), edited: true },
            ForeignFile { path: "modules/".into(), edited: false },
            ForeignFile { path: "notes.txt".into(), edited: false },
        ]
    );
}

#[test]
fn without_leave_a_directory_stays_and_the_error_says_what_to_do() {
    let (node, digest) = unmanaged();
    let before = fingerprint(&node.dir.path().join("environments"));
    let refused = node.versions.swap(&production(), &digest, false, 0).unwrap_err();
    assert!(matches!(refused, VersionsError::DirectoryInTheWay { .. }));
    assert!(refused.to_string().contains("hint: "), "{refused}");
    assert_eq!(fingerprint(&node.dir.path().join("environments")), before);
}

#[test]
fn a_directory_is_adopted_without_losing_a_file_and_without_a_gap() {
    let (node, digest) = unmanaged();
    let live = node.dir.path().join("environments/production");
    let before = contents(&live);
    let (stop, polls) = (AtomicBool::new(false), AtomicU64::new(0));
    let swapped = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let text = fs::read_to_string(live.join("environment.conf"));
                assert_eq!(text.expect("the path is never missing"), "same");
                polls.fetch_add(1, Ordering::SeqCst);
            }
        });
        let wait_for = |more: u64| {
            let target = polls.load(Ordering::SeqCst) + more;
            while polls.load(Ordering::SeqCst) < target && !reader.is_finished() {
                thread::yield_now();
            }
        };
        wait_for(100);
        let swapped = node.versions.swap(&production(), &digest, true, 0).unwrap();
        wait_for(100);
        stop.store(true, Ordering::SeqCst);
        swapped
    });
    let Replaced::Directory(kept) = swapped.replaced else { panic!("{swapped:?}") };
    assert_eq!(kept, node.root().join("adopted/production-1"));
    assert_eq!(contents(&kept), before);
    assert_eq!(node.versions.live(&production()), Some(digest));
    assert!(!node.versions.unmanaged(&production()));
    assert_eq!(
        node.served(),
        files(&[("environment.conf", "same"), ("manifests/site.pp", "from git"), ("new", "x")])
    );
}

#[test]
fn a_second_adoption_keeps_the_first() {
    let (node, digest) = unmanaged();
    node.versions.swap(&production(), &digest, true, 0).unwrap();
    let live = node.dir.path().join("environments/production");
    fs::remove_file(&live).unwrap();
    fs::create_dir(&live).unwrap();
    fs::write(live.join("second"), "2").unwrap();
    let swapped = node.versions.swap(&production(), &digest, true, 0).unwrap();
    assert_eq!(swapped.replaced, Replaced::Directory(node.root().join("adopted/production-2")));
    assert!(node.root().join("adopted/production-1/notes.txt").exists());
    assert!(node.root().join("adopted/production-2/second").exists());
}

#[test]
fn an_adoption_that_was_killed_after_the_exchange_loses_nothing_either() {
    let (mut node, digest) = unmanaged();
    let environments = node.dir.path().join("environments");
    let before = contents(&environments.join("production"));
    // What the exchange leaves: the link under the name, the directory under the temporary one.
    fs::rename(environments.join("production"), environments.join(".production.bunraku")).unwrap();
    symlink(node.version(&digest), environments.join("production")).unwrap();
    node.reopen();
    assert_eq!(contents(&node.root().join("adopted/production-1")), before);
    assert!(!environments.join(".production.bunraku").exists());
    assert_eq!(node.versions.live(&production()), Some(digest));
}

#[test]
fn a_foreign_link_is_replaced_and_its_target_left_alone() {
    let (node, digest) = unmanaged();
    let environments = node.dir.path().join("environments");
    let elsewhere = node.dir.path().join("elsewhere");
    fs::rename(environments.join("production"), &elsewhere).unwrap();
    let before = fingerprint(&elsewhere);
    symlink("../elsewhere", environments.join("production")).unwrap();
    assert_eq!(node.versions.live(&production()), None);
    let swapped = node.versions.swap(&production(), &digest, false, 0).unwrap();
    assert_eq!(swapped.replaced, Replaced::ForeignLink("../elsewhere".into()));
    assert_eq!(fingerprint(&elsewhere), before);
    assert_eq!(node.versions.live(&production()), Some(digest));
}

#[test]
fn a_file_in_the_way_is_an_error_that_says_what_to_do() {
    let (node, digest) = unmanaged();
    let live = node.dir.path().join("environments/production");
    fs::remove_dir_all(&live).unwrap();
    fs::write(&live, "a file").unwrap();
    let refused = node.versions.swap(&production(), &digest, true, 0).unwrap_err();
    assert!(refused.to_string().contains("hint: "), "{refused}");
    assert_eq!(fs::read_to_string(&live).unwrap(), "a file");
}

#[test]
fn a_reader_never_sees_a_missing_or_mixed_environment_while_versions_change() {
    let node = Node::new();
    let text = |n: usize| files(&[("a", &n.to_string()), ("b", &n.to_string())]);
    node.deploy(&text(0));
    let live = node.dir.path().join("environments/production");
    let (stop, swaps) = (AtomicBool::new(false), 60);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                // As Puppet with versioned_environment_dirs: the link is read once.
                let version = fs::read_link(&live).expect("the link is never missing");
                let read = |name: &str| fs::read_to_string(version.join(name)).expect("a version is whole");
                assert_eq!(read("a"), read("b"));
            }
        });
        for n in 1..swaps {
            node.deploy(&text(n));
            node.versions.prepare_spare(&production(), None, &GO).unwrap();
            assert!(!reader.is_finished(), "the reader saw something wrong");
        }
        stop.store(true, Ordering::SeqCst);
    });
}

fn contents(root: &Path) -> Vec<(String, u32, u64, Vec<u8>)> {
    let found = fingerprint(root).into_iter().filter(|(path, _)| path != root);
    found
        .map(|(path, (mode, inode, _, _, content))| {
            let inner = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            (inner, mode, inode, content)
        })
        .collect()
}
