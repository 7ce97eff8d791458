//! Puppet's CRLs: which ones every node is to have, who has them, and whose Puppet Server was seen to refuse what they
//! revoke. One subject, "crl", with one generation for each change of the CA's file.
//!
//! Proof needs a certificate that is revoked by the same file as somebody else's change: a canary. When a change has
//! gone out, one canary is revoked; the CA's next file holds both; a server that refuses the canary has loaded it.

mod alarms;
mod apply;
mod due;
mod event;
mod fact;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use bunraku_certificates::{Numbers, Revoked};
use bunraku_common::{Digest, Generation, NodeName};
use serde::{Deserialize, Serialize};

use crate::{Millis, State};

pub use event::{CrlEvent, SeenCrl};
pub use fact::CrlFact;

/// All that is remembered of Puppet's CRLs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    pub wanted: Option<WantedCrl>,
    /// What the CA's file held when it was last read, where that is not sent to anybody.
    pub rejected: Option<RejectedCrl>,
    /// The nodes that take CRLs.
    pub nodes: BTreeMap<NodeName, CrlNode>,
    /// By name.
    pub canaries: BTreeMap<String, Canary>,
    /// Why no canary could be made or revoked, the last time that it was tried; empty: nothing is wrong.
    pub trouble: String,
}

/// The CRLs that every node is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedCrl {
    /// Of the file.
    pub crl: Digest,
    pub numbers: Numbers,
    pub generation: Generation,
    pub at: Millis,
    /// When the CA wrote it, Unix milliseconds by this host's clock.
    pub written_ms: u64,
    /// When the first CRL and the first authority end, Unix seconds.
    pub ends_s: u64,
    pub ca_ends_s: u64,
    /// Half of the CRL's life is over then, Unix seconds.
    pub half_s: u64,
    /// Certificates that it revokes.
    pub revoked: u64,
    /// The newest change that was more than our own canaries.
    pub news: News,
    /// Since when there is a change that no revoked canary covers.
    pub uncovered: Option<Millis>,
    /// Nodes whose CRLs are of an earlier generation may go back to lower numbers: the CA counts anew.
    pub reset: Generation,
    /// The newest change that was more than a canary of ours revoked.
    #[serde(default)]
    pub for_all: News,
}

impl WantedCrl {
    /// Whether a node was given what it is to have. Where no Puppet Server stands beside nothing is proven: a canary alone
    /// is no change there, and has nobody reload.
    pub(crate) fn is_held(&self, holds: &CrlHeld) -> bool {
        match holds.provable {
            true => holds.crl == Some(self.crl) && holds.generation >= self.generation,
            // A number of another journal may be above all of this one's.
            false => {
                let given = self.for_all.generation.max(self.news.generation)..=self.generation;
                holds.crl == Some(self.crl) || holds.crl.is_some() && given.contains(&holds.generation)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    pub generation: Generation,
    /// When it was seen.
    pub at: Millis,
    /// When the CA wrote it, Unix milliseconds by this host's clock.
    pub written_ms: u64,
}

/// A file of the CA that no server is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedCrl {
    /// What an administrator may accept; none: it cannot be used at all.
    pub seen: Option<SeenCrl>,
    pub reason: String,
    pub hint: String,
    pub at: Millis,
}

/// One node that takes CRLs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrlNode {
    pub holds: CrlHeld,
    /// When it was first known to hold what it holds.
    pub delivered_at: Option<Millis>,
    /// Since when it lacks a change that is more than our own canaries.
    pub exposed: Option<Millis>,
    /// Since when some service there has not read its file.
    #[serde(default)]
    pub unread_since: Option<Millis>,
    /// An operator enabled it though it lacked this change.
    #[serde(default)]
    pub overruled: Option<Generation>,
    pub proof: Option<CrlProof>,
    /// Why it did not take what is wanted; empty when it did, or nobody has tried.
    pub refused: String,
    /// Why the newest proof does not succeed; empty when nobody has tried.
    pub unproven: String,
}

/// What a node says of the CRLs that it keeps in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrlHeld {
    pub crl: Option<Digest>,
    /// Of the newest order that it obeyed.
    pub generation: Generation,
    /// A Puppet Server stands beside, which can be asked whom it refuses.
    pub provable: bool,
    /// Which file is not as it should be, and why; empty: all are.
    pub owed: String,
    /// Which service has not read its file since it changed, and why; empty: all have.
    #[serde(default)]
    pub unread: String,
}

/// Puppet Server was seen to refuse a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrlProof {
    /// The one whose CRLs revoke the canary.
    pub generation: Generation,
    pub at: Millis,
    /// The change that the node is proven to enforce with it.
    pub covers: News,
    /// When the node first saw the refusal, Unix milliseconds by its clock.
    pub refused_ms: u64,
}

/// A certificate made to be revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    pub certificate: Revoked,
    pub ends_s: u64,
    pub state: CanaryState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CanaryState {
    Ready,
    /// It is to be revoked.
    Chosen,
    /// The CRLs of this generation revoke it, and with it hold this change.
    Spent {
        generation: Generation,
        covers: News,
    },
    /// It ends soon, unused or not, and is of no use any more.
    Retired,
}

impl Canary {
    pub fn is_spent(&self) -> bool {
        matches!(self.state, CanaryState::Spent { .. })
    }
}

impl Revocations {
    /// The newest canary that the wanted CRLs revoke: what a proof is made with.
    pub fn spent(&self) -> Option<(&String, Generation)> {
        let spent = self.canaries.iter().filter_map(|(name, canary)| match canary.state {
            CanaryState::Spent { generation, .. } => Some((name, generation)),
            CanaryState::Ready | CanaryState::Chosen | CanaryState::Retired => None,
        });
        spent.max_by_key(|(_, generation)| *generation)
    }

    /// The files that are still spoken of.
    pub fn files(&self) -> BTreeSet<Digest> {
        let wanted = self.wanted.iter().map(|wanted| wanted.crl);
        let rejected = self.rejected.iter().filter_map(|rejected| Some(rejected.seen.as_ref()?.crl));
        wanted.chain(rejected).chain(self.nodes.values().filter_map(|node| node.holds.crl)).collect()
    }

    /// Whether a node keeps the wanted CRLs in place.
    pub fn has(&self, node: &CrlNode) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.is_held(&node.holds) && node.holds.owed.is_empty())
    }

    /// Whether a node lacks a change that is more than our own canaries.
    pub(crate) fn lacks_news(&self, holds: &CrlHeld) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| {
            holds.generation < wanted.news.generation || !holds.owed.is_empty() || holds.crl.is_none()
        })
    }

    /// Whether there is anybody of whom something can be proven.
    pub(crate) fn is_provable(&self) -> bool {
        self.nodes.values().any(|node| node.holds.provable)
    }

    /// Whether the newest proof that can be had of a node is there.
    pub fn is_proven(&self, node: &CrlNode) -> bool {
        let wanted = self.spent().map(|(_, generation)| generation);
        node.holds.provable && wanted.is_some() && node.proof.map(|proof| proof.generation) >= wanted
    }
}

impl State {
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }
}
