//! What the numbers of a compiler that bakes say beside those of its siblings over the same time. No answer is no pass.

use bunraku_common::NodeName;
use serde::{Deserialize, Serialize};

use super::{JudgedBy, OnInconclusive, Rollout, RolloutPhase, Turn, TurnPhase};
use crate::{Fact, Millis, Presence, RolloutId, State, view::Health};

/// With fewer on either side chance would decide.
const CATALOGS: u64 = 20;
/// A restarted Puppet Server compiles slowly until it is warm: what is slower than this is not only cold.
const SLOWER: u64 = 3;
const SLOWER_MS: u64 = 1_000;
/// In hundredths of all requests for catalogs.
const FAILS_MORE: u64 = 5;
/// One can be an accident.
const FAILURES: u64 = 2;

/// How a bake ended, and the numbers behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub says: Says,
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Says {
    Pass,
    Fail,
    /// Too little was compiled, or nobody was there to compare with.
    Inconclusive,
}

impl Says {
    /// As people and the wire see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
        }
    }
}

impl State {
    /// The verdict on a compiler that bakes, as soon as there is one: a fail at once, a pass at the end of the bake, and
    /// that there is none when even the longest bake is over.
    pub(crate) fn due_verdict(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        turn: &Turn,
        presence: &Presence,
        now: Millis,
    ) -> Option<Fact> {
        let from = bake_began(turn, presence);
        let verdict = self.verdict_so_far(rollout, node, turn, presence, now);
        let due = match verdict.says {
            Says::Fail => true,
            Says::Pass => now >= from.saturating_add(rollout.policy.bake),
            Says::Inconclusive => now >= from.saturating_add(rollout.policy.longest_bake()),
        };
        due.then(|| Fact::TurnJudged { rollout: rollout.id, node: node.clone(), verdict })
    }

    /// What the numbers of the bake say until now.
    pub(super) fn verdict_so_far(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        turn: &Turn,
        presence: &Presence,
        now: Millis,
    ) -> Verdict {
        let from = bake_began(turn, presence);
        let mut others = Health::default();
        for sibling in self.siblings(rollout, node, presence, now) {
            others.add(&presence.health_since(&sibling, from));
        }
        judge(&presence.health_since(node, from), &others)
    }

    /// In service, and not on trial in the same rollout.
    fn siblings(
        &self,
        rollout: &Rollout,
        node: &NodeName,
        presence: &Presence,
        now: Millis,
    ) -> Vec<NodeName> {
        let Ok(sight) = self.sight(presence, now) else { return Vec::new() };
        let on_trial = |other: &NodeName| {
            let phase = rollout.turns.get(other).map(|turn| turn.phase);
            phase.is_some_and(|phase| phase != TurnPhase::Waiting && !phase.is_over())
        };
        let others = self.fleet.nodes.keys().filter(|other| *other != node && !on_trial(other));
        others.filter(|other| sight.is_in_service(other)).cloned().collect()
    }

    /// Whose numbers the open rollouts need now, and whether more catalogs would help: of the compiler on trial and of
    /// its siblings.
    pub fn on_trial(&self, presence: &Presence, now: Millis) -> Vec<Trial> {
        let mut trials = Vec::new();
        for rollout in self.rollouts.values().filter(|rollout| !rollout.is_ended()) {
            let baking = rollout.turns.iter().filter(|(_, turn)| rollout.is_on_trial(turn));
            for (node, turn) in baking {
                let mut nodes = self.siblings(rollout, node, presence, now);
                nodes.push(node.clone());
                let baked = bake_began(turn, presence).saturating_add(rollout.policy.bake);
                let certname = if now >= baked { rollout.policy.test_catalog.clone() } else { String::new() };
                trials.push(Trial { nodes, certname });
            }
        }
        trials
    }

    /// What is recorded of it, and that a rollout without a verdict waits for people unless it may go on.
    pub(crate) fn turn_judged(&mut self, id: RolloutId, node: &NodeName, verdict: &Verdict, at: Millis) {
        let Some(rollout) = self.rollouts.get_mut(&id).filter(|rollout| !rollout.is_ended()) else {
            return;
        };
        let Some(turn) = rollout.turns.get_mut(node) else { return };
        turn.verdict = Some(verdict.clone());
        let pauses = rollout.policy.on_inconclusive == OnInconclusive::Pause;
        if verdict.says == Says::Inconclusive && pauses && rollout.phase == RolloutPhase::Running {
            let reason = format!("nothing can be said of {node}: {}", verdict.why);
            rollout.phase = RolloutPhase::Paused { reason, since: at };
        }
    }
}

/// Compilers that are asked for their numbers now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    pub nodes: Vec<NodeName>,
    /// Each of them is to compile a catalog for it; empty: their load is enough, or none was named.
    pub certname: String,
}

