//! The controller's memory: a journal that is the truth and the audit log, and an index over it.
//!
//! The driver calls it from one thread of its own. When `append` returns, the records survive kill -9 and power loss
//! (I6); each record is chained by hash to the one before (I12). Nothing here knows what a record means, and no blob
//! is ever kept here.

mod catch_up;
mod disk;
mod error;
mod index;
mod journal;
mod local;
mod memory;
mod record;
mod segment;

use std::fmt;

use bunraku_common::Digest;

pub use crate::{
    catch_up::{Lost, WhyRebuilt},
    error::{Damage, StoreError},
    local::{LocalStore, Recovered},
    memory::MemoryStore,
    record::{NewRecord, RECORD_BYTES, Record},
};

/// What the driver asks of its memory. [`LocalStore`] keeps it on one disk; [`MemoryStore`] only as long as it lives.
pub trait Store: fmt::Debug + Send {
    /// Adds the records as one batch: all of them are durable when this returns, or none was acknowledged.
    ///
    /// [`StoreError::Full`] and [`StoreError::TooLarge`] refuse cleanly: nothing was written and later appends may
    /// succeed. After any other error the batch's fate is unknown, and the process must end and read the journal again.
    fn append(&mut self, records: Vec<NewRecord>) -> Result<Vec<Link>, StoreError>;

    /// Keeps the whole state as it is after the newest record, so that a restart reads no further back. Does nothing
    /// when no record came since the last one.
    fn checkpoint(&mut self, state: &[u8]) -> Result<(), StoreError>;

    /// Whether enough was appended since the last checkpoint that a new one is due.
    fn wants_checkpoint(&self) -> bool;

    /// Removes the oldest records that are audit only and exceed `keep`; answers how many bytes were freed.
    fn prune(&mut self, keep: Keep) -> Result<u64, StoreError>;

    /// At most `limit` records that follow `sequence`, oldest first. Zero is before the first record. Records that
    /// were pruned are passed over.
    fn after(&self, sequence: u64, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// At most `limit` records that carry `key`, newest first.
    fn find(&self, key: &str, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// The newest record's place; sequence zero while there is none.
    fn head(&self) -> Link;

    /// What is to be verified, as it is now. The verification itself takes long, and needs the store no more.
    fn verification(&self) -> Verification;

    fn journal_id(&self) -> JournalId;
}

/// A record's place in the chain: its number, counted from one, and its hash, which covers everything before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub sequence: u64,
    pub hash: Digest,
}

/// Drawn at random when a journal is made; tells a restored or foreign index from its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JournalId(pub u128);

impl JournalId {
    /// What the first record is chained to.
    pub(crate) fn genesis(self) -> Link {
        Link { sequence: 0, hash: Digest::of(&self.0.to_le_bytes()) }
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JournalId({self})")
    }
}

/// How much audit to keep. What exceeds either bound goes, oldest first; the newest two segments always stay.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// All segments together. Opening reads them all, so this bounds how long a start takes.
    pub bytes: u64,
    /// Records of before this wall-clock time, in milliseconds since 1970, may go.
    pub since_wall_ms: u64,
}

/// Everything that a store kept at one moment.
#[derive(Debug)]
pub struct Verification(Kept);

#[derive(Debug)]
enum Kept {
    OnDisk(journal::Kept<disk::OsDisk>),
    InMemory(Verified),
}

impl Verification {
    /// Reads everything that is kept and checks every checksum and every link of the chain.
    /// [`StoreError::Damaged`] says where it is broken. Asks `go_on` again and again, and answers None when it said no.
    pub fn run(self, mut go_on: impl FnMut() -> bool) -> Result<Option<Verified>, StoreError> {
        match self.0 {
            Kept::OnDisk(kept) => kept.verify(go_on),
            Kept::InMemory(verified) => Ok(go_on().then_some(verified)),
        }
    }
}

/// What [`Verification::run`] found whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    pub records: u64,
    pub segments: u64,
    /// Segments that were removed, as old ones are, before they could be read.
    pub pruned: u64,
    pub head: Link,
}
