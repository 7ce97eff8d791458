//! What is reported about Puppet's CRLs, and what of it is news.

use std::collections::BTreeSet;

use bunraku_certificates::{Comparison, Numbers, Revoked};
use bunraku_common::{Digest, Generation, NodeName};
use serde::{Deserialize, Serialize};

use super::{CrlFact, CrlHeld, RejectedCrl, Revocations};
use crate::{Fact, Refusal, RefusalCode, State};

const ACCEPT: &str = "if the CA was restored or replaced on purpose: bunraku crl accept --number-reset; else find out who \
                      changed it";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrlEvent {
    /// The CA's file was read, and every CRL in it is good by itself.
    Seen(SeenCrl),
    /// The CA's file cannot be used: empty, cut, expired, of another CA, ….
    Unusable { reason: String, hint: String },
    /// What a node says of itself. `None`: it takes no CRLs.
    OnNode { node: NodeName, holds: Option<CrlHeld> },
    /// A node does not take what is wanted.
    Refused { node: NodeName, reason: String },
    /// A node's Puppet Server refused the canary, or why that is not proven.
    Proof { node: NodeName, generation: Generation, refused: Result<u64, String> },
    /// A canary was signed by Puppet's CA.
    CanaryReady { name: String, certificate: Revoked, ends_s: u64 },
    /// A canary could not be made, revoked or forgotten. Empty: it could.
    CanaryTrouble { reason: String },
    /// Nothing is left of it but its entry in the CRL.
    CanaryGone { name: String },
}

/// The CA's file as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenCrl {
    pub crl: Digest,
    pub numbers: Numbers,
    pub ends_s: u64,
    pub ca_ends_s: u64,
    pub half_s: u64,
    pub revoked: u64,
    /// How many certificates it revokes that `since` did not.
    pub added: u64,
    /// What they were counted from.
    pub since: Option<Digest>,
    /// Our own that it revokes, of those that were not known to be revoked.
    pub canaries: BTreeSet<String>,
    /// The same CRLs as in `since`, in another order or with another text around them.
    pub same_content: bool,
    pub written_ms: u64,
}

impl State {
    /// An administrator accepts what the CA's file holds, though its numbers are lower or of another authority.
    pub(crate) fn accept_crl(&self, who: &str) -> Result<Fact, Refusal> {
        let known = &self.revocations;
        let Some(rejected) = &known.rejected else {
            let reason = "there is nothing to accept: no CRL of Puppet's CA is being held back";
            return Err(Refusal::new(RefusalCode::NotFound, reason, "bunraku crl status"));
        };
        match &rejected.seen {
            Some(seen) => Ok(Fact::Crl(known.accepted(seen.clone(), Some(who.to_owned())))),
            None => {
                let reason = format!("no server could use the CRL of Puppet's CA: {}", rejected.reason);
                Err(Refusal::new(RefusalCode::Conflict, reason, rejected.hint.clone()))
            }
        }
    }

    pub(crate) fn observe_crl(&self, event: CrlEvent) -> Vec<Fact> {
        let known = &self.revocations;
        let fact = match event {
            CrlEvent::Seen(seen) => known.seen(seen),
            CrlEvent::Unusable { reason, hint } => known.rejected(None, reason, hint),
            CrlEvent::OnNode { node, holds } => {
                let enrolled = self.fleet.nodes.get(&node).is_some_and(|record| record.enrolled);
                let before = known.nodes.get(&node).map(|known| &known.holds);
                (enrolled && before != holds.as_ref()).then_some(CrlFact::OnNode { node, holds })
            }
            CrlEvent::Refused { node, reason } => {
                let news = known.nodes.get(&node).is_some_and(|known| known.refused != reason);
                news.then_some(CrlFact::Refused { node, reason })
            }
            CrlEvent::Proof { node, generation, refused } => known.proof(node, generation, refused),
            CrlEvent::CanaryReady { name, certificate, ends_s } => {
                let fresh = !known.canaries.contains_key(&name);
                fresh.then_some(CrlFact::CanaryReady { name, certificate, ends_s })
            }
            CrlEvent::CanaryTrouble { reason } => {
                (known.trouble != reason).then_some(CrlFact::CanaryTrouble { reason })
            }
            CrlEvent::CanaryGone { name } => {
                known.canaries.contains_key(&name).then_some(CrlFact::CanaryGone { name })
            }
        };
        fact.map(Fact::Crl).into_iter().collect()
    }
}

impl Revocations {
    fn seen(&self, seen: SeenCrl) -> Option<CrlFact> {
        let Some(wanted) = &self.wanted else { return Some(self.accepted(seen, None)) };
        if seen.crl == wanted.crl || seen.since == Some(wanted.crl) && seen.same_content {
            return self.rejected.as_ref().map(|_| CrlFact::RejectionOver);
        }
        let reason = match wanted.numbers.compare(&seen.numbers) {
            Comparison::Newer => return Some(self.accepted(seen, None)),
            Comparison::Older { issuer, theirs, ours } => format!(
                "the CRL of authority {} has number {theirs}, and {ours} was sent out before",
                issuer.short()
            ),
            Comparison::Same => {
                "it says something else under the numbers that were sent out before".to_owned()
            }
            Comparison::OtherIssuers => "it is of other authorities than the one before".to_owned(),
        };
        self.rejected(Some(seen), reason, ACCEPT.to_owned())
    }

    fn rejected(&self, seen: Option<SeenCrl>, reason: String, hint: String) -> Option<CrlFact> {
        let same = |known: &RejectedCrl| {
            let digest = |seen: &Option<SeenCrl>| seen.as_ref().map(|seen| seen.crl);
            known.reason == reason && digest(&known.seen) == digest(&seen)
        };
        (!self.rejected.as_ref().is_some_and(same)).then_some(CrlFact::Rejected { seen, reason, hint })
    }

    /// The next decision. `by`: who accepts that numbers go back.
    pub(crate) fn accepted(&self, seen: SeenCrl, by: Option<String>) -> CrlFact {
        let known = self.wanted.as_ref();
        let is_open = |name: &String| self.canaries.get(name).is_some_and(|known| !known.is_spent());
        let canaries = seen.canaries.iter().filter(|name| is_open(name)).count() as u64;
        // What was counted from something else than what is wanted says nothing about what is new.
        let counted = known.is_some_and(|wanted| seen.since == Some(wanted.crl));
        let news = !counted || by.is_some() || seen.added > canaries;
        // A restored journal may know less than the nodes.
        let on_nodes = self.nodes.values().map(|node| node.holds.generation);
        let generation =
            on_nodes.chain(known.map(|wanted| wanted.generation)).max().unwrap_or_default().next();
        CrlFact::Wanted { seen: Box::new(seen), generation, news, by }
    }

    fn proof(&self, node: NodeName, generation: Generation, refused: Result<u64, String>) -> Option<CrlFact> {
        let known = self.nodes.get(&node)?;
        if known.proof.is_some_and(|proof| proof.generation >= generation) {
            return None;
        }
        // Of a canary that is not the newest any more, it is still true, and soon replaced.
        match refused {
            Ok(refused_ms) => Some(CrlFact::Proven { node, generation, refused_ms }),
            Err(reason) => (known.unproven != reason).then_some(CrlFact::Unproven { node, reason }),
        }
    }
}
