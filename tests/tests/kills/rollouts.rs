//! F3: the controller, a compiler's agent and the balancer's agent are killed at each step of a rolling restart. Puppet
//! Server is a process that counts its starts.

use std::fs;

use bunraku_proto::v1;
use bunraku_tests::fleet::{end_services, left, restart, turn, until};

use super::{
    Case,
    world::{BALANCER, NODES, World},
};

/// A turn: preparing, settling, draining, acting, verifying, enabling, releasing, baking, done.
const MOVES_OF_A_TURN: usize = 9;
/// On the compiler: the orders to prepare, hold, act, verify and release, and what the act does.
const COMPILER: [&str; 12] = [
    "turn-admitted",
    "turn-admitted:2",
    "hold-noted",
    "hold-disabled",
    "turn-admitted:3",
    "turn-written",
    "turn-act-noted",
    "turn-act-done",
    "turn-written:2",
    "turn-admitted:4",
    "turn-admitted:5",
    "hold-enabled",
];
/// On the balancer: the drain, and what follows.
const DRAIN: [&str; 6] = [
    "balance-admitted",
    "balancer-written",
    "balance-remembered",
    "haproxy-told",
    "haproxy-saved:2",
    "balance-done",
];

pub(crate) fn cases() -> Vec<Case> {
    let moves = (1..=MOVES_OF_A_TURN).map(|number| format!("turn-moved:{number}"));
    let facts =
        ["rollout-started", "balance-wanted", "rollout-ended"].map(str::to_owned).into_iter().chain(moves);
    let controller = facts.flat_map(|fact| ["before", "after"].map(|when| format!("{when}:{fact}")));
    let controller = controller
        .map(|at| Case::new(format!("f3 the controller is killed {at} of a rollout"), controller_killed(at)));
    let agents = COMPILER.map(|at| ("c1", at)).into_iter().chain(DRAIN.map(|at| (BALANCER, at)));
    let agents = agents.map(|(who, at)| {
        Case::new(format!("f3 the agent of {who} is killed at {at} of a rollout"), agent_killed(who, at))
    });
    controller.chain(agents).collect()
}

async fn controller_killed(at: String) {
    let mut world = World::balanced().await;
    world.kill("controller");
    world.start("controller", Some(&at)).await;
    for node in NODES.into_iter().chain([BALANCER]) {
        world.main().until_connected(node).await;
    }
    for node in NODES {
        world.main().until_balanced(node, "in service").await;
    }
    let acknowledged = world.main().start_rollout(restart()).await.ok();
    world.until_dead("controller").await;
    assert!(world.in_service().await >= 1, "I3");
    world.start("controller", None).await;
    let known = world.main().client().list_rollouts(v1::ListRolloutsRequest::default()).await;
    let known = known.unwrap().into_inner().rollouts;
    assert!(acknowledged.is_none() || !known.is_empty(), "I6: it was acknowledged");
    if known.is_empty() {
        for node in NODES.into_iter().chain([BALANCER]) {
            world.main().until_connected(node).await;
        }
        for node in NODES {
            world.main().until_balanced(node, "in service").await;
        }
        world.main().start_rollout(restart()).await.unwrap();
    }
    ends_well(world).await;
}

async fn agent_killed(who: &'static str, at: &'static str) {
    let mut world = World::balanced().await;
    world.kill(who);
    world.main().until_gone(who).await;
    world.start(who, Some(at)).await;
    for node in NODES {
        world.main().until_balanced(node, "in service").await;
    }
    world.main().start_rollout(restart()).await.unwrap();
    world.until_dead(who).await;
    assert!(world.in_service().await >= 1, "I3");
    world.start(who, None).await;
    ends_well(world).await;
}

/// It ends (I7), each server was started once (I5), nothing stays drained or disabled.
async fn ends_well(mut world: World) {
    let retried = until_over(&world).await;
    for node in NODES {
        let starts = left(world.node(node), "did");
        assert!(starts.len() == 1 || (retried && starts.len() == 2), "I5: {node} {starts:?}");
        world.main().until_balanced(node, "in service").await;
        assert!(
            !world.node(node).dir().join("disabled.lock").exists(),
            "{node} may run its Puppet agent again"
        );
        let left = fs::read_dir(world.node(node).config().data_dir.join("turns")).unwrap();
        let left = left.filter(|entry| entry.as_ref().unwrap().file_name() == "hold.json").count();
        assert_eq!(left, 0, "{node} notes a hold");
    }
    assert_eq!(world.in_service().await, NODES.len());
    world.audit_verifies();
    for who in ["c1", "c2", BALANCER, "controller"] {
        world.kill(who);
    }
    NODES.iter().for_each(|node| end_services(world.node(node)));
    world.end().await;
}

/// Waits until the rollout has ended. One that paused says why, and is retried, once.
async fn until_over(world: &World) -> bool {
    let look = || async { world.main().rollout(1).await };
    until("the rollout has ended or paused", || async {
        matches!(look().await.phase.as_str(), "done" | "paused")
    })
    .await;
    let paused = look().await;
    if paused.phase == "done" {
        return false;
    }
    let failed: Vec<_> = paused.turns.iter().filter(|turn| turn.phase == "failed").collect();
    assert!(!failed.is_empty(), "{paused:#?}");
    for node in failed.iter().map(|turn| turn.node.clone()) {
        assert!(!turn(&paused, &node).reason.is_empty(), "{paused:#?}");
        world.main().client().retry_turn(v1::TurnRequest { id: 1, node }).await.unwrap();
    }
    world.main().until_rollout(1, "done").await;
    true
}
