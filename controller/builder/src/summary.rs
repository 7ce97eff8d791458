//! What would change between two snapshots, for people: files up to a bound, and modules with their versions.

use std::collections::BTreeMap;

use bunraku_common::{
    Digest,
    snapshot::{Change, TreeError, diff},
};

use crate::{manifest::modules, store::ObjectStore};

/// So many paths are named of each kind; `total` counts all.
const NAMED: usize = 1000;

/// Changes from one snapshot to another. A removed directory is one path, ending in nothing special, and stands for
/// all that was in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    /// All changes, named or not.
    pub total: usize,
    /// `ntp 9.1.0 → 9.2.0`, `ntp added 9.2.0`, `ntp removed (was 9.1.0)`.
    pub modules: Vec<String>,
}

/// Compares a snapshot with the one before it, or with nothing.
pub fn summarize(store: &ObjectStore, old: Option<&Digest>, new: &Digest) -> Result<Summary, TreeError> {
    let changes = diff(store, old, new)?;
    let mut summary = Summary { total: changes.len(), ..Summary::default() };
    for change in changes {
        let (named, path) = match change {
            Change::Added { path, .. } => (&mut summary.added, path),
            Change::Changed { path, .. } => (&mut summary.changed, path),
            Change::Removed { path, .. } => (&mut summary.removed, path),
        };
        if named.len() < NAMED {
            named.push(path);
        }
    }
    let versions = |digest: &Digest| -> Result<BTreeMap<String, String>, TreeError> {
        Ok(modules(store, digest)?.into_iter().map(|module| (module.name, module.version)).collect())
    };
    let before = old.map(versions).transpose()?.unwrap_or_default();
    summary.modules = compare(&before, &versions(new)?);
    Ok(summary)
}

fn compare(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let moved = after.iter().filter_map(|(name, now)| match before.get(name) {
        Some(was) if was == now => None,
        Some(was) => Some(format!("{name} {was} → {now}")),
        None => Some(format!("{name} added {now}")),
    });
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    let mut lines: Vec<String> =
        moved.chain(gone.map(|(name, was)| format!("{name} removed (was {was})"))).collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_compared_by_version() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let before = map(&[("apt", "1.0"), ("ntp", "1.0"), ("old", "3.0")]);
        let after = map(&[("apt", "1.0"), ("ntp", "1.1"), ("zsh", "2.0")]);
        assert_eq!(compare(&before, &after), ["ntp 1.0 → 1.1", "old removed (was 3.0)", "zsh added 2.0"]);
    }
}
