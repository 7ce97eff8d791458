//! F22: the controller is killed at each step of a rotation of the mesh CA; and what a node says that cannot come back
//! by itself.

use std::fs;

use bunraku_tests::fleet::{CA_PHASES, until};

use super::{
    Case,
    world::{ENVIRONMENT, NODES, World},
};

const YEAR: i64 = 365 * 24 * 3600;

pub(crate) fn cases() -> Vec<Case> {
    let of_phases = CA_PHASES.iter().enumerate().flat_map(|(number, phase)| {
        ["before", "after"].map(|when| {
            let name = format!("f22 the controller is killed {when} phase {phase} of a rotation of its CA");
            Case::new(name, killed_at(number, format!("{when}:ca-rotation-moved"), when == "after"))
        })
    });
    // The files: the successor is made before the announcement, and moved after the retirement.
    let of_files = [(0, "ca-next-made", false), (3, "ca-file-moved", true), (3, "ca-file-moved:2", true)];
    let of_files = of_files.map(|(number, at, journalled)| {
        Case::new(
            format!("f22 the controller is killed at {at}"),
            killed_at(number, at.to_owned(), journalled),
        )
    });
    let dead_ends = [
        Case::new("f22_the_key_is_lost_and_the_agent_says_the_exact_token_command", key_lost()),
        Case::new(
            "f22_the_ca_was_retired_meanwhile_and_the_agent_says_the_exact_token_command",
            ca_retired(),
        ),
        Case::new("f22_a_clock_is_wrong_during_a_rotation_which_waits_for_it", clock_wrong()),
    ];
    of_phases.chain(of_files).chain(dead_ends).collect()
}

async fn moved(world: &World) -> usize {
    world.journal().await.count("ca-rotation-moved")
}

/// The phases from this one on, each as soon as nobody but these is waited for.
async fn rotate_from(world: &World, first: usize, leave: &[&str]) {
    for phase in &CA_PHASES[first..] {
        world.main().until_ready_but_for(leave).await;
        world.main().rotate_ca(phase, leave).await.unwrap();
    }
}

async fn killed_at(number: usize, at: String, journalled: bool) {
    let mut world = World::with_a_live().await;
    let first = world.main().ca().await.pin;
    for phase in &CA_PHASES[..number] {
        world.main().until_ready_but_for(&[]).await;
        world.main().rotate_ca(phase, &[]).await.unwrap();
    }
    world.main().until_ready_but_for(&[]).await;
    world.kill("controller");
    world.start("controller", Some(&at)).await;
    world.main().rotate_ca(CA_PHASES[number], &[]).await.unwrap_err();
    world.until_dead("controller").await;
    world.start("controller", None).await;
    for node in NODES {
        world.main().until_connected(node).await;
    }
    // It goes on where the journal says.
    let done = number + usize::from(journalled);
    assert_eq!(moved(&world).await, done);
    let next = world.main().ca().await.next_phase;
    assert_eq!(next, CA_PHASES[done % CA_PHASES.len()]);
    rotate_from(&world, done, &[]).await;
    assert_eq!(moved(&world).await, CA_PHASES.len());
    let now = world.main().ca().await;
    assert!(now.pin != first && now.anchors == [now.pin.clone()], "{now:?}");
    assert!(!world.main().config().data_dir.join("ca/next").exists());
    let new = world.deploy("B").await;
    world.holds(new).await;
}

/// The agent's log has a line with all of this.
async fn until_it_says(world: &World, node: &str, parts: &[&str]) {
    until(&format!("{node} says {parts:?}"), || async {
        let said = fs::read_to_string(world.log(node)).unwrap_or_default();
        said.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    })
    .await;
}

const TOKEN_COMMAND: &str = "hint: on the controller: bunraku token create c1 --role compiler";

/// As `holds`, but for the journal: a node that enrolled anew proves what it serves once more.
async fn goes_on(mut world: World) {
    let new = world.deploy("B").await;
    world.until_all_serve(new).await;
    for node in NODES {
        let served = world.node(node).puppet_server().history(ENVIRONMENT);
        assert_eq!(served, world.old.into_iter().chain([new]).collect::<Vec<_>>(), "I5: {node}");
    }
    world.audit_verifies();
    for who in ["c1", "c2", "controller"] {
        world.kill(who);
    }
    world.end().await;
}

async fn key_lost() {
    let mut world = World::with_a_live().await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    world.node("c1").lose_identity();
    world.spawn("c1", None);
    until_it_says(&world, "c1", &["this node has no identity yet", TOKEN_COMMAND]).await;
    world.nothing_has_changed();
    world.node("c1").enrol(world.main()).await;
    world.main().until_connected("c1").await;
    goes_on(world).await;
}

async fn ca_retired() {
    let mut world = World::with_a_live().await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    rotate_from(&world, 0, &["c1"]).await;
    world.spawn("c1", None);
    until_it_says(&world, "c1", &["mesh CA that no longer counts", TOKEN_COMMAND]).await;
    world.nothing_has_changed();
    world.node("c1").enrol(world.main()).await;
    world.main().until_connected("c1").await;
    assert_eq!(world.node("c1").set_aside(), 0, "it is the same fleet");
    goes_on(world).await;
}

/// By its clock no certificate is good. When the clock is right it needs nobody.
async fn clock_wrong() {
    let mut world = World::with_a_live().await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    world.set_clock("c1", -YEAR);
    world.spawn("c1", None);
    until_it_says(&world, "c1", &["by this host's clock", "hint: "]).await;
    world.main().rotate_ca("announce", &[]).await.unwrap();
    world.main().until_ready_but_for(&["c1"]).await;
    let refused = world.main().rotate_ca("overlap", &[]).await.unwrap_err();
    assert!(refused.message().contains("c1 has not heard of the new CA yet"), "{refused}");
    world.set_clock("c1", 0);
    world.main().until_connected("c1").await;
    rotate_from(&world, 1, &[]).await;
    let new = world.deploy("B").await;
    world.holds(new).await;
}
