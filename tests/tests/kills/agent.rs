//! F2: an agent is killed at each step of a deploy on its node.

use std::fs;

use super::{
    Case,
    world::{ENVIRONMENT, World},
};

/// Before the controller has decided: `c1` comes back, stages, and the deploy goes on.
const STAGING: [&str; 8] = [
    "stage-admitted",
    "memory-written",
    "stage-fetch",
    "stage-write",
    "stage-sync",
    "stage-seal",
    "stage-fetched",
    "stage-rehearsed",
];
/// After the decision: `c1` comes back and ends on it, whatever it had done.
const COMMITTING: [&str; 10] = [
    "commit-admitted",
    "memory-written:2",
    "commit-owed",
    "swap-before",
    "swap-after",
    "commit-swapped",
    "commit-flushed",
    "commit-proven",
    "memory-written:3",
    "commit-reported",
];
/// A first deploy where a real directory stands in the way.
const ADOPTING: [&str; 3] = ["swap-before", "swap-exchanged", "swap-after"];

pub(crate) fn cases() -> Vec<Case> {
    let staging = STAGING.map(|at| Case::new(format!("f2 an agent is killed at {at}"), killed_at(at, false)));
    let committing =
        COMMITTING.map(|at| Case::new(format!("f2 an agent is killed at {at}"), killed_at(at, true)));
    let adopting = ADOPTING.map(|at| {
        Case::new(format!("f2 an agent is killed at {at} of an adoption"), killed_while_it_adopts(at))
    });
    let spare =
        Case::new("f2 an agent is killed while it prepares a spare", killed_while_it_prepares_a_spare());
    staging.into_iter().chain(committing).chain(adopting).chain([spare]).collect()
}

async fn killed_at(at: &'static str, decided: bool) {
    let mut world = World::with_a_live().await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    world.start("c1", Some(at)).await;
    let deploy = world.ask_for("B").await.unwrap();
    world.until_dead("c1").await;
    if !decided {
        world.main().until_gone("c1").await;
        world.nothing_has_changed();
    }
    world.start("c1", None).await;
    let new = world.until_live(deploy).await;
    world.until_all_serve(new).await;
    let [c1, c2] = world.flushes();
    assert_eq!(c2, 1, "I5: the other node swaps and flushes once");
    assert!((1..=2).contains(&c1), "a flush whose answer was lost is asked again, once: {c1}");
    world.holds(new).await;
}

async fn killed_while_it_adopts(at: &'static str) {
    let mut world = World::empty().await;
    let directory = world.node("c1").environment(ENVIRONMENT);
    fs::create_dir_all(directory.join("manifests")).unwrap();
    fs::write(directory.join("manifests/site.pp"), "# from r10k\n").unwrap();
    fs::write(directory.join("local.txt"), "not in git").unwrap();
    for (who, crash_at) in [("controller", None), ("c1", Some(at)), ("c2", None)] {
        world.start(who, crash_at).await;
    }
    let deploy = world.ask_for("B").await.unwrap();
    world.until_dead("c1").await;
    world.start("c1", None).await;
    let new = world.until_live(deploy).await;
    world.until_all_serve(new).await;
    let kept = world.node("c1").code("adopted/production-1");
    assert_eq!(fs::read_to_string(kept.join("local.txt")).unwrap(), "not in git");
    assert_eq!(fs::read_to_string(kept.join("manifests/site.pp")).unwrap(), "# from r10k\n");
    world.holds(new).await;
}

/// Nobody waits for a spare: the deploy is over, and the next one goes well without it.
async fn killed_while_it_prepares_a_spare() {
    let mut world = World::with_a_live().await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    world.start("c1", Some("spare")).await;
    let deploy = world.ask_for("B").await.unwrap();
    world.until_dead("c1").await;
    world.start("c1", None).await;
    let new = world.until_live(deploy).await;
    world.holds(new).await;
}
