//! A stage, a swap or a spare that stops at any step leaves nothing that counts, and the next one succeeds.
//! `cargo test -p bunraku-versions --features failpoints --test interrupted`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "versions/fixture.rs"]
#[allow(dead_code)]
mod fixture;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use bunraku_versions::{
    Prepared,
    testing::{Source, files},
};
use fail::FailScenario;
use fixture::{GO, Node, always, production, read};

/// Fails by error and by panic (the nearest to a kill in one process), with a restart after the panic.
fn at(point: &str, spare: bool, work: impl Fn(&Node) -> bool, check: impl Fn(&Node)) {
    let scenario = FailScenario::setup();
    for action in ["return", "panic"] {
        let mut node = Node::new();
        node.deploy_text(&[("a", "1"), ("d/b", "1")]);
        if spare {
            node.prepare_spare();
        }
        fail::cfg(point, action).unwrap();
        let done = catch_unwind(AssertUnwindSafe(|| work(&node)));
        fail::remove(point);
        assert!(!matches!(done, Ok(true)), "{point} was not reached");
        if action == "panic" {
            node.reopen();
        }
        check(&node);
    }
    scenario.teardown();
}

fn interrupted_stage(point: &str) {
    let new = [("a", "2"), ("d/b", "1"), ("e", "new")];
    for spare in [true, false] {
        at(
            point,
            spare,
            |node| node.stage(&node.shelf.put(&files(&new))).is_ok(),
            |node| {
                let live = node.versions.live(&production()).unwrap();
                node.nothing_counts_but(&[live]);
                assert_eq!(node.served(), files(&[("a", "1"), ("d/b", "1")]));
                node.deploy_text(&new);
                assert_eq!(node.served(), files(&new));
                assert_eq!(read(&node.version(&live)), files(&[("a", "1"), ("d/b", "1")]));
            },
        );
    }
}

#[test]
fn a_stage_interrupted_while_fetching() {
    interrupted_stage("stage-fetch");
}

#[test]
fn a_stage_interrupted_while_writing() {
    interrupted_stage("stage-write");
}

#[test]
fn a_stage_interrupted_before_it_is_on_disk() {
    interrupted_stage("stage-sync");
}

#[test]
fn a_stage_interrupted_before_the_seal() {
    interrupted_stage("stage-seal");
}

fn interrupted_swap(point: &str, served: &str) {
    at(
        point,
        true,
        |node| {
            let new = node.shelf.put(&files(&[("a", "2"), ("d/b", "1")]));
            node.stage(&new).unwrap();
            node.versions.swap(&production(), &new, false, 0).is_ok()
        },
        |node| {
            assert_eq!(node.served(), files(&[("a", served), ("d/b", "1")]));
            let live = node.versions.live(&production()).unwrap();
            assert!(node.versions.is_sealed(&production(), &live));
            node.deploy_text(&[("a", "2"), ("d/b", "1")]);
            assert_eq!(node.served(), files(&[("a", "2"), ("d/b", "1")]));
        },
    );
}

#[test]
fn a_swap_interrupted_before_the_rename_serves_the_old_code() {
    interrupted_swap("swap-before", "1");
}

#[test]
fn a_swap_interrupted_after_the_rename_serves_the_new_code() {
    interrupted_swap("swap-after", "2");
}

#[test]
fn a_spare_interrupted_before_its_seal_does_not_count() {
    at(
        "spare",
        false,
        |node| node.versions.prepare_spare(&production(), None, &GO).is_ok(),
        |node| {
            assert!(!node.root().join("spare/production").exists());
            assert_eq!(node.prepare_spare(), Prepared::Linked);
            node.deploy_text(&[("a", "2"), ("d/b", "1")]);
            assert_eq!(node.served(), files(&[("a", "2"), ("d/b", "1")]));
        },
    );
}

#[test]
fn an_adoption_interrupted_after_the_exchange_loses_no_file() {
    let scenario = FailScenario::setup();
    for action in ["return", "panic"] {
        let mut node = Node::new();
        let directory = node.dir.path().join("environments/production");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("mine"), "kept").unwrap();
        let new = node.shelf.put(&files(&[("a", "1")]));
        node.stage(&new).unwrap();
        fail::cfg("swap-exchanged", action).unwrap();
        let done =
            catch_unwind(AssertUnwindSafe(|| node.versions.swap(&production(), &new, true, 0).is_ok()));
        fail::remove("swap-exchanged");
        assert!(!matches!(done, Ok(true)));
        node.reopen();
        assert_eq!(node.served(), files(&[("a", "1")]));
        let kept = node.root().join("adopted/production-1/mine");
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "kept");
    }
    scenario.teardown();
}

#[test]
fn a_commit_does_not_wait_for_a_heal_that_hashes_and_the_heal_then_leaves_the_new_version_alone() {
    let scenario = FailScenario::setup();
    let node = Arc::new(Node::new());
    let old = node.deploy_text(&[("a", "1")]);
    let new = node.shelf.put(&files(&[("a", "2")]));
    node.stage(&new).unwrap();
    std::fs::write(node.version(&old).join("a"), "spoilt").unwrap();
    let (done, swapped) = mpsc::channel();
    let (done, swapped) = (Mutex::new(done), Mutex::new(swapped));
    let beside = node.clone();
    fail::cfg_callback("heal-hashed", move || {
        let (node, done) = (beside.clone(), done.lock().unwrap().clone());
        std::thread::spawn(move || {
            node.versions.swap(&production(), &new, false, 0).unwrap();
            done.send(()).unwrap();
        });
        let waited = swapped.lock().unwrap().recv_timeout(Duration::from_secs(20));
        waited.expect("the commit has its turn while the heal hashes");
    })
    .unwrap();
    let healed = node.versions.heal(&production(), &mut Source::new(&node.shelf), &GO, always);
    fail::remove("heal-hashed");
    assert!(healed.unwrap_err().to_string().contains("went to another version meanwhile"));
    assert_eq!(node.served(), files(&[("a", "2")]));
    scenario.teardown();
}
