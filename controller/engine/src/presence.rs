//! Who is connected and what was last seen of them, as the driver sees it: an argument, never journalled, because it is
//! only true now.

use std::collections::{BTreeMap, VecDeque};

use bunraku_common::{Generation, NodeName};

use crate::{
    Millis,
    retained::Lacking,
    view::{BalancerView, Health, HealthView, IdleView},
};

/// Looks at one compiler's counts: of a bake that lasts longer every second one is forgotten.
const LOOKS: usize = 256;

/// The connections of this run of the controller, and what came over them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    up_since: Millis,
    /// `None`: connected. `Some`: gone since then.
    nodes: BTreeMap<NodeName, Option<Millis>>,
    pub(crate) lacking: Lacking,
    balancers: BTreeMap<NodeName, BalancerView>,
    idle: BTreeMap<NodeName, IdleView>,
    /// Oldest first.
    health: BTreeMap<NodeName, VecDeque<HealthView>>,
    /// Why each node last could not do what a turn's order asked for.
    pub(crate) said: BTreeMap<NodeName, (Generation, String)>,
}

impl Presence {
    /// A controller that came up at `up_since`; nobody is connected yet.
    pub fn new(up_since: Millis) -> Self {
        Self { up_since, ..Self::default() }
    }

    pub fn connected(&mut self, node: NodeName) {
        self.nodes.insert(node, None);
    }

    /// Says that a node's connection ended. A node that was gone already keeps its earlier time.
    pub fn gone(&mut self, node: &NodeName, now: Millis) {
        if let Some(since) = self.nodes.get_mut(node) {
            since.get_or_insert(now);
        }
        self.lacking.forget(node);
    }

    /// A balancer answered. An answer to an earlier question than the one known is dropped.
    pub fn balancer_seen(&mut self, balancer: NodeName, view: BalancerView) {
        if self.balancers.get(&balancer).is_none_or(|known| known.at <= view.at) {
            self.balancers.insert(balancer, view);
        }
    }

    /// A compiler said how busy it is.
    pub fn idle_seen(&mut self, compiler: NodeName, view: IdleView) {
        if self.idle.get(&compiler).is_none_or(|known| known.at <= view.at) {
            self.idle.insert(compiler, view);
        }
    }

    /// A compiler said what it has counted.
    pub fn health_seen(&mut self, compiler: NodeName, view: HealthView) {
        let looks = self.health.entry(compiler).or_default();
        if looks.back().is_some_and(|known| known.at > view.at) {
            return;
        }
        if looks.len() >= LOOKS {
            let mut keep = false;
            looks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        looks.push_back(view);
    }

    /// What a compiler has counted in the looks that were taken at `from` and later.
    pub(crate) fn health_since(&self, compiler: &NodeName, from: Millis) -> Health {
        let mut counted = Health::default();
        let Some(looks) = self.health.get(compiler) else { return counted };
        let looks = looks.iter().filter(|look| look.at >= from);
        for (earlier, later) in looks.clone().zip(looks.skip(1)) {
            counted.add(&later.since(earlier));
        }
        counted
    }

    pub fn up_since(&self) -> Millis {
        self.up_since
    }

    /// What a balancer last showed, however long ago.
    pub fn balancer(&self, balancer: &NodeName) -> Option<&BalancerView> {
        self.balancers.get(balancer)
    }

    /// What every balancer last showed, however long ago.
    pub fn balancers(&self) -> &BTreeMap<NodeName, BalancerView> {
        &self.balancers
    }

    /// What a compiler last said of itself, however long ago.
    pub fn idle(&self, compiler: &NodeName) -> Option<&IdleView> {
        self.idle.get(compiler)
    }

    pub fn is_connected(&self, node: &NodeName) -> bool {
        matches!(self.nodes.get(node), Some(None))
    }

    /// Since when the node is not connected; never before this controller came up. `None`: it is connected.
    pub fn gone_since(&self, node: &NodeName) -> Option<Millis> {
        match self.nodes.get(node) {
            Some(None) => None,
            Some(Some(since)) => Some(*since),
            None => Some(self.up_since),
        }
    }
}
