//! What may happen in a history, and how likely it is.

use proptest::{collection::vec, prelude::*};

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Content 3 is refused by every node.
    Deploy {
        environment: usize,
        content: u8,
        skip: bool,
        plan: bool,
    },
    Rollback {
        environment: usize,
    },
    Release {
        environment: usize,
    },
    Hold {
        node: usize,
    },
    ReleaseNode {
        node: usize,
    },
    Revoke {
        node: usize,
    },
    /// Allows the name again where that is needed.
    Enrol {
        node: usize,
    },
    /// The driver starts every step, also those it has in flight (an order is sent twice).
    StartAll,
    StartOne {
        which: usize,
    },
    /// Answers what is being built.
    Build {
        succeeds: bool,
    },
    DeliverAll,
    /// Some rounds in which nothing goes wrong.
    Calm {
        rounds: usize,
    },
    /// A message arrives; `again`: it stays in the network too.
    Deliver {
        which: usize,
        again: bool,
    },
    Lose {
        which: usize,
    },
    /// What the network held up arrives: copies of some of the messages since the last time.
    Late,
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
    RestartNode {
        node: usize,
        loses_proof: bool,
    },
    PuppetServer {
        node: usize,
        up: bool,
    },
    DiskFull {
        node: usize,
        full: bool,
    },
    /// A hand, or a disk that was full, took what is not live.
    LoseVersions {
        node: usize,
    },
    RestartController,
    /// A controller restored from a backup that lacks the newest records takes over.
    Takeover {
        lost: usize,
    },
}

pub(crate) fn history() -> impl Strategy<Value = Vec<Operation>> {
    vec(operation(), 1..200)
}

fn operation() -> impl Strategy<Value = Operation> {
    let node = 0..3_usize;
    let environment = 0..2_usize;
    let which = 0..64_usize;
    let content = prop_oneof![9 => 0..3_u8, 1 => Just(3_u8)];
    prop_oneof![
        10 => (environment.clone(), content, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(environment, content, skip, plan)| Operation::Deploy { environment, content, skip, plan }),
        3 => environment.clone().prop_map(|environment| Operation::Rollback { environment }),
        5 => environment.prop_map(|environment| Operation::Release { environment }),
        1 => node.clone().prop_map(|node| Operation::Hold { node }),
        2 => node.clone().prop_map(|node| Operation::ReleaseNode { node }),
        1 => node.clone().prop_map(|node| Operation::Revoke { node }),
        2 => node.clone().prop_map(|node| Operation::Enrol { node }),
        8 => Just(Operation::StartAll),
        8 => which.clone().prop_map(|which| Operation::StartOne { which }),
        8 => prop::bool::weighted(0.9).prop_map(|succeeds| Operation::Build { succeeds }),
        8 => Just(Operation::DeliverAll),
        20 => (1..6_usize).prop_map(|rounds| Operation::Calm { rounds }),
        12 => (which.clone(), prop::bool::weighted(0.3)).prop_map(|(which, again)| Operation::Deliver { which, again }),
        3 => which.prop_map(|which| Operation::Lose { which }),
        6 => Just(Operation::Late),
        8 => Just(Operation::ConnectAll),
        4 => prop_oneof![6 => 1..30_000_u64, 2 => 30_000..700_000_u64, 1 => 700_000..8_000_000_u64]
            .prop_map(|ms| Operation::Wait { ms }),
        2 => node.clone().prop_map(|node| Operation::Cut { node }),
        10 => node.clone().prop_map(|node| Operation::Connect { node }),
        2 => (node.clone(), any::<bool>()).prop_map(|(node, loses_proof)| Operation::RestartNode { node, loses_proof }),
        2 => (node.clone(), prop::bool::weighted(0.7)).prop_map(|(node, up)| Operation::PuppetServer { node, up }),
        2 => (node.clone(), prop::bool::weighted(0.2)).prop_map(|(node, full)| Operation::DiskFull { node, full }),
        2 => node.prop_map(|node| Operation::LoseVersions { node }),
        2 => Just(Operation::RestartController),
        1 => (0..40_usize).prop_map(|lost| Operation::Takeover { lost }),
    ]
}
