//! Random histories: a controller that restarts and is taken over, three compilers, and a network that loses, repeats,
//! delays and reorders orders and answers. What always holds is checked after every step, by its number in the design.

mod node;
mod operation;
mod regressions;
mod world;

use operation::{Operation, history};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use world::{Property, Telling, World};

const CASES: u32 = 256;

fn holds(property: Property, end: fn(&mut World)) {
    // Nothing is written: a history that fails is printed, and becomes a test in `regressions`.
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let checked = TestRunner::new(config).run(&history(), |operations: Vec<Operation>| {
        let world = World::after(&operations, end, Telling::Nothing);
        if !world.broken(property).is_empty() {
            let world = World::after(&operations, end, Telling::Everything);
            prop_assert!(false, "{:#?}\n{}", world.broken(property), world.story());
        }
        Ok(())
    });
    if let Err(failure) = checked {
        panic!("{failure}");
    }
}

#[test]
fn i2_no_node_commits_before_every_required_node_has_staged() {
    holds(Property::I2, World::stop_faults);
}

#[test]
fn i4_one_active_deploy_and_the_newest_accepted_request_wins() {
    holds(Property::I4, World::stop_faults);
}

#[test]
fn i5_no_order_takes_effect_twice_or_after_a_newer_one() {
    holds(Property::I5, World::stop_faults);
}

#[test]
fn i7_once_faults_stop_every_deploy_ends_and_every_node_serves_the_newest_committed_snapshot() {
    holds(Property::I7, World::stop_faults);
}

#[test]
fn replaying_the_facts_gives_the_same_state() {
    holds(Property::Replay, World::replay);
}

#[test]
fn the_histories_are_worth_checking() {
    // A model in which nothing is ever committed would break no promise.
    let mut runner = TestRunner::deterministic();
    let mut total = world::Counts::default();
    for _ in 0..64 {
        let operations = history().new_tree(&mut runner).unwrap().current();
        total.add(&World::after(&operations, |_| {}, Telling::Nothing).counts);
    }
    let enough = total.decided > 64
        && total.abandoned > 16
        && total.refused_by_fence > 16
        && total.superseded > 8
        && total.behind > 8
        && total.rollbacks > 16
        && total.adopted > 4;
    assert!(enough, "{total:?}");
}
