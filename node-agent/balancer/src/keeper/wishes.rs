//! What is wanted of each compiler, on disk before it is done: after a crash, a reload or a restart it is asserted again,
//! and nothing stays drained without an owner (I7).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use bunraku_common::{Fence, NodeName, whole};
use serde::{Deserialize, Serialize};

use crate::{driver::Wanted, name::ServerName};

/// The file, and what stands in it.
#[derive(Debug)]
pub(super) struct Wishes {
    path: PathBuf,
    kept: Kept,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub compilers: BTreeMap<NodeName, Record>,
    /// Servers that the balancer was given while it ran.
    #[serde(default)]
    pub added: BTreeSet<ServerName>,
}

/// What is wanted of one compiler, by whom and why, and how far it got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub wanted: Wanted,
    pub owner: String,
    pub reason: String,
    /// Of the order that asked for it.
    pub fence: Fence,
    pub min_available: u32,
    pub slow_start_s: u64,
    /// Only servers that were ready when we came: all others are somebody else's, and never enabled by us.
    pub ours: BTreeMap<ServerName, Part>,
    /// Servers whose weight grows.
    #[serde(default)]
    pub growing: BTreeSet<ServerName>,
}

/// Where one of a compiler's servers stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Part {
    /// We take it out, and owe it back.
    Out,
    /// We gave it back.
    In,
}

#[derive(Debug, thiserror::Error)]
pub enum WishesError {
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} is damaged: {reason}\nhint: move it away; compilers that it held drained stay so until `bunraku lb enable`"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("could not write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Wishes {
    pub(super) fn open(path: &Path) -> Result<Self, WishesError> {
        let kept = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| WishesError::Damaged { path: path.into(), reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(source) => return Err(WishesError::Read { path: path.into(), source }),
        };
        Ok(Self { path: path.into(), kept })
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    pub(super) fn of(&self, compiler: &NodeName) -> Option<&Record> {
        self.kept.compilers.get(compiler)
    }

    pub(super) fn set(&mut self, compiler: &NodeName, record: Record) -> Result<(), WishesError> {
        self.change(|kept| {
            kept.compilers.insert(compiler.clone(), record);
        })
    }

    /// Saves first; what is in memory changes only when the disk has it.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Kept)) -> Result<(), WishesError> {
        let mut kept = self.kept.clone();
        change(&mut kept);
        if kept == self.kept {
            return Ok(());
        }
        save(&self.path, &kept).map_err(|source| WishesError::Write { path: self.path.clone(), source })?;
        self.kept = kept;
        Ok(())
    }
}

fn save(path: &Path, kept: &Kept) -> io::Result<()> {
    whole::replace_past(path, &serde_json::to_vec(kept)?, "balancer-written")
}
