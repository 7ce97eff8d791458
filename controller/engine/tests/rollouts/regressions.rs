//! Histories that once broke a promise.

use crate::{ghost::Property, histories::Operation, world::World};

fn holds(operations: &[Operation]) {
    let world = World::after(operations);
    let broken: Vec<&str> = Property::ALL.into_iter().flat_map(|property| world.broken(property)).collect();
    assert!(broken.is_empty(), "{broken:#?}\n{}", world.story());
}

#[test]
fn a_puppet_agent_that_is_still_held_is_not_released_under_the_number_of_the_next_turns_checks() {
    holds(&[
        Operation::Start {
            nodes: 7,
            batch: 1,
            min_available: 0,
            force: false,
            updates: false,
            reverts: true,
            judged: None,
        },
        Operation::Wait { ms: 1 },
        Operation::Calm { rounds: 7 },
        Operation::Wait { ms: 60_000 },
        Operation::Retry { rollout: 1, node: 0 },
    ]);
}
