//! Takes a built tree into the object store, reading only what changed since the last time.
//!
//! The tree belongs to an unprivileged user who may still change it: every step goes through an open directory and
//! follows no link, so the walk reads nothing outside the tree whatever happens meanwhile.
//!
//! `walk` lists and compares, `read` hashes changed files on two threads, `stat_cache` remembers, `exclude` and
//! `offence` say what stays out and what may not be there.

mod exclude;
mod offence;
mod read;
mod stat_cache;
mod walk;

use std::{io, path::Path, sync::Arc};

use bunraku_common::Digest;
use rustix::fs::{Mode, OFlags};
use tokio_util::sync::CancellationToken;

pub use exclude::{BadPattern, Exclude};
pub use offence::Offence;
use stat_cache::StatCache;

use crate::store::{ObjectStore, Pin};

/// A tree that is in the store, complete and on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    pub digest: Digest,
    pub files: u64,
    pub bytes: u64,
    /// Files that were opened; the others were known by the stat cache.
    pub opened: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{}", offence::told(.named, *.total))]
    Refused { named: Vec<Offence>, total: usize },
    #[error("the tree has more than {0} entries")]
    TooManyEntries(usize),
    #[error("the tree has more than {0} bytes")]
    TooManyBytes(u64),
    #[error("{path} is not what a builder writes: {reason}")]
    Manifest { path: String, reason: String },
    #[error("could not read {path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("could not write to the object store")]
    Store(#[source] io::Error),
    #[error("cancelled")]
    Cancelled,
}

/// Takes the tree below `root`; `cache` is the file that remembers its files from one time to the next. Blocks.
///
/// Everything is on disk when this returns, and the pin keeps it through sweeps until it is dropped.
pub fn take(
    root: &Path,
    cache: &Path,
    exclude: &Exclude,
    store: &Arc<ObjectStore>,
    cancel: &CancellationToken,
) -> Result<(Snapshot, Pin), SnapshotError> {
    let _no_sweep_meanwhile = store.putting();
    let read = |source: io::Error| SnapshotError::Read { path: root.display().to_string(), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| read(e.into()))?;
    let device = rustix::fs::fstat(&directory).map_err(|e| read(e.into()))?.st_dev;
    let stamp = store.stamp().map_err(SnapshotError::Store)?;
    let known = StatCache::load(cache, device, stamp);
    let (snapshot, remember) = walk::walk(directory, &known, exclude, store.objects(), cancel)?;
    store.objects().sync().map_err(SnapshotError::Store)?;
    // Only after the sync: what the cache names is on disk.
    if let Err(error) = stat_cache::save(cache, device, stamp, remember) {
        tracing::warn!(cache = %cache.display(), %error, "the next snapshot will read every file: could not write");
    }
    Ok((snapshot, store.pin(snapshot.digest)))
}
