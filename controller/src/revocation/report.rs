//! `bunraku crl status`, from the state and the kept files.

use std::collections::BTreeMap;

use bunraku_common::Digest;
use bunraku_engine::{
    State,
    crl::{CrlNode, CrlProof, News, Revocations, WantedCrl},
};
use bunraku_proto::v1;

use super::CrlFiles;
use crate::report::Reporter;

impl Reporter {
    /// `watched`: the configuration names Puppet's files.
    pub(crate) fn crl(&self, state: &State, files: &CrlFiles, watched: bool) -> v1::CrlStatusReply {
        let known = state.revocations();
        let mut numbers = BTreeMap::new();
        let mut number = |crl: &Digest| {
            numbers.entry(*crl).or_insert_with(|| number(files, crl).unwrap_or_default()).clone()
        };
        let nodes = known.nodes.iter().map(|(name, node)| v1::CrlNodeInfo {
            node: name.to_string(),
            connected: self.shared.presence().is_connected(name),
            number: node.holds.crl.as_ref().map(&mut number).unwrap_or_default(),
            ..self.crl_node(state, node)
        });
        let nodes = nodes.collect();
        let mut reply = v1::CrlStatusReply {
            watched,
            proof: state.settings().crl_proof,
            canaries: known.canaries.values().filter(|canary| !canary.is_spent()).count() as u64,
            trouble: known.trouble.clone(),
            nodes,
            ..v1::CrlStatusReply::default()
        };
        if let Some(rejected) = &known.rejected {
            (reply.rejected, reply.rejected_hint) = (rejected.reason.clone(), rejected.hint.clone());
            reply.rejected_ms = self.shown(rejected.at);
        }
        if let Some(wanted) = &known.wanted {
            reply.crl = wanted.crl.to_string();
            reply.number = number(&wanted.crl);
            (reply.revoked, reply.ends, reply.ca_ends) = (wanted.revoked, wanted.ends_s, wanted.ca_ends_s);
            (reply.written_ms, reply.changed_ms) = (wanted.written_ms, wanted.news.written_ms);
        }
        reply
    }

    fn crl_node(&self, state: &State, node: &CrlNode) -> v1::CrlNodeInfo {
        let known = state.revocations();
        let mut info = v1::CrlNodeInfo {
            crl: node.holds.crl.map(|crl| crl.to_string()).unwrap_or_default(),
            state: standing(state, node).to_owned(),
            note: [&node.holds.owed, &node.refused, &node.holds.unread, &node.unproven]
                .into_iter()
                .find(|note| !note.is_empty())
                .cloned()
                .unwrap_or_default(),
            exposed_ms: node.exposed.map_or(0, |at| self.shown(at)),
            ..v1::CrlNodeInfo::default()
        };
        if let (Some(wanted), Some(at)) = (&known.wanted, node.delivered_at) {
            info.delivered_ms = self.shown(at);
            let written_ms = if node.holds.provable { wanted.written_ms } else { wanted.for_all.written_ms };
            if known.has(node) {
                info.delivery_ms = lag(info.delivered_ms, written_ms);
            }
        }
        if let Some(proof) = node.proof {
            (info.proven_ms, info.enforced_ms) = (self.shown(proof.at), proof.refused_ms);
            if let Some(wanted) = &known.wanted {
                (info.enforcement_ms, info.proof_ms) = lags(&proof, &wanted.news, info.proven_ms);
            }
        }
        info
    }
}

/// At least one, where it can be told: 0 stands for unknown.
fn lag(at_ms: u64, written_ms: u64) -> u64 {
    at_ms.saturating_sub(written_ms).max(1)
}

fn standing(state: &State, node: &CrlNode) -> &'static str {
    let known: &Revocations = state.revocations();
    let lacks = |wanted: &WantedCrl| node.holds.generation < wanted.news.generation;
    match &known.wanted {
        None => "nothing to deliver yet",
        Some(wanted) if lacks(wanted) || node.holds.crl.is_none() => "behind",
        Some(_) if !node.holds.owed.is_empty() || !node.holds.unread.is_empty() => "owing",
        Some(_) if !node.holds.provable => "delivered",
        Some(wanted) => match node.proof {
            Some(proof) if is_of(&proof, &wanted.news) => "proven",
            Some(_) | None => "delivered, not proven",
        },
    }
}

/// A proof of an earlier change says nothing about this one.
fn is_of(proof: &CrlProof, change: &News) -> bool {
    proof.covers.generation >= change.generation
}

/// From the CA's writing of the newest change until a canary was refused, and until that was known; 0: not yet.
fn lags(proof: &CrlProof, newest: &News, proven_ms: u64) -> (u64, u64) {
    let written_ms = proof.covers.written_ms;
    if is_of(proof, newest) {
        (lag(proof.refused_ms, written_ms), lag(proven_ms, written_ms))
    } else {
        (0, 0)
    }
}

/// Of the CA's own CRL: the one that revokes most, and of equals the highest.
fn number(files: &CrlFiles, crl: &Digest) -> Option<String> {
    let crls = files.read(crl)?;
    let own = crls.iter().max_by_key(|crl| (crl.revoked().len(), crl.number()))?;
    Some(own.number().to_string())
}

#[cfg(test)]
mod tests {
    use bunraku_common::Generation;

    use super::*;

    fn change(generation: u64, written_ms: u64) -> News {
        News { generation: Generation(generation), at: 0, written_ms }
    }

    /// Regression: a node that was not proven was shown with the times of the change before.
    #[test]
    fn times_of_a_proof_are_shown_for_the_newest_change_only() {
        let covers = change(4, 1_000);
        let proof = CrlProof { generation: Generation(5), at: 0, covers, refused_ms: 2_400 };
        assert_eq!(lags(&proof, &covers, 2_700), (1_400, 1_700));
        assert_eq!(lags(&proof, &change(6, 9_000), 2_700), (0, 0));
    }
}
