//! Random histories of balancers and rollouts: two operators, a controller that is killed, agents that are killed, a
//! network that loses, repeats and delays, balancers that are cut off or forget, compilers that die. What always holds
//! is checked where it happens; once the faults stop, everything must come to rest.

use std::sync::OnceLock;

use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree,
    test_runner::{RngAlgorithm, TestError, TestRng, TestRunner},
};

use crate::{
    ghost::{Counts, Property},
    world::World,
};

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Start {
        /// Which compilers: a bit for each.
        nodes: u8,
        batch: usize,
        min_available: u32,
        force: bool,
        /// A package is updated, which can be undone.
        updates: bool,
        reverts: bool,
        /// The numbers of the compilers decide; what is unknown then stops nothing.
        judged: Option<bool>,
    },
    /// Somebody deploys something new, unless a deploy is under way.
    Deploy,
    /// From now on a compiler cannot stage, or can again.
    CannotStage {
        node: usize,
        cannot: bool,
    },
    Pause {
        rollout: u64,
    },
    Resume {
        rollout: u64,
    },
    Abort {
        rollout: u64,
    },
    Retry {
        rollout: u64,
        node: usize,
    },
    Skip {
        rollout: u64,
        node: usize,
    },
    Retarget {
        rollout: u64,
        version: u64,
    },
    Drain {
        who: usize,
        node: usize,
        min_available: u32,
    },
    Enable {
        who: usize,
        node: usize,
    },
    /// Every order that is to be sent is sent, also those that are under way.
    StartAll,
    StartOne {
        which: usize,
    },
    DeliverAll,
    Deliver {
        which: usize,
        again: bool,
    },
    Lose {
        which: usize,
    },
    /// What the network held up arrives.
    Late,
    /// Some rounds in which nothing goes wrong.
    Calm {
        rounds: usize,
    },
    /// Everybody who is connected is asked how it is.
    Look,
    /// A balancer is asked now, and its answer arrives with the next `Look` or later.
    Ask {
        balancer: usize,
    },
    Answer,
    Wait {
        ms: u64,
    },
    Cut {
        node: usize,
    },
    Connect {
        node: usize,
    },
    ConnectAll,
    /// A node agent is killed: what it remembers stays, what it was about to say does not come.
    KillAgent {
        node: usize,
    },
    /// The controller is killed, and comes back after a while.
    KillController {
        away: u64,
    },
    PuppetServer {
        node: usize,
        up: bool,
    },
    /// The next restarts do not succeed, or do again.
    Breaks {
        node: usize,
        breaks: bool,
    },
    /// The next actions fail, and say whether all is as it was; whether a revert succeeds.
    Fails {
        node: usize,
        unchanged: Option<bool>,
        reverts: bool,
    },
    /// From now on so many catalogs come between two looks, and so many of them fail.
    Fares {
        node: usize,
        catalogs: u64,
        failed: u64,
    },
    Busy {
        node: usize,
        busy: bool,
    },
    PuppetRuns {
        node: usize,
        runs: bool,
    },
    /// A balancer's program puts a server back in service; its agent puts it out again some time later, if it still
    /// knows what was wanted.
    Forget {
        balancer: usize,
        node: usize,
        knows: bool,
    },
    /// Somebody takes a server out at the balancer, or puts it back.
    Foreign {
        balancer: usize,
        node: usize,
        out: bool,
    },
}

fn history() -> impl Strategy<Value = Vec<Operation>> {
    vec(operation(), 1..150)
}

