//! What can go wrong with the controller's memory.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("could not {doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },

    /// Nothing was written; the same call may succeed when there is space again.
    #[error(
        "no space for {needed} bytes in {at}\nhint: make room there, then ask again: df -h {at}; df -ih {at}",
        at = path.display()
    )]
    Full { path: PathBuf, needed: u64 },

    /// Nothing was written.
    #[error("a {what} of {size} is too large, {limit} is the most that fits")]
    TooLarge { what: &'static str, size: usize, limit: usize },

    /// An earlier write failed, so nobody knows what is on disk until the journal is read again.
    #[error("the journal in {} takes no more records since a write failed; the process must end", path.display())]
    Poisoned { path: PathBuf },

    #[error(transparent)]
    Damaged(Box<Damage>),

    #[error(
        "another process has {} open\nhint: only one controller may use it: systemctl stop bunraku",
        path.display()
    )]
    InUse { path: PathBuf },

    #[error(
        "{} is of journal format {found}, and this program knows only {known}\nhint: install the newer bunraku that wrote it",
        path.display()
    )]
    Format { path: PathBuf, found: u32, known: u32 },

    #[error("could not {doing} the index")]
    Index { doing: &'static str, source: sled::Error },
}

/// Where the journal is broken. What comes before `sequence` is whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal is damaged in {} at byte {offset}, record {sequence}: {what}\nhint: {hint}", file.display())]
pub struct Damage {
    pub file: PathBuf,
    pub offset: u64,
    /// The record that should be there.
    pub sequence: u64,
    pub what: String,
    /// How to go on.
    pub hint: String,
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}
