//! Histories that once broke a promise.

use crate::{
    operation::Operation,
    world::{Property, Telling, World},
};

fn holds(operations: &[Operation]) {
    let world = World::after(operations, Telling::Everything);
    let broken: Vec<&str> = Property::ALL.into_iter().flat_map(|property| world.broken(property)).collect();
    assert!(broken.is_empty(), "{broken:#?}\n{}", world.story());
}

#[test]
fn an_adoption_in_the_same_moment_as_a_commit_decision_does_not_make_its_orders_stale() {
    holds(&[
        Operation::Deploy { environment: 1, content: 0, skip: false, plan: false },
        Operation::Calm { rounds: 2 },
        Operation::Takeover { lost: 5 },
        Operation::Deploy { environment: 0, content: 0, skip: false, plan: false },
        Operation::Deploy { environment: 1, content: 0, skip: false, plan: false },
        Operation::Connect { node: 2 },
        Operation::Connect { node: 1 },
        Operation::Calm { rounds: 1 },
        Operation::Hold { node: 0 },
    ]);
}
