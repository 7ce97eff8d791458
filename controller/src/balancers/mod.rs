//! What the load balancers show. Every connected balancer is asked, again and again; what it says is bounded, judged,
//! and handed to the driver as an observation. Nothing of it is journalled, and no order leaves from here.

mod report;
mod view;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bunraku_common::NodeName;
use bunraku_proto::v1::BalancerStatusReply;
use tokio::sync::Notify;

/// The newest word of each balancer, as it is shown to people, and whom to ask next.
#[derive(Debug, Default)]
pub(crate) struct Balancers {
    seen: Mutex<BTreeMap<NodeName, Seen>>,
    /// To be asked at once.
    wanted: Mutex<BTreeSet<NodeName>>,
    hurry: Notify,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    /// Unix milliseconds of the answer; 0: none came yet.
    at_ms: u64,
    status: BalancerStatusReply,
    /// Why the newest question had no answer; empty when it had.
    silent: String,
}

impl Balancers {
    /// Asks this balancer now: it was told something, or has come back. Nodes that are no balancers are passed over.
    pub(crate) fn look_at(&self, balancer: &NodeName) {
        lock(&self.wanted).insert(balancer.clone());
        self.hurry.notify_one();
    }

    /// Something was decided: how often balancers are asked may have changed.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    fn seen(&self, balancer: &NodeName) -> Seen {
        lock(&self.seen).get(balancer).cloned().unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
