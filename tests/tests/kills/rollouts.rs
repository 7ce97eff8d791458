//! F3: the controller, a compiler's agent and the balancer's agent are killed at each step of a rolling restart, and the
//! controller when people pause, resume and abort one. Puppet Server is a process that counts its starts.

use std::fs;

use bunraku_proto::v1;
use bunraku_tests::fleet::{end_services, left, restart, turn, until};
use tonic::Status;

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
/// On the balancer: the drain of the first compiler, and its enable.
const BALANCER_AGENT: [&str; 13] = [
    "balance-admitted",
    "balancer-written",
    "balance-remembered",
    "haproxy-told",
    "haproxy-saved:2",
    "balance-done",
    "balance-admitted:2",
    "balancer-written:2",
    "balance-remembered:2",
    "haproxy-told:2",
    "haproxy-saved:3",
    "balance-done:2",
    "balancer-written:3",
];
/// Of a restart, moves aside: the drain, the enable, what HAProxy and Puppet's agent have done.
const FACTS: [&str; 6] = [
    "rollout-started",
    "balance-wanted",
    "balance-agreed",
    "balance-wanted:2",
    "puppet-released",
    "rollout-ended",
];
const JUDGED: &str = "turn-judged";
pub(crate) const WHEN: [&str; 2] = ["before", "after"];

pub(crate) fn cases() -> Vec<Case> {
    let moves = (1..=MOVES_OF_A_TURN).map(|number| format!("turn-moved:{number}"));
    let facts = FACTS.into_iter().chain([JUDGED]).map(str::to_owned).chain(moves);
    let controller = facts.flat_map(|fact| WHEN.map(|when| format!("{when}:{fact}")));
    let controller = controller
        .map(|at| Case::new(format!("f3 the controller is killed {at} of a rollout"), controller_killed(at)));
    let agents = COMPILER.map(|at| ("c1", at)).into_iter().chain(BALANCER_AGENT.map(|at| (BALANCER, at)));
    let agents = agents.map(|(who, at)| {
        Case::new(format!("f3 the agent of {who} is killed at {at} of a rollout"), agent_killed(who, at))
    });
    let commands = WHEN.into_iter().flat_map(|when| {
        let name = |done: &str| format!("f3 the controller is killed {when} a rollout is {done} by command");
        [
            Case::new(name("paused"), paused(when)),
            Case::new(name("resumed"), resumed(when)),
            Case::new(name("aborted"), aborted(when)),
        ]
    });
    controller.chain(agents).chain(commands).collect()
}

async fn controller_killed(at: String) {
    let mut world = controller_dies_at(&at).await;
    let asked = if at.ends_with(JUDGED) { judged() } else { restart() };
    let acknowledged = world.main().start_rollout(asked.clone()).await.ok();
    world.until_dead("controller").await;
    assert!(world.in_service().await >= 1, "I3");
    world.start("controller", None).await;
    let known = world.main().client().list_rollouts(v1::ListRolloutsRequest::default()).await;
    let known = known.unwrap().into_inner().rollouts;
    assert!(acknowledged.is_none() || !known.is_empty(), "I6: it was acknowledged");
    if known.is_empty() {
        until_in_service(&world).await;
        world.main().start_rollout(asked).await.unwrap();
    }
    ends_well(world).await;
}

pub(crate) async fn controller_dies_at(at: &str) -> World {
    let mut world = World::balanced().await;
    world.kill("controller");
    world.start("controller", Some(at)).await;
    until_in_service(&world).await;
    world
}

pub(crate) async fn until_in_service(world: &World) {
    for node in NODES.into_iter().chain([BALANCER]) {
        world.main().until_connected(node).await;
    }
    for node in NODES {
        world.main().until_balanced(node, "in service").await;
    }
}

/// By its numbers too. Nobody compiles anything here, so that nothing can be said of them.
fn judged() -> v1::RolloutRequest {
    v1::RolloutRequest {
        verdict: "siblings".to_owned(),
        bake_max_s: Some(0),
        on_inconclusive: "continue".to_owned(),
        ..restart()
    }
}

/// It is killed as it puts the command on record: what is not there has not been asked for, and what is there holds.
async fn dies_of(world: &mut World, fact: &str, when: &str, answer: Result<(), Status>) {
    assert!(answer.is_err(), "{fact} was acknowledged {when} it was on record");
    world.until_dead("controller").await;
    assert!(world.in_service().await >= 1, "I3");
    world.start("controller", None).await;
    assert_eq!(world.journal().await.count(fact), usize::from(when == "after"), "I6");
}

async fn pause(world: &World) -> Result<(), Status> {
    let request = v1::PauseRolloutRequest { id: 1, reason: "lunch".to_owned() };
    world.main().client().pause_rollout(request).await.map(drop)
}

async fn resume(world: &World) -> Result<(), Status> {
    world.main().client().resume_rollout(v1::ResumeRolloutRequest { id: 1 }).await.map(drop)
}

async fn abort(world: &World) -> Result<(), Status> {
    let request = v1::AbortRolloutRequest { id: 1, reason: "alarm".to_owned() };
    world.main().client().abort_rollout(request).await.map(drop)
}

async fn paused(when: &'static str) {
    let mut world = controller_dies_at(&format!("{when}:rollout-paused")).await;
    world.main().start_rollout(restart()).await.unwrap();
    let answer = pause(&world).await;
    dies_of(&mut world, "rollout-paused", when, answer).await;
    if when == "after" {
        let done = world.main().until_turn(1, "c1", "done").await;
        assert_eq!(done.reason, "", "a turn under way is finished");
        let paused = world.main().rollout(1).await;
        assert_eq!((paused.phase.as_str(), turn(&paused, "c2").phase.as_str()), ("paused", "waiting"));
        assert!(paused.reason.ends_with("lunch"), "{paused:#?}");
        resume(&world).await.unwrap();
    }
    ends_well(world).await;
}

async fn resumed(when: &'static str) {
    let mut world = controller_dies_at(&format!("{when}:rollout-resumed")).await;
    world.main().start_rollout(restart()).await.unwrap();
    pause(&world).await.unwrap();
    world.main().until_turn(1, "c1", "done").await;
    let answer = resume(&world).await;
    dies_of(&mut world, "rollout-resumed", when, answer).await;
    if when == "before" {
        assert_eq!(world.main().rollout(1).await.phase, "paused");
        resume(&world).await.unwrap();
    }
    ends_well(world).await;
}

/// While a compiler is out: it comes back, and no other turn begins.
async fn aborted(when: &'static str) {
    let mut world = controller_dies_at(&format!("{when}:rollout-aborting")).await;
    world.main().start_rollout(restart()).await.unwrap();
    until("c1 is out", || async { world.in_service().await == 1 }).await;
    let answer = abort(&world).await;
    dies_of(&mut world, "rollout-aborting", when, answer).await;
    if when == "before" {
        abort(&world).await.unwrap();
    }
    world.main().until_rollout(1, "aborted").await;
    let starts = NODES.map(|node| left(world.node(node), "did").len());
    assert!(starts[0] <= 1 && starts[1] == 0, "I5: {starts:?}");
    nothing_is_left(world).await;
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
async fn ends_well(world: World) {
    let retried = until_over(&world).await;
    for node in NODES {
        let starts = left(world.node(node), "did");
        assert!(starts.len() == 1 || (retried && starts.len() == 2), "I5: {node} {starts:?}");
    }
    nothing_is_left(world).await;
}

/// Of a rollout that has ended: all are in service, none is held. Ends the world.
pub(crate) async fn nothing_is_left(mut world: World) {
    for node in NODES {
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
