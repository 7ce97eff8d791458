//! Whether a certificate is asked for, by an operator or because the one in service ends.

use std::collections::BTreeSet;

use bunraku_certificates::AltName;
use bunraku_common::{NodeName, limits};

use super::CertificateFact;
use crate::{Fact, Millis, NodeRecord, Refusal, RefusalCode, State};

/// More names than this are a mistake.
const NAMES: usize = limits::ALT_NAMES;
/// A certificate is renewed when so little of its life is left, whatever its life, in seconds, …
const RENEWED_S: u64 = 60 * 86_400;
/// … or this part of it, where that is less.
const RENEWED_PART: u64 = 3;
/// After a renewal that failed, in milliseconds.
const RENEWED_AGAIN: Millis = 86_400_000;
/// Who asks for renewals.
pub(super) const RENEWAL: &str = "renewal";

impl State {
    /// An operator declares what a compiler's certificate is to say. No names: those that were declared before.
    pub(crate) fn certificate_asked(
        &self,
        node: &NodeName,
        alt_names: &[String],
        who: &str,
    ) -> Result<Vec<Fact>, Refusal> {
        let record = self.known_node(node)?;
        if !record.is_compiler() {
            let reason = format!("{node} is no compiler: its Puppet agent asks for its certificate");
            return Err(Refusal::new(RefusalCode::Invalid, reason, "bunraku nodes list"));
        }
        if !record.is_active_compiler() {
            let reason = format!("{node} is held, or has no identity");
            return Err(Refusal::new(RefusalCode::Conflict, reason, format!("bunraku nodes show {node}")));
        }
        let known = self.certificates.nodes.get(node);
        let alt_names = match known.and_then(|known| known.declared.clone()) {
            Some(declared) if alt_names.is_empty() => declared,
            Some(_) | None => names(node, alt_names)?,
        };
        if let Some(open) = known.and_then(|known| known.attempt.as_ref()).filter(|attempt| attempt.is_open())
        {
            if known.and_then(|known| known.declared.as_ref()) == Some(&alt_names) {
                return Ok(Vec::new());
            }
            let reason = format!("another certificate of {node} is {} already", open.phase.name());
            return Err(Refusal::new(RefusalCode::Conflict, reason, format!("bunraku cert show {node}")));
        }
        Ok(vec![self.asked(node, alt_names, who)])
    }

    fn asked(&self, node: &NodeName, alt_names: BTreeSet<String>, who: &str) -> Fact {
        let generation = self.certificates.last.next();
        Fact::Certificate(CertificateFact::Asked {
            node: node.clone(),
            generation,
            alt_names,
            who: who.to_owned(),
        })
    }

    /// The next certificate to be renewed by the wall clock: one at a time, the one that ends first.
    pub(crate) fn certificate_renewal(&self, now_s: u64, now: Millis) -> Option<Fact> {
        let known = &self.certificates.nodes;
        if known.values().any(|known| known.attempt.as_ref().is_some_and(|attempt| attempt.is_open())) {
            return None;
        }
        let ending = known.iter().filter_map(|(node, known)| {
            let (host, declared) = (known.host.as_ref()?, known.declared.as_ref()?);
            let active = self.fleet.nodes.get(node).is_some_and(NodeRecord::is_active_compiler);
            let tried = known.attempt.as_ref().map_or(0, |attempt| attempt.since);
            let again = tried == 0 || now.saturating_sub(tried) >= RENEWED_AGAIN;
            let life = host.not_after_s.saturating_sub(host.not_before_s);
            let soon = host.not_after_s.saturating_sub(now_s) < RENEWED_S.min(life / RENEWED_PART);
            (active && again && soon).then_some((host.not_after_s, node, declared))
        });
        let (_, node, declared) = ending.min()?;
        Some(self.asked(node, declared.clone(), RENEWAL))
    }
}

/// As `DNS:puppet`; the certname itself is always one, and is not named.
fn names(node: &NodeName, given: &[String]) -> Result<BTreeSet<String>, Refusal> {
    let invalid = |reason: String| {
        let hint = format!("bunraku cert request {node} --dns-alt-names puppet.example.com");
        Refusal::new(RefusalCode::Invalid, reason, hint)
    };
    if given.len() > NAMES {
        return Err(invalid(format!("{} names are given, and {NAMES} are the most", given.len())));
    }
    let own = AltName::dns(node);
    let mut names = BTreeSet::new();
    for text in given {
        let name: AltName =
            text.parse().map_err(|error: bunraku_certificates::NotAnAltName| invalid(error.to_string()))?;
        if !matches!(name, AltName::Dns(_)) {
            return Err(invalid(format!("{name} is no DNS name")));
        }
        if name != own {
            names.insert(name.to_string());
        }
    }
    Ok(names)
}
