//! Reads everything that is kept and checks all of it, while the journal goes on.
//!
//! What there is to check is noted while the journal is held, which takes no time; the reading needs the files alone.
//! Closed segments do not change any more, and the open one is read up to where it ended then.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Segment,
    walk::{Walk, damaged},
};
use crate::{JournalId, Link, StoreError, Verified, disk::Disk, segment::Fault};

/// The first record that retention has left in place: what is missing before it was removed and not lost.
#[derive(Debug, Clone, Default)]
pub(super) struct Oldest(Arc<AtomicU64>);

impl Oldest {
    /// To be told before the files go.
    pub(super) fn is_now(&self, first: u64) {
        self.0.store(first, Ordering::SeqCst);
    }

    fn is_behind(&self, segment: &Segment) -> bool {
        segment.first() < self.0.load(Ordering::SeqCst)
    }
}

/// The segments as they were at one moment.
#[derive(Debug)]
pub(crate) struct Kept<D: Disk> {
    pub(super) disk: D,
    pub(super) id: JournalId,
    pub(super) segments: Vec<Segment>,
    pub(super) head: Link,
    pub(super) oldest: Oldest,
}

impl<D: Disk> Kept<D> {
    /// Asks `go_on` before each segment, and answers None when it said no.
    pub(crate) fn verify(self, mut go_on: impl FnMut() -> bool) -> Result<Option<Verified>, StoreError> {
        let mut walk = Walk::default();
        let mut found = Verified { records: 0, segments: 0, pruned: 0, head: self.head };
        let newest = self.segments.last().map(Segment::first);
        for segment in &self.segments {
            if !go_on() {
                return Ok(None);
            }
            let is_open = newest == Some(segment.first());
            match self.check(&mut walk, segment, is_open) {
                Ok(()) => {
                    found.records += segment.records;
                    found.segments += 1;
                }
                // Removed before or while it was read: whatever the reading said then.
                Err(_) if self.oldest.is_behind(segment) => {
                    found.pruned += 1;
                    walk = Walk::default();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(found))
    }

    fn check(&self, walk: &mut Walk, segment: &Segment, is_open: bool) -> Result<(), StoreError> {
        let read =
            if is_open { walk.known_up_to(&self.disk, segment) } else { walk.known(&self.disk, segment) }?;
        let first = segment.first();
        // The oldest one continues nothing that is still there, and the newest one is continued by nothing: only what
        // the journal remembers tells whether these are the records that were written.
        if (read.header.journal, read.header.head) != (self.id, segment.before) {
            let what = "the segment continues another record than it did when it was written".to_owned();
            return Err(damaged(&self.disk, first, Fault { offset: 0, sequence: first, what }));
        }
        if is_open && read.scan.head != self.head {
            let what = "the newest record is not the one that was written".to_owned();
            let fault = Fault { offset: read.scan.last_batch, sequence: self.head.sequence, what };
            return Err(damaged(&self.disk, first, fault));
        }
        Ok(())
    }
}