impl Rollout {
    pub(super) fn is_on_trial(&self, turn: &Turn) -> bool {
        turn.phase == TurnPhase::Baking
            && turn.verdict.is_none()
            && self.policy.judged_by == JudgedBy::Siblings
    }
}

/// A controller that was away has lost the numbers, and nobody saw whether it stayed in service: the bake begins anew.
pub(super) fn bake_began(turn: &Turn, presence: &Presence) -> Millis {
    turn.since.max(presence.up_since())
}

/// When the compiler has stayed in service for long enough. One that was judged has.
pub(super) fn bake_ends(rollout: &Rollout, turn: &Turn, presence: &Presence) -> Millis {
    let began = if turn.verdict.is_some() { turn.since } else { bake_began(turn, presence) };
    began.saturating_add(rollout.policy.bake)
}

/// What these numbers say, however long they were collected.
fn judge(own: &Health, others: &Health) -> Verdict {
    let verdict = |says: Says, why: String| Verdict { says, why };
    if own.catalogs < CATALOGS || others.catalogs < CATALOGS {
        let why = format!(
            "{} catalogs there and {} on its siblings are too few to compare, each needs {CATALOGS}",
            own.catalogs, others.catalogs
        );
        return verdict(Says::Inconclusive, why);
    }
    // Of each count, times the catalogs of the other side: nothing is divided.
    let scaled = |count: u64, of: u64| u128::from(count) * u128::from(of);
    let (mine, theirs) = (scaled(own.failed, others.catalogs), scaled(others.failed, own.catalogs));
    let both = scaled(own.catalogs, others.catalogs);
    let told = |what: &str, mine: u64, theirs: u64| {
        format!("{mine} {what} of {} catalogs, its siblings {theirs} of {}", own.catalogs, others.catalogs)
    };
    if own.failed >= FAILURES && mine * 100 > theirs * 100 + both * u128::from(FAILS_MORE) {
        return verdict(Says::Fail, told("failed", own.failed, others.failed));
    }
    let (mine, theirs) =
        (scaled(own.borrow_timeouts, others.catalogs), scaled(others.borrow_timeouts, own.catalogs));
    if own.borrow_timeouts >= FAILURES && mine > theirs * 2 {
        let what = "timed out waiting for a JRuby";
        return verdict(Says::Fail, told(what, own.borrow_timeouts, others.borrow_timeouts));
    }
    let (mine, theirs) = (scaled(own.catalog_ms, others.catalogs), scaled(others.catalog_ms, own.catalogs));
    let means = format!(
        "a catalog takes {} ms, on its siblings {} ms",
        own.catalog_ms / own.catalogs,
        others.catalog_ms / others.catalogs
    );
    if mine > theirs * u128::from(SLOWER) + both * u128::from(SLOWER_MS) {
        return verdict(Says::Fail, means);
    }
    let what = told("failed", own.failed, others.failed);
    verdict(Says::Pass, format!("{what}; {means}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(catalogs: u64, mean_ms: u64, failed: u64, borrow_timeouts: u64) -> Health {
        Health { catalogs, catalog_ms: catalogs * mean_ms, failed, borrow_timeouts }
    }

    fn says(own: &Health, others: &Health) -> Says {
        judge(own, others).says
    }

    #[test]
    fn few_catalogs_on_either_side_say_nothing_however_bad_they_are() {
        assert_eq!(says(&health(19, 90_000, 19, 19), &health(500, 100, 0, 0)), Says::Inconclusive);
        assert_eq!(says(&health(500, 90_000, 500, 0), &health(19, 100, 0, 0)), Says::Inconclusive);
        assert_eq!(says(&health(0, 0, 0, 0), &health(0, 0, 0, 0)), Says::Inconclusive);
    }

    #[test]
    fn errors_that_siblings_have_too_are_not_the_updates_fault() {
        assert_eq!(says(&health(100, 800, 6, 0), &health(1000, 800, 0, 0)), Says::Fail);
        assert_eq!(says(&health(100, 800, 6, 0), &health(1000, 800, 20, 0)), Says::Pass);
        assert_eq!(says(&health(20, 800, 1, 0), &health(1000, 800, 0, 0)), Says::Pass, "one is an accident");
    }

    #[test]
    fn a_cold_server_is_slow_and_a_broken_one_is_slower() {
        assert_eq!(says(&health(50, 2_900, 0, 0), &health(50, 800, 0, 0)), Says::Pass);
        assert_eq!(says(&health(50, 3_500, 0, 0), &health(50, 800, 0, 0)), Says::Fail);
        assert_eq!(says(&health(50, 20, 0, 0), &health(50, 3, 0, 0)), Says::Pass, "nobody notices");
    }

    #[test]
    fn time_outs_of_the_pool_count_against_those_of_the_siblings() {
        assert_eq!(says(&health(50, 800, 0, 3), &health(500, 800, 0, 0)), Says::Fail);
        assert_eq!(says(&health(50, 800, 0, 3), &health(50, 800, 0, 2)), Says::Pass);
    }
}
