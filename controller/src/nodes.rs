//! Connections: which node can be called, and how each connection of an identity is ended at once.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bunraku_common::NodeName;
use bunraku_engine::{Standing, State};
use bunraku_proto::{
    cut::Cut,
    link::{self, NodeLink},
    serve::FINISH,
    v1::{HelloReply, node_client::NodeClient},
};

use crate::clock::wall_ms;

/// So many changes between processes of one identity within a minute mean that two hosts use it.
const CHANGES_A_MINUTE: usize = 3;
/// Connections of one key, open at once: a node needs three while it renews itself, an operator one for each command
/// that runs. What one stolen key can take must stay bounded (I10).
const CONNECTIONS_PER_KEY: usize = 64;
const MINUTE: Duration = Duration::from_secs(60);

/// Every live connection, by what may end it.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    nodes: BTreeMap<NodeName, Connected>,
    /// When a node was last seen, for those that are not connected.
    last: BTreeMap<NodeName, LastSeen>,
    changes: BTreeMap<NodeName, VecDeque<Instant>>,
    /// Connections with a mesh identity by key, and then by number: serial, and how to end it.
    cuts: HashMap<String, BTreeMap<u64, (String, Cut)>>,
}

#[derive(Debug, Clone)]
struct Connected {
    id: u64,
    link: NodeLink,
    cut: Cut,
    about: About,
}

/// What is known of a connected node.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub hello: HelloReply,
    pub address: String,
    pub since_ms: u64,
    /// When the node's clock was `hello.wall_ms`, by this host's.
    pub compared_ms: u64,
}

#[derive(Debug, Clone)]
struct LastSeen {
    about: About,
    until_ms: u64,
}

/// A connection's place in the registry; given back with [`Connections::ended`].
#[derive(Debug)]
pub(crate) struct ConnectionId {
    number: u64,
    key: String,
}

impl Inner {
    fn cut_denied(&self, state: &State, key: &str) {
        for (serial, cut) in self.cuts.get(key).into_iter().flat_map(BTreeMap::values) {
            if let Standing::Denied(reason) = state.standing(serial, key) {
                tracing::warn!(serial, reason, "connection cut");
                cut.cut();
            }
        }
    }
}

impl Connections {
    /// The client to call a node with. Taken for each call: after a re-dial an older one is dead.
    pub(crate) fn client(&self, node: &NodeName) -> Option<NodeClient<NodeLink>> {
        self.lock().nodes.get(node).map(|connected| link::client(connected.link.clone()))
    }

    /// The same, with the number of the connection, for [`Self::while_current`].
    pub(crate) fn numbered_client(&self, node: &NodeName) -> Option<(u64, NodeClient<NodeLink>)> {
        let inner = self.lock();
        let connected = inner.nodes.get(node)?;
        Some((connected.id, link::client(connected.link.clone())))
    }

    /// Tells what a node said on a connection, unless there is a newer one: then it is not so any more, and the newer one
    /// has told, or will. Nothing is registered meanwhile, so `tell` must not wait.
    pub(crate) fn while_current(&self, node: &NodeName, number: u64, tell: impl FnOnce()) {
        let inner = self.lock();
        if inner.nodes.get(node).is_some_and(|connected| connected.id == number) {
            tell();
        }
    }

    pub(crate) fn nodes(&self) -> Vec<NodeName> {
        self.lock().nodes.keys().cloned().collect()
    }

    pub(crate) fn is_connected(&self, node: &NodeName) -> bool {
        self.lock().nodes.contains_key(node)
    }

    /// Remembers a connection of an identity, so that a revocation can cut it. `None`: the key has too many already.
    pub(crate) fn started(&self, serial: &str, key: &str, cut: Cut) -> Option<ConnectionId> {
        let mut inner = self.lock();
        let number = inner.next + 1;
        let of_key = inner.cuts.entry(key.to_owned()).or_default();
        if of_key.len() >= CONNECTIONS_PER_KEY {
            return None;
        }
        of_key.insert(number, (serial.to_owned(), cut));
        inner.next = number;
        Some(ConnectionId { number, key: key.to_owned() })
    }

    /// A node said hello. It takes the new orders from now on. An older connection of the same process may finish its
    /// calls; one of another process is cut at once.
    pub(crate) fn registered(
        &self,
        id: &ConnectionId,
        node: &NodeName,
        link: NodeLink,
        cut: Cut,
        about: About,
    ) {
        let mut inner = self.lock();
        let instance = about.hello.instance.clone();
        inner.last.remove(node);
        let Some(older) = inner.nodes.insert(node.clone(), Connected { id: id.number, link, cut, about })
        else {
            return;
        };
        if older.about.hello.instance == instance {
            tokio::spawn(async move {
                let _gone_by_itself = tokio::time::timeout(FINISH, older.cut.closed()).await;
                older.cut.cut();
            });
        } else {
            older.cut.cut();
            let now = Instant::now();
            let changes = inner.changes.entry(node.clone()).or_default();
            changes.push_back(now);
            while changes.front().is_some_and(|first| now - *first > MINUTE) {
                changes.pop_front();
            }
        }
    }

