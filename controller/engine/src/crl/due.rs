//! What changes of Puppet's CRLs demand by themselves: that a canary is revoked, and that compilers which lack a
//! revocation are out of service until they have it (as far as the floor allows: I3 first).

use bunraku_common::NodeName;

use super::{CanaryState, CrlFact, CrlNode, Revocations};
use crate::{DrainOwner, Fact, Millis, NodeRecord, Presence, State, Wanted};

/// A canary that ends within this, in seconds, proves nothing for much longer: its end alone would get it refused.
const ENDING_S: u64 = 86_400;
/// Changes within this time share one canary.
const GATHER: Millis = 1_000;

impl State {
    /// One fact at a time, because the next drain must count the one before.
    pub(crate) fn due_crl(&self, presence: &Presence, now: Millis) -> Option<Fact> {
        self.canary_due(now)
            .or_else(|| self.crl_caught_up(presence))
            .or_else(|| self.exposed_to_drain(presence, now))
    }

    /// When a canary is to be chosen. The drains have none: one that the floor forbids would be overdue for ever, and
    /// every look at a balancer asks for them.
    pub(crate) fn crl_deadline(&self) -> Option<Millis> {
        self.revocations.choosable().and_then(|_| self.gathered_at())
    }

    /// Canaries that end soon by the wall clock, one at a time.
    pub(crate) fn ending_canary(&self, now_s: u64) -> Option<Fact> {
        let mut ending = self.revocations.canaries.iter().filter(|(_, canary)| {
            canary.state != CanaryState::Retired && canary.ends_s < now_s.saturating_add(ENDING_S)
        });
        ending.next().map(|(name, _)| Fact::Crl(CrlFact::CanaryRetired { name: name.clone() }))
    }

    fn gathered_at(&self) -> Option<Millis> {
        let proves = self.settings.crl_proof && self.revocations.is_provable();
        let wanted = self.revocations.wanted.as_ref().filter(|_| proves)?;
        Some(wanted.uncovered?.saturating_add(GATHER))
    }

    fn canary_due(&self, now: Millis) -> Option<Fact> {
        self.gathered_at().filter(|at| *at <= now)?;
        let name = self.revocations.choosable()?.clone();
        Some(Fact::Crl(CrlFact::CanaryChosen { name }))
    }

    /// A compiler that was drained for want of a revocation, and has it by now.
    fn crl_caught_up(&self, presence: &Presence) -> Option<Fact> {
        let drained = self.balance.iter().filter(|(_, known)| known.owner() == Some(&DrainOwner::Crl));
        let mut back = drained.filter(|(name, _)| {
            let active = self.fleet.nodes.get(*name).is_some_and(NodeRecord::is_active_compiler);
            active && presence.is_connected(name) && self.has_caught_up(name) && self.is_proven(name)
        });
        back.next().map(|(name, _)| self.wanted(name, Wanted::Ready, 0, presence))
    }

    fn has_caught_up(&self, name: &NodeName) -> bool {
        let known = &self.revocations;
        let Some(node) = known.nodes.get(name).filter(|_| known.wanted.is_some()) else { return true };
        let proof_can_be_had = self.settings.crl_proof && node.holds.provable && known.spent().is_some();
        known.has(node) && (!proof_can_be_had || known.is_proven(node))
    }

    /// Whether a node lacks something that Puppet's CA has revoked. Where no CRL is watched, nobody does.
    pub(crate) fn lacks_revocations(&self, name: &NodeName) -> bool {
        let known = &self.revocations;
        known.nodes.get(name).is_some_and(|node| known.lacks_news(&node.holds))
    }

    fn exposed_to_drain(&self, presence: &Presence, now: Millis) -> Option<Fact> {
        if !self.settings.crl_drain {
            return None;
        }
        let exposed = self.revocations.nodes.iter().filter(|(name, node)| {
            self.may_be_drained_for_crl(name, node, now)
                && self.drained_at(node, presence).is_some_and(|at| at <= now)
        });
        exposed.map(|(name, _)| name).find_map(|name| {
            let reason = "it lacks a revocation that Puppet's CA has made";
            let drain = self.drain(name, DrainOwner::Crl, reason, 0, presence, now);
            drain.ok()?.into_iter().next()
        })
    }

    /// Whoever enables it by hand has the last word, until the next revocation. A drain that came to nothing is tried again
    /// after a while.
    fn may_be_drained_for_crl(&self, name: &NodeName, node: &CrlNode, now: Millis) -> bool {
        let active = self.fleet.nodes.get(name).is_some_and(NodeRecord::is_active_compiler);
        let news = self.revocations.wanted.as_ref().map(|wanted| wanted.news.generation);
        let tried = self.balance.get(name).filter(|known| known.undone.is_some());
        let rests =
            tried.is_some_and(|known| now < known.decided_at.saturating_add(self.settings.balance_deadline));
        active && !rests && (node.overruled.is_none() || node.overruled < news)
    }

    /// When a compiler that lacks a revocation is taken out of service. A controller that was away gives all of them
    /// their time again.
    fn drained_at(&self, node: &CrlNode, presence: &Presence) -> Option<Millis> {
        let since = node.exposed?.max(presence.up_since());
        Some(since.saturating_add(self.settings.crl_deadline))
    }
}

impl Revocations {
    /// The canary that is revoked next; none while one is being revoked.
    fn choosable(&self) -> Option<&String> {
        let busy = self.canaries.values().any(|canary| canary.state == CanaryState::Chosen);
        let mut ready = self.canaries.iter().filter(|(_, canary)| canary.state == CanaryState::Ready);
        ready.next().map(|(name, _)| name).filter(|_| !busy)
    }
}
