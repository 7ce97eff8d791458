//! A snapshot: an immutable, content-addressed tree of one environment, named by the digest of its root directory.
//!
//! `tree` is one directory and its canonical encoding, `diff` walks two snapshots only where they differ, `pack` is
//! the stream that carries missing objects.

pub mod diff;
pub mod pack;
pub mod ruby;
pub mod tree;

use std::{collections::BTreeMap, fmt};

pub use diff::{Change, diff};
pub use tree::{BadTree, Entry, Node, Tree};

use crate::Digest;

/// Where directory listings come from: the store of files on disk, or a map in memory.
pub trait Trees {
    /// The tree of this digest, verified against it.
    fn tree(&self, digest: &Digest) -> Result<Tree, TreeError>;
}

#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("object {} is not here", .0.short())]
    Missing(Digest),
    #[error("object {} is damaged: {reason}", .digest.short())]
    Damaged { digest: Digest, reason: String },
    #[error("could not read object {}", .digest.short())]
    Io {
        digest: Digest,
        #[source]
        source: std::io::Error,
    },
}

/// Trees in memory: while a snapshot is taken, and in tests.
#[derive(Default, Clone)]
pub struct TreeMap(pub BTreeMap<Digest, Tree>);

impl TreeMap {
    pub fn insert(&mut self, tree: Tree) -> Digest {
        let digest = tree.digest();
        self.0.insert(digest, tree);
        digest
    }
}

impl Trees for TreeMap {
    fn tree(&self, digest: &Digest) -> Result<Tree, TreeError> {
        self.0.get(digest).cloned().ok_or(TreeError::Missing(*digest))
    }
}

impl fmt::Debug for TreeMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeMap({} trees)", self.0.len())
    }
}
