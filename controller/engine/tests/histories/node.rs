//! A model of a compiler: it obeys no order that is older than one it saw, and forgets nothing durable.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Digest, EnvironmentName, Fence, NodeName, Term};
use bunraku_engine::{Fault, Seen};

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) server_up: bool,
    pub(crate) disk_full: bool,
    highest: Option<Term>,
    environments: BTreeMap<EnvironmentName, Served>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    fence: Option<Fence>,
    pub(crate) versions: BTreeSet<Digest>,
    pub(crate) live: Option<Digest>,
    pub(crate) proven: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Order {
    Stage { snapshot: Digest },
    Commit { snapshot: Digest },
    Retain { snapshot: Digest },
    Discard { snapshot: Digest },
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Staged,
    StageFailed(Fault),
    Committed {
        proven: bool,
        swapped: bool,
    },
    NotStaged,
    Discarded,
    /// The order was older than one that the node saw.
    Refused,
}

impl Node {
    pub(crate) fn new(name: NodeName) -> Self {
        Self { name, server_up: true, disk_full: false, highest: None, environments: BTreeMap::new() }
    }

    pub(crate) fn served(&self, environment: &EnvironmentName) -> Served {
        self.environments.get(environment).cloned().unwrap_or_default()
    }

    pub(crate) fn restart(&mut self, loses_proof: bool) {
        if loses_proof {
            self.environments.values_mut().for_each(|served| served.proven = false);
        }
    }

    /// Everything that is not live goes, but `staged`.
    pub(crate) fn lose_versions(&mut self, staged: &BTreeSet<Digest>) {
        for served in self.environments.values_mut() {
            let live = served.live;
            served.versions.retain(|version| Some(*version) == live || staged.contains(version));
        }
    }

    pub(crate) fn hello(&mut self, term: Term) -> Vec<Seen> {
        assert!(self.meets(term), "the model's controllers have rising terms");
        let seen = self.environments.iter().map(|(environment, served)| Seen {
            environment: environment.clone(),
            live: served.live,
            proven: served.proven,
            versions: served.versions.clone(),
        });
        seen.collect()
    }

    pub(crate) fn obey(
        &mut self,
        environment: &EnvironmentName,
        fence: Fence,
        order: &Order,
        bad: &Digest,
    ) -> Answer {
        if !self.meets(fence.term) {
            return Answer::Refused;
        }
        let served = self.environments.entry(environment.clone()).or_default();
        if served.fence.is_some_and(|seen| !seen.admits(&fence)) {
            return Answer::Refused;
        }
        served.fence = Some(fence);
        match order {
            Order::Stage { snapshot } | Order::Retain { snapshot } if snapshot == bad => {
                Answer::StageFailed(Fault::Content)
            }
            Order::Stage { snapshot } | Order::Retain { snapshot } if served.versions.contains(snapshot) => {
                Answer::Staged
            }
            Order::Stage { .. } | Order::Retain { .. } if self.disk_full => Answer::StageFailed(Fault::Node),
            Order::Stage { snapshot } | Order::Retain { snapshot } => {
                served.versions.insert(*snapshot);
                Answer::Staged
            }
            Order::Commit { snapshot } => {
                let swapped = served.live != Some(*snapshot);
                if swapped && !served.versions.contains(snapshot) {
                    return Answer::NotStaged;
                }
                served.live = Some(*snapshot);
                served.proven = (served.proven && !swapped) || self.server_up;
                Answer::Committed { proven: served.proven, swapped }
            }
            Order::Discard { snapshot } => {
                if served.live != Some(*snapshot) {
                    served.versions.remove(snapshot);
                }
                Answer::Discarded
            }
        }
    }

    fn meets(&mut self, term: Term) -> bool {
        let may = self.highest.is_none_or(|highest| highest.yields_to(&term));
        if may {
            self.highest = Some(term);
        }
        may
    }
}
