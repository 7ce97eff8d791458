//! How old versions are, as far as this process knows.

use std::collections::BTreeMap;

use bunraku_common::{Digest, EnvironmentName};

/// When this process first saw a version, and when it left the live link; monotonic milliseconds. A restart forgets
/// them, so that everything counts as young again.
#[derive(Debug, Default)]
pub(crate) struct Ages(BTreeMap<EnvironmentName, BTreeMap<Digest, Age>>);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Age {
    pub(crate) seen: u64,
    pub(crate) left: Option<u64>,
}

impl Ages {
    pub(crate) fn left_live(&mut self, env: &EnvironmentName, digest: Digest, now: u64) {
        let age = self.0.entry(env.clone()).or_default().entry(digest);
        age.or_insert(Age { seen: now, left: None }).left = Some(now);
    }

    /// It came later than it was sealed elsewhere, and was not live here.
    pub(crate) fn brought(&mut self, env: &EnvironmentName, digest: Digest, now: u64) {
        self.0.entry(env.clone()).or_default().insert(digest, Age { seen: now, left: None });
    }

    pub(crate) fn of(&mut self, env: &EnvironmentName, digests: &[Digest], now: u64) -> Vec<(Digest, Age)> {
        let known = self.0.entry(env.clone()).or_default();
        known.retain(|digest, _| digests.contains(digest));
        let mut age = |digest: &Digest| *known.entry(*digest).or_insert(Age { seen: now, left: Some(now) });
        digests.iter().map(|digest| (*digest, age(digest))).collect()
    }
}
