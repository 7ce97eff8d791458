//! Random histories: a controller that restarts and is taken over, three compilers, and a network that loses, repeats,
//! delays and reorders orders and answers. What always holds is checked after every step, by its number in the design.
//!
//! The histories run once and every test looks for its own property. `PROPTEST_CASES` asks for more of them.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "the whole program is a test")]

mod checks;
mod node;
mod operation;
mod regressions;
mod world;

use std::sync::OnceLock;

use operation::{Operation, history};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{RngAlgorithm, TestError, TestRng, TestRunner},
};
use world::{Counts, Property, Telling, World};

#[test]
fn i2_no_node_commits_before_every_required_node_has_staged() {
    holds(Property::I2);
}

#[test]
fn i4_one_active_deploy_and_the_newest_accepted_request_wins() {
    holds(Property::I4);
}

#[test]
fn i5_no_order_takes_effect_twice_or_after_a_newer_one() {
    holds(Property::I5);
}

#[test]
fn i7_once_faults_stop_every_deploy_ends_and_every_node_serves_the_newest_committed_snapshot() {
    holds(Property::I7);
}

#[test]
fn replaying_the_facts_gives_the_same_state() {
    holds(Property::Replay);
}

#[test]
fn the_histories_are_worth_checking() {
    // A model in which nothing is ever committed would break no promise.
    let total = &histories().counts;
    let enough = [
        total.decided > 200,
        total.abandoned > 50,
        total.superseded > 50,
        total.behind > 10,
        total.rollbacks > 10,
        total.adopted > 5,
        total.refused_by_fence > 100,
        total.retained > 50,
        total.lost > 5,
    ];
    assert!(enough.iter().all(|enough| *enough), "{total:?}");
}

struct Histories {
    counts: Counts,
    /// Which property broke, and the seed of its history.
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
            let world = World::after(&operations, Telling::Nothing);
            histories.counts.add(&world.counts);
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
        prop_assert!(World::after(&operations, Telling::Nothing).broken(property).is_empty());
        Ok(())
    });
    let Err(TestError::Fail(_, operations)) = failure else {
        unreachable!("the same seed gives the same history");
    };
    let world = World::after(&operations, Telling::Everything);
    panic!("{:#?}\n{}\n{operations:?}", world.broken(property), world.story());
}

fn runner(seed: &Seed) -> TestRunner {
    // Nothing is written: a history that fails is printed.
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, seed))
}
