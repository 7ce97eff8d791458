//! What must hold of balancers and rollouts, checked where it happens, with numbers of its own: it knows what is true,
//! not only what the controller saw.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Fence, Generation, NodeName};
use bunraku_engine::{Action, Fact, Presence, RolloutId, Step, TurnPhase, Wanted};

use crate::balancer::{BACKEND, Balancer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    I2,
    I3,
    I5,
    I7,
}

impl Property {
    pub(crate) const ALL: [Self; 4] = [Self::I2, Self::I3, Self::I5, Self::I7];
}

/// How much of interest happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) drains: usize,
    pub(crate) undone: usize,
    pub(crate) restarts: usize,
    pub(crate) failed: usize,
    pub(crate) done: usize,
    pub(crate) aborted: usize,
    pub(crate) stale: usize,
    /// Turns whose sessions were closed.
    pub(crate) closings: usize,
    /// By deploys, out of service.
    pub(crate) left_behind: usize,
    /// Rollouts that deploys started.
    pub(crate) renewals: usize,
    /// As pass, fail and inconclusive.
    pub(crate) judged: [usize; 3],
}

#[derive(Default)]
pub(crate) struct Ghost {
    pub(crate) counts: Counts,
    pub(crate) broken: Vec<(Property, String)>,
    wanted_out: BTreeMap<NodeName, u32>,
    /// How often each node's turn has begun.
    attempts: BTreeMap<(RolloutId, NodeName), u32>,
    acted: BTreeSet<(RolloutId, NodeName, u32, bool)>,
    /// What one number of one subject stands for.
    stands_for: BTreeMap<(String, u64, Generation), String>,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.drains += other.drains;
        self.renewals += other.renewals;
        self.undone += other.undone;
        self.restarts += other.restarts;
        self.failed += other.failed;
        self.done += other.done;
        self.aborted += other.aborted;
        self.stale += other.stale;
        self.closings += other.closings;
        self.left_behind += other.left_behind;
        self.judged.iter_mut().zip(other.judged).for_each(|(sum, more)| *sum += more);
    }
}

impl Ghost {
    pub(crate) fn breaks(&mut self, property: Property, what: String) {
        self.broken.push((property, what));
    }

    /// Before the fact is applied.
    pub(crate) fn saw(&mut self, fact: &Fact, presence: &Presence, balancers: &[Balancer]) {
        match fact {
            Fact::BalanceWanted { compiler, wanted: Wanted::Drained { .. }, min_available, .. } => {
                self.counts.drains += 1;
                self.floor_holds(compiler, *min_available, presence, balancers);
                self.wanted_out.insert(compiler.clone(), *min_available);
            }
            Fact::BalanceWanted { compiler, wanted: Wanted::Ready, undone, .. } => {
                self.counts.undone += usize::from(undone.is_some());
                self.wanted_out.remove(compiler);
            }
            Fact::NodeSkipped { node, .. } => {
                self.counts.left_behind += 1;
                if let Some(balancer) = balancers.iter().find(|balancer| carries(balancer, node)) {
                    let what = format!("{node} is left behind while {} sends agents to it", balancer.name);
                    self.breaks(Property::I2, what);
                }
            }
            Fact::RolloutStarted { rollout, waves, action, .. } => {
                self.counts.renewals += usize::from(*action == Action::FlushPool);
                let nodes = waves.iter().flat_map(|wave| wave.nodes.clone());
                self.attempts.extend(nodes.map(|node| ((*rollout, node), 1)));
            }
            Fact::TurnMoved { rollout, node, to, .. } => match to {
                TurnPhase::Waiting => *self.attempts.get_mut(&(*rollout, node.clone())).unwrap() += 1,
                TurnPhase::Failed => self.counts.failed += 1,
                TurnPhase::Done => self.counts.done += 1,
                TurnPhase::Closing => self.counts.closings += 1,
                _ => {}
            },
            // Those that are done have another turn, as after a retry.
            Fact::RolloutAimed { rollout } => {
                let of = self.attempts.iter_mut().filter(|((id, _), _)| id == rollout);
                of.for_each(|(_, attempt)| *attempt += 1);
            }
            Fact::TurnJudged { verdict, .. } => self.counts.judged[verdict.says as usize] += 1,
            Fact::RolloutAborting { .. } => self.counts.aborted += 1,
            _ => {}
        }
    }

    /// Without this compiler enough must be left that were seen in service at every balancer, and that nobody wants
    /// out or still has out.
    fn floor_holds(&mut self, compiler: &NodeName, min: u32, presence: &Presence, balancers: &[Balancer]) {
        let serves = |name: &NodeName| {
            let truly_out = balancers.iter().any(|balancer| balancer.servers[name].drained);
            let seen = balancers.iter().all(|balancer| {
                let view = presence.balancer(&balancer.name).unwrap();
                view.servers_of(name).all(|server| server.in_service && server.backend == BACKEND)
            });
            !truly_out && seen && !self.wanted_out.contains_key(name)
        };
        for balancer in balancers {
            let others = balancer.servers.keys().filter(|name| *name != compiler);
            let left = others.filter(|name| serves(name)).count();
            let asked = self.wanted_out.values().copied().max().unwrap_or(0);
            let floor = balancer.floor.max(min).max(asked).max(1);
            if left < floor as usize {
                let what = format!("{compiler} goes, {left} are left at {}, floor {floor}", balancer.name);
                return self.breaks(Property::I3, what);
            }
        }
    }

    /// A number of one subject stands for one order.
    pub(crate) fn sends(&mut self, step: &Step, fence: Fence) {
        let (subject, what) = match step {
            Step::Balance { compiler, drained, owner, close, .. } => {
                if *close && !self.wanted_out.contains_key(compiler) {
                    self.breaks(
                        Property::I3,
                        format!("sessions of {compiler}, which is not drained, are closed"),
                    );
                }
                (format!("server {compiler}"), format!("{drained} {owner}"))
            }
            Step::Prepare { node, .. } => (format!("turn {node}"), "prepare".to_owned()),
            Step::Settle { node, hold, .. } => (format!("turn {node}"), format!("settle {hold}")),
            Step::Act { node, back, .. } => {
                (format!("turn {node}"), if *back { "revert" } else { "act" }.to_owned())
            }
            Step::Verify { node, .. } => (format!("turn {node}"), "verify".to_owned()),
            _ => return,
        };
        let key = (subject, fence.term.number, fence.generation);
        let known = self.stands_for.entry(key.clone()).or_insert_with(|| what.clone());
        if *known != what {
            let what = format!("{key:?} stands for `{known}` and `{what}`");
            self.breaks(Property::I5, what);
        }
    }

    /// A compiler was really restarted. `turn`: the rollout in which its turn acts now. `back`: by a revert.
    pub(crate) fn restarted(
        &mut self,
        node: &NodeName,
        turn: Option<RolloutId>,
        back: bool,
        balancers: &[Balancer],
    ) {
        self.counts.restarts += 1;
        if let Some(balancer) = balancers.iter().find(|balancer| carries(balancer, node)) {
            self.breaks(
                Property::I3,
                format!("{node} was restarted while {} sent agents to it", balancer.name),
            );
        }
        let Some(rollout) = turn else {
            return;
        };
        let attempt = self.attempts[&(rollout, node.clone())];
        if !self.acted.insert((rollout, node.clone(), attempt, back)) {
            self.breaks(Property::I5, format!("{node} was restarted twice in one turn"));
        }
    }
}

/// One that forgot is told again before long.
fn carries(balancer: &Balancer, node: &NodeName) -> bool {
    let server = &balancer.servers[node];
    server.in_service() && !server.forgot
}
