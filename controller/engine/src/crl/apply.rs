//! Facts about Puppet's CRLs change the state.

use std::collections::BTreeSet;

use bunraku_common::{Generation, NodeName};

use super::{
    Canary, CanaryState, CrlFact, CrlHeld, CrlNode, CrlProof, News, RejectedCrl, Revocations, SeenCrl,
    WantedCrl,
};
use crate::Millis;

impl Revocations {
    pub(crate) fn apply(&mut self, fact: &CrlFact, at: Millis) {
        match fact {
            CrlFact::Wanted { seen, generation, news, by } => {
                self.want(seen, *generation, *news, by.is_some(), at);
            }
            CrlFact::Rejected { seen, reason, hint } => {
                let (seen, reason, hint) = (seen.clone(), reason.clone(), hint.clone());
                self.rejected = Some(RejectedCrl { seen, reason, hint, at });
            }
            CrlFact::RejectionOver => self.rejected = None,
            CrlFact::OnNode { node, holds: None } => {
                self.nodes.remove(node);
            }
            CrlFact::OnNode { node, holds: Some(holds) } => self.on_node(node, holds, at),
            CrlFact::Refused { node, reason } => {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.refused.clone_from(reason);
                }
            }
            CrlFact::Proven { node, generation, refused_ms } => {
                self.proven(node, *generation, *refused_ms, at);
            }
            CrlFact::Unproven { node, reason } => {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.unproven.clone_from(reason);
                }
            }
            CrlFact::CanaryReady { name, certificate, ends_s } => {
                let canary =
                    Canary { certificate: certificate.clone(), ends_s: *ends_s, state: CanaryState::Ready };
                self.canaries.insert(name.clone(), canary);
                self.trouble.clear();
            }
            CrlFact::CanaryChosen { name } => {
                if let Some(canary) = self.canaries.get_mut(name) {
                    canary.state = CanaryState::Chosen;
                }
            }
            CrlFact::CanaryRetired { name } => {
                self.loses(name, at);
                if let Some(canary) = self.canaries.get_mut(name) {
                    canary.state = CanaryState::Retired;
                }
            }
            CrlFact::CanaryGone { name } => {
                self.loses(name, at);
                self.canaries.remove(name);
                self.trouble.clear();
            }
            CrlFact::CanaryTrouble { reason } => self.trouble.clone_from(reason),
        }
    }

    fn want(&mut self, seen: &SeenCrl, generation: Generation, is_news: bool, reset: bool, at: Millis) {
        let before = self.wanted.take();
        let written_ms = seen.written_ms;
        let news = match &before {
            Some(before) if !is_news => before.news,
            Some(_) | None => News { generation, at, written_ms },
        };
        let open = before.as_ref().and_then(|before| before.uncovered).or(is_news.then_some(at));
        let spent = self.spend(&seen.canaries, generation, news);
        let first = before.as_ref().map_or(Generation::default(), |before| before.reset);
        let for_all = match &before {
            Some(before) if spent && !is_news => before.for_all,
            Some(_) | None => News { generation, at, written_ms },
        };
        self.wanted = Some(WantedCrl {
            crl: seen.crl,
            numbers: seen.numbers.clone(),
            generation,
            at,
            written_ms,
            ends_s: seen.ends_s,
            ca_ends_s: seen.ca_ends_s,
            half_s: seen.half_s,
            revoked: seen.revoked,
            news,
            uncovered: open.filter(|_| !spent),
            reset: if reset { generation } else { first },
            for_all,
        });
        self.rejected = None;
        if is_news {
            for node in self.nodes.values_mut() {
                node.exposed.get_or_insert(at);
            }
        }
    }

    /// Whether there were any that were not known to be revoked.
    fn spend(&mut self, canaries: &BTreeSet<String>, generation: Generation, covers: News) -> bool {
        let revoked =
            self.canaries.iter_mut().filter(|(name, canary)| canaries.contains(*name) && !canary.is_spent());
        let revoked: Vec<&mut Canary> = revoked.map(|(_, canary)| canary).collect();
        let any = !revoked.is_empty();
        for canary in revoked {
            canary.state = CanaryState::Spent { generation, covers };
        }
        any
    }

    /// An operator has put a compiler back into service that was out for want of a revocation.
    pub(crate) fn overruled(&mut self, compiler: &NodeName) {
        let news = self.wanted.as_ref().map(|wanted| wanted.news.generation);
        if let Some(node) = self.nodes.get_mut(compiler).filter(|node| node.exposed.is_some()) {
            node.overruled = news;
        }
    }

    /// Without the newest spent canary nobody can be proven: another one is to be revoked.
    fn loses(&mut self, canary: &str, at: Millis) {
        let is_newest = self.spent().is_some_and(|(name, _)| name == canary);
        if let Some(wanted) = self.wanted.as_mut().filter(|_| is_newest) {
            wanted.uncovered.get_or_insert(at);
        }
    }

    fn on_node(&mut self, name: &NodeName, holds: &CrlHeld, at: Millis) {
        let lacks = self.lacks_news(holds);
        let known = self.nodes.get(name);
        let same = known
            .is_some_and(|known| known.holds.crl == holds.crl && known.holds.generation == holds.generation);
        let exposed = known.and_then(|known| known.exposed).or(Some(at)).filter(|_| lacks);
        let delivered_at = match known {
            Some(known) if same => known.delivered_at,
            Some(_) | None => holds.crl.map(|_| at),
        };
        // What was proven stays so: a node never goes back, and one whose file is wrong says so. One that knows nothing of
        // it is another host, or was set up anew.
        let proof = known.and_then(|known| known.proof);
        let proof = proof.filter(|proof| holds.crl.is_some() && holds.generation >= proof.generation);
        let overruled = known.and_then(|known| known.overruled);
        let unproven = known.map(|known| known.unproven.clone()).unwrap_or_default();
        let refused = known.filter(|_| lacks).map(|known| known.refused.clone()).unwrap_or_default();
        let unread_since = known.and_then(|known| known.unread_since).or(Some(at));
        let unread_since = unread_since.filter(|_| !holds.unread.is_empty());
        let holds = holds.clone();
        let node =
            CrlNode { holds, delivered_at, exposed, unread_since, overruled, proof, refused, unproven };
        self.nodes.insert(name.clone(), node);
    }

    fn proven(&mut self, node: &NodeName, generation: Generation, refused_ms: u64, at: Millis) {
        let covered = self.canaries.values().find_map(|canary| match canary.state {
            CanaryState::Spent { generation: revoked, covers } if revoked == generation => Some(covers),
            CanaryState::Spent { .. } | CanaryState::Ready | CanaryState::Chosen | CanaryState::Retired => {
                None
            }
        });
        let (Some(covers), Some(node)) = (covered, self.nodes.get_mut(node)) else { return };
        node.proof = Some(CrlProof { generation, at, covers, refused_ms });
        node.unproven.clear();
    }
}
