//! A model of a load balancer with its node agent: it remembers what it was told, obeys nothing older, and refuses a
//! drain that its own floor forbids.

use std::collections::BTreeMap;

use bunraku_common::{Fence, NodeName};
use bunraku_engine::{BalancerView, Millis, ServerSeen, Wish};

pub(crate) const BACKEND: &str = "puppet";

#[derive(Clone, Debug)]
pub(crate) struct Balancer {
    pub(crate) name: NodeName,
    pub(crate) floor: u32,
    pub(crate) servers: BTreeMap<NodeName, Server>,
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// By its health checks.
    pub(crate) up: bool,
    pub(crate) drained: bool,
    /// Somebody else has put it out of service.
    pub(crate) foreign: bool,
    pub(crate) sessions: u64,
    /// How often its sessions were closed.
    pub(crate) closed: usize,
    /// As with nginx: they cannot be.
    pub(crate) cannot_close: bool,
    pub(crate) wish: Option<Wish>,
    /// Of the newest order that it saw: never lost.
    pub(crate) fence: Option<Fence>,
    /// It lost what it was told, and was not told again.
    pub(crate) forgot: bool,
}

/// An order as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) compiler: NodeName,
    pub(crate) drained: bool,
    pub(crate) owner: String,
    pub(crate) fence: Fence,
    pub(crate) min_available: u32,
    pub(crate) close: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Done,
    Refused(String),
    /// It has seen a newer order.
    Stale,
}

impl Balancer {
    pub(crate) fn new(name: NodeName, compilers: &[NodeName]) -> Self {
        let server = Server {
            up: true,
            drained: false,
            foreign: false,
            sessions: 0,
            closed: 0,
            cannot_close: false,
            wish: None,
            fence: None,
            forgot: false,
        };
        let servers = compilers.iter().map(|compiler| (compiler.clone(), server.clone())).collect();
        Self { name, floor: 1, servers }
    }

    pub(crate) fn obey(&mut self, told: &Told) -> Said {
        let left = self.others_in_service(&told.compiler);
        let floor = self.floor.max(told.min_available).max(1);
        let Some(server) = self.servers.get_mut(&told.compiler) else {
            return Said::Refused("not mapped here".into());
        };
        if server.fence.is_some_and(|seen| !seen.admits(&told.fence)) {
            return Said::Stale;
        }
        if told.drained && !server.drained && left < floor as usize {
            return Said::Refused(format!("{left} would be left of {floor}"));
        }
        (server.drained, server.forgot) = (told.drained, false);
        if told.close && !server.cannot_close {
            (server.sessions, server.closed) = (0, server.closed + 1);
        }
        let (drained, owner, generation) = (told.drained, told.owner.clone(), told.fence.generation);
        (server.fence, server.wish) = (Some(told.fence), Some(Wish { drained, owner, generation }));
        Said::Done
    }

    /// The agent looks at its balancer's program and repeats what is wanted.
    pub(crate) fn assert_again(&mut self) {
        for server in self.servers.values_mut() {
            if let Some(wish) = &server.wish {
                (server.drained, server.forgot) = (wish.drained, false);
            }
        }
    }

    pub(crate) fn others_in_service(&self, compiler: &NodeName) -> usize {
        self.servers.iter().filter(|(name, server)| *name != compiler && server.in_service()).count()
    }

    pub(crate) fn in_service(&self) -> usize {
        self.servers.values().filter(|server| server.in_service()).count()
    }

    pub(crate) fn view(&self, at: Millis) -> BalancerView {
        let servers = self.servers.iter().map(|(compiler, server)| ServerSeen {
            compiler: compiler.clone(),
            backend: BACKEND.into(),
            server: compiler.to_string(),
            in_service: server.in_service(),
            sessions: Some(server.sessions),
            foreign: server.foreign,
            wish: server.wish.clone(),
        });
        let floors = BTreeMap::from([(BACKEND.to_owned(), self.floor)]);
        BalancerView { at, servers: servers.collect(), floors, trouble: String::new() }
    }
}

impl Server {
    pub(crate) fn in_service(&self) -> bool {
        self.up && !self.drained && !self.foreign
    }
}
