//! F21: an agent is killed at each step of putting a CRL in place, and the controller at each step of sending one out.
//! Whoever reads a node's file meets only whole ones, each newer than the one before (I11).

use bunraku_tests::fleet::Fleet;

use super::{
    Case,
    world::{NODES, World},
};

const ON_A_NODE: [&str; 6] =
    ["crl-admitted", "crl-copied", "crl-remembered", "crl-written", "crl-renamed", "crl-placed"];
const ON_THE_CONTROLLER: [&str; 3] = ["before:crl-wanted", "after:crl-wanted", "after:crl-on-node"];

pub(crate) fn cases() -> Vec<Case> {
    let on_a_node =
        ON_A_NODE.map(|at| Case::new(format!("f21 an agent is killed at {at}"), agent_killed_at(at)));
    let on_the_controller = ON_THE_CONTROLLER.map(|at| {
        Case::new(format!("f21 the controller is killed {at} of a revocation"), controller_killed(at))
    });
    on_a_node.into_iter().chain(on_the_controller).collect()
}

async fn until_all_have(world: &World, number: u64) {
    for node in NODES {
        world.node(node).until_crl(number).await;
        world.main().until_crl_on(node, "delivered, not proven").await;
    }
}

/// Both nodes have the CRL of number 1.
async fn world() -> World {
    let mut world = World::of(Fleet::new().puppet_door().nodes(NODES.len()).up().await).await;
    for who in ["controller", "c1", "c2"] {
        world.start(who, None).await;
    }
    world.fleet().write_crl(1, &[77]);
    until_all_have(&world, 1).await;
    world
}

async fn agent_killed_at(at: &'static str) {
    let mut world = world().await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    world.start("c1", Some(at)).await;
    let observed = NODES.map(|node| world.node(node).observe_crl());
    world.fleet().write_crl(2, &[77, 78]);
    world.until_dead("c1").await;
    world.node("c2").until_crl(2).await;
    assert!(matches!(world.node("c1").crl(), Some(1 | 2)), "I11: {:?}", world.node("c1").crl());
    world.start("c1", None).await;
    holds(world, observed).await;
}

async fn controller_killed(at: &'static str) {
    let mut world = world().await;
    world.kill("controller");
    world.start("controller", Some(at)).await;
    for node in NODES {
        world.main().until_connected(node).await;
    }
    let observed = NODES.map(|node| world.node(node).observe_crl());
    world.fleet().write_crl(2, &[77, 78]);
    world.until_dead("controller").await;
    world.start("controller", None).await;
    holds(world, observed).await;
}

async fn holds(mut world: World, observed: [bunraku_tests::fleet::Observed; 2]) {
    until_all_have(&world, 2).await;
    for observed in observed {
        assert_eq!(observed.end(), [Some(1), Some(2)], "I11: whoever read the file met nothing else");
    }
    // Of the first file, and of the two changes: each decided once, whoever was killed.
    let audit = world.main().audit().await;
    assert_eq!(audit.iter().filter(|record| record.kind == "crl-wanted").count(), 3);
    world.ends_whole().await;
    world.end().await;
}