fn operation() -> impl Strategy<Value = Operation> {
    let compiler = 0..3_usize;
    let node = 0..5_usize;
    let balancer = 0..2_usize;
    let rollout = 1..4_u64;
    let which = 0..64_usize;
    let min = prop_oneof![4 => Just(0_u32), 1 => 1..3_u32];
    let by_people = prop_oneof![
        6 => (1..8_u8, 1..3_usize, min.clone(), prop::bool::weighted(0.3), any::<bool>(), prop::bool::weighted(0.8),
              prop::option::of(any::<bool>()))
            .prop_map(|(nodes, batch, min_available, force, updates, reverts, judged)| {
                Operation::Start { nodes, batch, min_available, force, updates, reverts, judged }
            }),
        4 => Just(Operation::Deploy),
        1 => rollout.clone().prop_map(|rollout| Operation::Pause { rollout }),
        4 => rollout.clone().prop_map(|rollout| Operation::Resume { rollout }),
        1 => rollout.clone().prop_map(|rollout| Operation::Abort { rollout }),
        4 => (rollout.clone(), compiler.clone()).prop_map(|(rollout, node)| Operation::Retry { rollout, node }),
        1 => (rollout.clone(), compiler.clone()).prop_map(|(rollout, node)| Operation::Skip { rollout, node }),
        1 => (rollout.clone(), 1..4_u64).prop_map(|(rollout, version)| Operation::Retarget { rollout, version }),
        2 => (0..2_usize, compiler.clone(), min)
            .prop_map(|(who, node, min_available)| Operation::Drain { who, node, min_available }),
        4 => (0..2_usize, compiler.clone()).prop_map(|(who, node)| Operation::Enable { who, node }),
    ];
    let by_the_network = prop_oneof![
        8 => Just(Operation::StartAll),
        6 => which.clone().prop_map(|which| Operation::StartOne { which }),
        8 => Just(Operation::DeliverAll),
        8 => (which.clone(), prop::bool::weighted(0.3)).prop_map(|(which, again)| Operation::Deliver { which, again }),
        3 => which.prop_map(|which| Operation::Lose { which }),
        5 => Just(Operation::Late),
        16 => (1..8_usize).prop_map(|rounds| Operation::Calm { rounds }),
        8 => Just(Operation::Look),
        3 => balancer.clone().prop_map(|balancer| Operation::Ask { balancer }),
        3 => Just(Operation::Answer),
        2 => node.clone().prop_map(|node| Operation::Cut { node }),
        6 => node.clone().prop_map(|node| Operation::Connect { node }),
        6 => Just(Operation::ConnectAll),
    ];
    let by_fate = prop_oneof![
        6 => prop_oneof![6 => 1..3_000_u64, 2 => 3_000..30_000_u64, 1 => 30_000..200_000_u64, 1 => Just(86_400_000)]
            .prop_map(|ms| Operation::Wait { ms }),
        2 => node.prop_map(|node| Operation::KillAgent { node }),
        2 => prop_oneof![4 => 0..5_000_u64, 1 => 0..3_600_000_u64]
            .prop_map(|away| Operation::KillController { away }),
        2 => (compiler.clone(), prop::bool::weighted(0.7)).prop_map(|(node, up)| Operation::PuppetServer { node, up }),
        2 => (compiler.clone(), any::<bool>())
            .prop_map(|(node, cannot)| Operation::CannotStage { node, cannot }),
        1 => (compiler.clone(), prop::bool::weighted(0.4)).prop_map(|(node, breaks)| Operation::Breaks { node, breaks }),
        1 => (compiler.clone(), prop::option::of(any::<bool>()), prop::bool::weighted(0.7))
            .prop_map(|(node, unchanged, reverts)| Operation::Fails { node, unchanged, reverts }),
        9 => (compiler.clone(), 20..60_u64, prop_oneof![1 => Just(0), 2 => 5..20_u64])
            .prop_map(|(node, catalogs, failed)| Operation::Fares { node, catalogs, failed: failed.min(catalogs) }),
        2 => (compiler.clone(), prop::bool::weighted(0.4)).prop_map(|(node, busy)| Operation::Busy { node, busy }),
        1 => (compiler.clone(), prop::bool::weighted(0.3)).prop_map(|(node, runs)| Operation::PuppetRuns { node, runs }),
        1 => (balancer.clone(), compiler.clone(), any::<bool>())
            .prop_map(|(balancer, node, knows)| Operation::Forget { balancer, node, knows }),
        1 => (balancer, compiler, prop::bool::weighted(0.3))
            .prop_map(|(balancer, node, out)| Operation::Foreign { balancer, node, out }),
    ];
    prop_oneof![2 => by_people, 6 => by_the_network, 2 => by_fate]
}

#[test]
fn i2_a_deploy_goes_on_without_a_compiler_only_once_no_balancer_sends_anybody_there() {
    holds(Property::I2);
}

#[test]
fn i3_never_fewer_than_the_floor_in_service_because_of_us_and_no_restart_under_load() {
    holds(Property::I3);
}

#[test]
fn i5_no_order_of_a_rollout_takes_effect_twice_or_stands_for_two_things() {
    holds(Property::I5);
}

#[test]
fn i7_once_faults_stop_every_rollout_ends_or_is_paused_and_nothing_is_drained_without_an_owner() {
    holds(Property::I7);
}

#[test]
fn the_histories_are_worth_checking() {
    let counts = &histories().counts;
    let enough = [
        counts.drains > 300,
        counts.undone > 2,
        counts.restarts > 200,
        counts.failed > 50,
        counts.done > 100,
        counts.aborted > 20,
        counts.stale > 20,
        counts.closings > 10,
        counts.left_behind > 10,
        counts.renewals > 20,
        counts.judged.iter().all(|judged| *judged > 2),
    ];
    assert!(enough.iter().all(|enough| *enough), "{counts:?}");
}

struct Histories {
    counts: Counts,
    broken: Vec<(Property, Seed)>,
}

type Seed = [u8; 32];

fn histories() -> &'static Histories {
    static RUN: OnceLock<Histories> = OnceLock::new();
    RUN.get_or_init(|| {
        let mut seeds = TestRunner::default().new_rng();
        let mut histories = Histories { counts: Counts::default(), broken: Vec::new() };
        for _case in 0..ProptestConfig::default().cases {
            let mut seed = Seed::default();
            seeds.fill_bytes(&mut seed);
            let operations = history().new_tree(&mut runner(&seed)).unwrap().current();
            let world = World::after(&operations);
            histories.counts.add(&world.site.ghost.counts);
            let broken = Property::ALL.into_iter().filter(|property| !world.broken(*property).is_empty());
            histories.broken.extend(broken.map(|property| (property, seed)));
        }
        histories
    })
}

/// Fails with the shortest history that breaks the property: the next test in `regressions`.
fn holds(property: Property) {
    let Some((_, seed)) = histories().broken.iter().find(|(broken, _)| *broken == property) else {
        return;
    };
    let mut runner = runner(seed);
    let tree = history().new_tree(&mut runner).unwrap();
    let failure = runner.run_one(tree, |operations: Vec<Operation>| {
        prop_assert!(World::after(&operations).broken(property).is_empty());
        Ok(())
    });
    let Err(TestError::Fail(_, operations)) = failure else {
        unreachable!("the same seed gives the same history");
    };
    let world = World::after(&operations);
    panic!("{:#?}\n{}\n{operations:?}", world.broken(property), world.story());
}

fn runner(seed: &Seed) -> TestRunner {
    // Nothing is written: a history that fails is printed.
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, seed))
}
