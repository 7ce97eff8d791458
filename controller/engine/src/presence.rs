//! Who is connected, as the driver sees it: an argument, never journalled, because it is only true now.

use std::collections::BTreeMap;

use bunraku_common::NodeName;

use crate::{Millis, retained::Lacking};

/// The connections of this run of the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    up_since: Millis,
    /// `None`: connected. `Some`: gone since then.
    nodes: BTreeMap<NodeName, Option<Millis>>,
    pub(crate) lacking: Lacking,
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
