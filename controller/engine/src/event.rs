//! What the outside reports. A call that timed out is unknown and no event at all: its step stays.

use std::collections::BTreeSet;

use bunraku_common::{Digest, EnvironmentName, Generation, NodeName};
use serde::{Deserialize, Serialize};

use crate::{Built, CertificateEvent, CrlEvent, DeployId, Millis, Settings};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passed ([`State::deadline`](crate::State::deadline)), a connection came or went, or a balancer or a compiler
    /// was looked at ([`Presence`](crate::Presence)).
    Tick,
    /// The configuration file, read at start.
    Configured {
        settings: Settings,
    },
    BuildDone {
        deploy: DeployId,
        built: Built,
    },
    BuildFailed {
        deploy: DeployId,
        reason: String,
        hint: String,
    },
    Staged {
        deploy: DeployId,
        node: NodeName,
    },
    StageFailed {
        deploy: DeployId,
        node: NodeName,
        fault: Fault,
        reason: String,
        hint: String,
    },
    /// A node was told to commit and does not hold what it had staged.
    NotStaged {
        deploy: DeployId,
        node: NodeName,
    },
    /// The answer to a commit order, of a deploy or when a node that was behind is brought up.
    Committed {
        environment: EnvironmentName,
        node: NodeName,
        snapshot: Digest,
        generation: Generation,
        proven: bool,
        /// Why it is not proven yet; also why a commit failed.
        owed: String,
        /// Node's wall clock at the swap, Unix milliseconds.
        swapped_ms: Option<u64>,
    },
    /// A node that was behind could not be brought up; it is tried again.
    BringFailed {
        environment: EnvironmentName,
        node: NodeName,
        generation: Generation,
        reason: String,
    },
    Discarded {
        environment: EnvironmentName,
        node: NodeName,
        snapshot: Digest,
    },
    /// What a node holds, as said at hello. Complete: an environment that is not named is not there.
    NodeObserved {
        node: NodeName,
        environments: Vec<Seen>,
        /// How many versions of each environment it would keep, as its configuration and its disk allow now.
        keeps: usize,
    },
    /// A node has the retained snapshot, also when it had it already. No fact: it is true while the node is connected
    /// ([`Presence::learn`](crate::Presence::learn)).
    RetainedStaged {
        environment: EnvironmentName,
        node: NodeName,
        snapshot: Digest,
    },
    /// A node will not have more retained snapshots: no room, …. Final until it connects again.
    RetainedRefused {
        environment: EnvironmentName,
        node: NodeName,
        reason: String,
    },
    /// A balancer remembered an order about a compiler and did not obey: its own floor forbids the drain, or its
    /// program does.
    BalanceRefused {
        balancer: NodeName,
        compiler: NodeName,
        generation: Generation,
        reason: String,
    },
    /// A node has done what an order of its turn in a rollout asked for.
    TurnStepDone {
        node: NodeName,
        generation: Generation,
    },
    /// It cannot: final for an order to prepare, settle or act. What is not healthy yet is asked again.
    TurnStepFailed {
        node: NodeName,
        generation: Generation,
        reason: String,
        /// Its server is as it was before the order.
        unchanged: bool,
    },
    /// Serials in Puppet's CRL: identities born from them end.
    PuppetRevoked {
        serials: BTreeSet<String>,
    },
    /// About Puppet's CRLs.
    Crl(CrlEvent),
    /// About compilers' Puppet certificates.
    Certificate(CertificateEvent),
    /// Once an hour or so, with Unix seconds: what has expired long ago is forgotten.
    Housekeeping {
        now_s: u64,
        now: Millis,
    },
    /// The mesh CAs that a node trusts, as it said at hello; the one that signed its certificate first.
    AnchorsSeen {
        node: NodeName,
        anchors: Vec<Digest>,
    },
}

/// Whose fault a failed stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The content is bad, so bad everywhere.
    Content,
    /// This node cannot: disk full, content unreachable.
    Node,
}

/// One environment as a node reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub environment: EnvironmentName,
    pub live: Option<Digest>,
    pub proven: bool,
    /// Sealed versions it holds.
    pub versions: BTreeSet<Digest>,
}