    /// The connection has ended. True when the node has no connection any more.
    pub(crate) fn ended(&self, id: &ConnectionId, node: Option<&NodeName>) -> bool {
        let mut inner = self.lock();
        if let Some(of_key) = inner.cuts.get_mut(&id.key) {
            of_key.remove(&id.number);
            if of_key.is_empty() {
                inner.cuts.remove(&id.key);
            }
        }
        let Some(node) = node else { return false };
        if inner.nodes.get(node).is_none_or(|connected| connected.id != id.number) {
            return false;
        }
        let connected = inner.nodes.remove(node).expect("it was found under this lock");
        inner.last.insert(node.clone(), LastSeen { about: connected.about, until_ms: wall_ms() });
        true
    }

    /// Ends every connection whose identity may no longer speak.
    pub(crate) fn cut_denied(&self, state: &State) {
        let inner = self.lock();
        for key in inner.cuts.keys() {
            inner.cut_denied(state, key);
        }
    }

    /// The same for the connections of one key: each new one asks, and there may be ten thousand others.
    pub(crate) fn cut_if_denied(&self, state: &State, key: &str) {
        self.lock().cut_denied(state, key);
    }

    /// Makes every node dial again and hear a fresh hello.
    pub(crate) fn cut_nodes(&self) {
        for connected in self.lock().nodes.values() {
            connected.cut.cut();
        }
    }

    pub(crate) fn about(&self, node: &NodeName) -> Option<About> {
        self.lock().nodes.get(node).map(|connected| connected.about.clone())
    }

    /// What is remembered of a node that is not connected: what it said, and until when it was there (Unix ms).
    pub(crate) fn last_seen(&self, node: &NodeName) -> Option<(About, u64)> {
        self.lock().last.get(node).map(|last| (last.about.clone(), last.until_ms))
    }

    /// Keeps what a node holds up to date for `status`.
    pub(crate) fn observed(&self, node: &NodeName, observed: bunraku_proto::v1::ObserveReply) {
        if let Some(connected) = self.lock().nodes.get_mut(node) {
            connected.about.hello.observed = Some(observed);
        }
    }

    /// What a node's wall clock said, and this host's at that time (Unix ms).
    pub(crate) fn compared(&self, node: &NodeName, theirs: u64, ours: u64) {
        if let Some(connected) = self.lock().nodes.get_mut(node) {
            (connected.about.hello.wall_ms, connected.about.compared_ms) = (theirs, ours);
        }
    }

    /// Whether two hosts seem to use this node's identity.
    pub(crate) fn is_contested(&self, node: &NodeName) -> bool {
        let now = Instant::now();
        let inner = self.lock();
        let recent = |times: &VecDeque<Instant>| times.iter().filter(|at| now - **at <= MINUTE).count();
        inner.changes.get(node).is_some_and(|times| recent(times) >= CHANGES_A_MINUTE)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bunraku_proto::v1::HelloReply;

    use super::*;

    /// One more connection of the node, by the same process.
    async fn connect(connections: &Connections, node: &NodeName) -> tokio::io::DuplexStream {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (link, cut, _connection) = bunraku_proto::link::link(ours).await.unwrap();
        let id = connections.started("serial", "key", cut.clone()).unwrap();
        let hello = HelloReply::default();
        let about = About { hello, address: String::new(), since_ms: 0, compared_ms: 0 };
        connections.registered(&id, node, link, cut, about);
        theirs
    }

    /// Regression: an answer on the connection before told the state of the identity before, and a rotation of the mesh CA
    /// waited for a node that had renewed long ago.
    #[tokio::test]
    async fn what_was_said_on_an_older_connection_is_not_told_once_there_is_a_newer_one() {
        let (connections, node) = (Connections::default(), NodeName::parse("c1").unwrap());
        let _older = connect(&connections, &node).await;
        let (older, _client) = connections.numbered_client(&node).unwrap();
        let mut told = 0;
        connections.while_current(&node, older, || told += 1);
        let _newer = connect(&connections, &node).await;
        connections.while_current(&node, older, || told += 1);
        assert_eq!(told, 1);
        let (newer, _client) = connections.numbered_client(&node).unwrap();
        connections.while_current(&node, newer, || told += 1);
        assert_eq!(told, 2);
    }
}
