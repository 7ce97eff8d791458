//! F1: the controller is killed at each step of a deploy.

use std::fs::{self, File};

use super::{
    Case,
    world::{ENVIRONMENT, World, running_below},
};

/// What a deploy journals, in this order. A count: the node that comes second.
const STEPS: [&str; 9] = [
    "deploy-requested",
    "build-started",
    "staging-started",
    "node-staged",
    "node-staged:2",
    "commit-decided",
    "node-proven",
    "node-proven:2",
    "deploy-ended",
];
/// The step from which on there is no way back.
const DECISION: usize = 5;

pub(crate) fn cases() -> Vec<Case> {
    let steps = STEPS.iter().enumerate().flat_map(|(step, fact)| {
        let case = |when: &str| {
            let at = format!("{when}:{fact}");
            let decided = step > DECISION || (step == DECISION && when == "after");
            Case::new(format!("f1 the controller is killed {at}"), killed_at(at, decided))
        };
        [case("before"), case("after")]
    });
    let others = [
        Case::new("f1 the controller is killed before:term-began", killed_at_its_start("before:term-began")),
        Case::new("f1 the controller is killed after:term-began", killed_at_its_start("after:term-began")),
        Case::new("f1 the controller is killed while it builds", killed_while_it_builds()),
        Case::new("f1 the controller is killed while a node stages", killed_while_a_node_stages()),
        Case::new(
            "f1 the controller is killed between a commit order and its answer",
            killed_while_a_node_commits(),
        ),
    ];
    steps.chain(others).collect()
}

async fn killed_at(at: String, decided: bool) {
    let mut world = World::with_a_live().await;
    world.kill("controller");
    world.start("controller", Some(&at)).await;
    let acknowledged = world.ask_for("B").await;
    world.until_dead("controller").await;
    if !decided {
        world.nothing_has_changed();
    }
    world.start("controller", None).await;

    let journal = world.journal().await;
    let is_journalled = journal.count("deploy-requested") == 2;
    // A request and its first step are one batch.
    assert_eq!(is_journalled, !["before:deploy-requested", "before:build-started"].contains(&at.as_str()));
    let deploy = match (is_journalled, acknowledged) {
        (false, acknowledged) => {
            assert_eq!(acknowledged, None, "I6: what is not journalled was not acknowledged");
            world.main().ask_deploy(ENVIRONMENT).await.unwrap()
        }
        (true, Some(acknowledged)) => {
            assert_eq!(journal.newest_deploy(), acknowledged, "I6");
            acknowledged
        }
        (true, None) => journal.newest_deploy(),
    };
    let new = world.until_live(deploy).await;
    world.until_all_serve(new).await;
    assert_eq!(world.flushes(), [1, 1], "I5: each node swaps and flushes once");
    world.holds(new).await;
}

/// What it began when it died it begins again, with another term.
async fn killed_at_its_start(at: &str) {
    let mut world = World::with_a_live().await;
    world.kill("controller");
    world.spawn("controller", Some(at));
    world.until_dead("controller").await;
    world.nothing_has_changed();
    world.start("controller", None).await;
    let new = world.deploy("B").await;
    world.holds(new).await;
}

/// The builder outlives the controller; the next one ends it before it builds.
async fn killed_while_it_builds() {
    let mut world = World::with_a_live().await;
    let (hold, builder) = (world.path("hold"), world.path("slow-g10k"));
    fs::write(
        &builder,
        format!("#!/bin/sh\nwhile [ -e '{}' ]; do sleep 0.05; done\nexec g10k \"$@\"\n", hold.display()),
    )
    .unwrap();
    std::os::unix::fs::chown(&builder, Some(0), Some(0)).unwrap();
    fs::set_permissions(&builder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    File::create(&hold).unwrap();
    world.kill("controller");
    world.main_mut().config_mut().build.g10k = builder;
    world.start("controller", None).await;

    let deploy = world.ask_for("B").await.unwrap();
    let build = world.main().config().build.root.clone();
    let builds = || running_below(&build).iter().filter(|program| program.contains("slow-g10k")).count();
    bunraku_tests::fleet::until("the builder runs", || async { builds() == 1 }).await;
    world.kill("controller");
    world.nothing_has_changed();
    assert_eq!(builds(), 1, "nobody ended the builder");
    world.start("controller", None).await;
    bunraku_tests::fleet::until("the old builder is ended and a new one runs", || async { builds() == 1 })
        .await;
    fs::remove_file(&hold).unwrap();

    let new = world.until_live(deploy).await;
    assert_eq!(builds(), 0, "I7: a builder is left over");
    world.holds(new).await;
}

async fn killed_while_a_node_stages() {
    let mut world = World::with_a_live().await;
    world.node("c1").puppet_server().set_mood(bunraku_tests::fleet::Mood::Stuck);
    let deploy = world.ask_for("B").await.unwrap();
    bunraku_tests::fleet::until("c2 has staged", || async {
        world.journal().await.count("node-staged") == 3
    })
    .await;
    world.kill("controller");
    world.nothing_has_changed();
    world.node("c1").puppet_server().set_mood(bunraku_tests::fleet::Mood::Running);
    world.start("controller", None).await;
    let new = world.until_live(deploy).await;
    world.holds(new).await;
}

/// The order is on the node, which waits for its lock: a `code-id` holds it.
async fn killed_while_a_node_commits() {
    let mut world = World::with_a_live().await;
    let lock = world.node("c1").config().data_dir.join("locks").join(format!("{ENVIRONMENT}.lock"));
    let lock = File::options().create(true).truncate(false).write(true).open(lock).unwrap();
    lock.lock_shared().unwrap();
    let deploy = world.ask_for("B").await.unwrap();
    bunraku_tests::fleet::until("c2 is proven", || async { world.journal().await.count("node-proven") == 3 })
        .await;
    world.kill("controller");
    assert_eq!(world.node("c1").live(ENVIRONMENT), world.old, "c1 waits");
    world.start("controller", None).await;
    world.main().until_connected("c1").await;
    drop(lock);
    let new = world.until_live(deploy).await;
    world.until_all_serve(new).await;
    assert_eq!(world.flushes(), [1, 1], "I5: the order that is under way and the same one again are one");
    world.holds(new).await;
}
