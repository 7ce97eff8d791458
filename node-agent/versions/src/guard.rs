//! Directory listings under limits: what a hostile snapshot could use to exhaust a node ends here.
//!
//! A listing names other listings by digest, so a few hundred of them can stand for billions of paths, or for a path
//! of any depth. Every walk over a snapshot on a node goes through a `Guard`, which counts what the walk sees.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use bunraku_common::{
    Digest, limits,
    snapshot::{Node, Tree, TreeError, Trees},
};

/// All paths of one walk together. The largest environment measured has 3 MB of them.
const PATHS_BYTES: u64 = 256 << 20;

/// Listings read in one walk: each is a file to open and hash. The largest environment measured has 6,000.
const LISTINGS: usize = 200_000;

/// Trees for one walk that starts at root directories and goes downwards.
#[derive(Debug)]
pub(crate) struct Guard<'a, T> {
    trees: &'a T,
    /// Depth and path length at which a listing was named: the largest of all places.
    places: RefCell<HashMap<Digest, (usize, usize)>>,
    listings: Cell<usize>,
    entries: Cell<usize>,
    bytes: Cell<u64>,
    refused: RefCell<Option<String>>,
}

impl<'a, T: Trees> Guard<'a, T> {
    pub(crate) fn new(trees: &'a T) -> Self {
        Self {
            trees,
            places: RefCell::default(),
            listings: Cell::new(0),
            entries: Cell::new(0),
            bytes: Cell::new(0),
            refused: RefCell::default(),
        }
    }

    /// Which limit the walk broke, if the error it ended with came from here.
    pub(crate) fn refused(&self) -> Option<String> {
        self.refused.borrow().clone()
    }

    fn check(&self, digest: &Digest, tree: &Tree) -> Result<(), String> {
        let (depth, length) = self.places.borrow().get(digest).copied().unwrap_or_default();
        self.listings.set(self.listings.get() + 1);
        if self.listings.get() > LISTINGS {
            return Err(format!("it has more than {LISTINGS} directories"));
        }
        self.entries.set(self.entries.get() + tree.entries().len());
        // Two snapshots are walked at once, each within the limit.
        if self.entries.get() > 2 * limits::ENTRIES {
            return Err(format!("it has more than {} entries", limits::ENTRIES));
        }
        for entry in tree.entries() {
            let length = length + 1 + entry.name.len();
            self.bytes.set(self.bytes.get() + length as u64);
            if self.bytes.get() > PATHS_BYTES {
                return Err("its paths are too many and too long".into());
            }
            if length > limits::PATH_BYTES {
                return Err(format!("a path is longer than {} bytes", limits::PATH_BYTES));
            }
            if let Node::Directory { digest } = &entry.node {
                if depth + 1 > limits::DEPTH {
                    return Err(format!("it is deeper than {} directories", limits::DEPTH));
                }
                let mut places = self.places.borrow_mut();
                let place = places.entry(*digest).or_default();
                *place = (place.0.max(depth + 1), place.1.max(length));
            }
        }
        Ok(())
    }
}

impl<T: Trees> Trees for Guard<'_, T> {
    fn tree(&self, digest: &Digest) -> Result<Tree, TreeError> {
        let tree = self.trees.tree(digest)?;
        self.check(digest, &tree).map_err(|reason| {
            *self.refused.borrow_mut() = Some(reason.clone());
            TreeError::Damaged { digest: *digest, reason }
        })?;
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use bunraku_common::snapshot::{Entry, TreeMap, diff};

    use super::*;

    fn nested(trees: &mut TreeMap, depth: usize, names: &[&str]) -> Digest {
        (0..depth).fold(trees.insert(Tree::default()), |below, _| {
            let entry = |name: &&str| Entry { name: (*name).into(), node: Node::Directory { digest: below } };
            trees.insert(Tree::new(names.iter().map(entry).collect()).unwrap())
        })
    }

    fn refusal(depth: usize, names: &[&str]) -> Option<String> {
        let mut trees = TreeMap::default();
        let root = nested(&mut trees, depth, names);
        let guard = Guard::new(&trees);
        let walked = diff(&guard, None, &root);
        assert_eq!(walked.is_err(), guard.refused().is_some());
        guard.refused()
    }

    #[test]
    fn sixty_listings_that_stand_for_a_billion_billion_paths_are_refused_soon() {
        assert!(refusal(60, &["a", "b"]).unwrap().contains("directories"));
    }

    #[test]
    fn a_tree_deeper_than_allowed_is_refused_before_the_stack_ends() {
        assert_eq!(refusal(limits::DEPTH, &["d"]), None);
        assert!(refusal(limits::DEPTH + 1, &["d"]).unwrap().contains("deeper"));
        assert!(refusal(20_000, &["d"]).unwrap().contains("deeper"));
    }

    #[test]
    fn a_path_longer_than_allowed_is_refused() {
        assert!(refusal(12, &["n".repeat(255).as_str()]).unwrap().contains("longer"));
    }
}
