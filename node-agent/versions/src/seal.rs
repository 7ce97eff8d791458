//! The seal of a tree: a small file beside it, written last. A tree without one does not count.
//!
//! It holds no list of files: what the tree contains follows from the digest, and a list would make a one-file change
//! cost 30,000 lines. Files that were changed by hand are found by the scrub, which hashes them.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use bunraku_common::Digest;
use serde::{Deserialize, Serialize};

use crate::layout::sync_directory;

/// What a sealed tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seal {
    pub(crate) digest: Digest,
    /// Higher for what was sealed later in the same environment.
    pub(crate) order: u64,
    pub(crate) totals: Totals,
}

/// How large a snapshot is; carried from version to version, so that nobody counts the whole tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Totals {
    /// Files and links.
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) bytes: u64,
}

impl Seal {
    /// `None` for what is missing, torn or foreign: it does not count.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// On disk under its name when this returns. `temporary` is a free name in the same file system.
    pub(crate) fn write(&self, path: &Path, temporary: &Path) -> io::Result<()> {
        let mut file = fs::File::create_new(temporary)?;
        let written = file.write_all(&serde_json::to_vec(self)?).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| fs::rename(temporary, path)) {
            let _best_effort = fs::remove_file(temporary);
            return Err(error);
        }
        sync_directory(path.parent().expect("a seal stands in a directory"))
    }
}
