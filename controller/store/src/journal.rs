//! The journal: segments on a disk, appended to by batches, each one write and one `fdatasync`.
//!
//! `LocalStore` is its only user. It never repeats a failed sync (the kernel may have dropped what it could not write,
//! and says so only once), and it never changes a durable record.

mod files;
#[cfg(test)]
mod power_loss_tests;
#[cfg(test)]
mod tests;
mod verification;
mod walk;

use std::io;

use self::{
    files::{Tail, settle, write_segment},
    verification::Oldest,
    walk::Walk,
};
use crate::{
    JournalId, Keep, Link, StoreError,
    disk::{Disk, is_full},
    record::{Frame, LONGEST_FRAME, NewRecord, Record, encode},
    segment::{Header, Position, SEGMENT_BYTES, SEGMENT_RECORDS, file_name, first_of},
};

pub(crate) use self::verification::Kept;

/// Space reserved beyond what is asked for, so that the file system is not asked for each batch.
const RESERVE: u64 = 1 << 20;
/// What a segment is called until it is whole and synced.
const UNFINISHED: &str = ".new";
/// What was last cut off a segment's end lies beside it, and goes with it.
const CUT: &str = ".cut";

/// A record that was appended, and where it lies.
pub(crate) type Placed = (Link, Position);

#[derive(Debug)]
pub(crate) struct Journal<D: Disk> {
    disk: D,
    id: JournalId,
    /// Oldest first; the last one is written to.
    segments: Vec<Segment>,
    tail: Tail<D::File>,
    head: Link,
    /// Told to those who verify meanwhile.
    retained_from: Oldest,
    /// A write or sync failed, or is under way.
    poisoned: bool,
}

/// A segment that is known to be whole.
#[derive(Debug, Clone)]
struct Segment {
    number: u64,
    /// The last record before it.
    before: Link,
    /// Where its first record begins, and where its last one ends.
    start: u64,
    bytes: u64,
    records: u64,
    /// When its newest record was written.
    newest_wall_ms: u64,
}

impl Segment {
    fn first(&self) -> u64 {
        self.before.sequence + 1
    }

    fn name(&self) -> String {
        file_name(self.first())
    }

    fn last(&self) -> u64 {
        self.before.sequence + self.records
    }
}

/// What the newest segment holds.
#[derive(Debug)]
pub(crate) struct Opened {
    /// None before the first checkpoint.
    pub(crate) checkpoint: Option<Vec<u8>>,
    pub(crate) records: Vec<Record>,
    /// Bytes that were no whole batch and were cut off the end.
    pub(crate) cut_bytes: u64,
}

impl<D: Disk> Journal<D> {
    /// Reads and checks everything, cuts a torn batch off the end, and makes sure that what it shows is durable. An
    /// empty directory becomes a new journal.
    pub(crate) fn open(disk: D) -> Result<(Self, Opened), StoreError> {
        let names = disk.list().map_err(StoreError::io("list", disk.path()))?;
        for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
            disk.remove(name).map_err(StoreError::io("remove the unfinished", disk.path().join(name)))?;
        }
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| first_of(name)).collect();
        firsts.sort_unstable();
        let Some((&newest, older)) = firsts.split_last() else { return Self::create(disk) };

        let mut walk = Walk::default();
        let mut segments = Vec::with_capacity(firsts.len());
        for &first in older {
            segments.push(walk.whole(&disk, first)?.segment);
        }
        let last = walk.step(&disk, newest)?;
        let tail = settle(&disk, &last)?;
        let opened = Opened {
            checkpoint: (last.header.number > 1).then_some(last.header.checkpoint),
            records: last.scan.records.into_iter().map(|(record, _)| record).collect(),
            cut_bytes: last.bytes.len() as u64 - tail.end,
        };
        segments.push(last.segment);
        let (id, head) = (last.header.journal, last.scan.head);
        Ok((
            Self { disk, id, segments, tail, head, retained_from: Oldest::default(), poisoned: false },
            opened,
        ))
    }

    fn create(disk: D) -> Result<(Self, Opened), StoreError> {
        let mut id = [0; 16];
        let drawn = getrandom::fill(&mut id).map_err(io::Error::other);
        drawn.map_err(StoreError::io("draw an id for", disk.path()))?;
        let id = JournalId(u128::from_le_bytes(id));
        let header = Header { journal: id, number: 1, head: id.genesis(), checkpoint: Vec::new() };
        let tail = write_segment(&disk, &header).map_err(|not| not.error)?;
        let segments = vec![Segment {
            number: 1,
            before: header.head,
            start: tail.end,
            bytes: tail.end,
            records: 0,
            newest_wall_ms: 0,
        }];
        let retained_from = Oldest::default();
        let journal = Self { disk, id, segments, tail, head: header.head, retained_from, poisoned: false };
        Ok((journal, Opened { checkpoint: None, records: Vec::new(), cut_bytes: 0 }))
    }

    pub(crate) fn id(&self) -> JournalId {
        self.id
    }

    pub(crate) fn head(&self) -> Link {
        self.head
    }

    /// The oldest record that is kept, or would be if there were one.
    pub(crate) fn oldest(&self) -> u64 {
        self.segments.first().map_or(1, Segment::first)
    }

    /// Adds one batch; it is durable when this returns.
    pub(crate) fn append(&mut self, batch: &[NewRecord]) -> Result<Vec<Placed>, StoreError> {
        self.sound()?;
        let Some(newest) = batch.last() else { return Ok(Vec::new()) };
        let (bytes, placed) = self.encode(batch)?;
        self.reserve(bytes.len() as u64)?;
        let name = self.newest().name();
        self.poisoned = true;
        let written = self
            .disk
            .write_at(&self.tail.file, self.tail.end, &bytes)
            .and_then(|()| self.disk.sync_data(&self.tail.file));
        written.map_err(StoreError::io("append to", self.disk.path().join(name)))?;
        self.poisoned = false;
        self.tail.end += bytes.len() as u64;
        self.head = placed.last().map_or(self.head, |(link, _)| *link);
        let end = self.tail.end;
        let segment = self.newest_mut();
        segment.bytes = end;
        segment.records += placed.len() as u64;
        segment.newest_wall_ms = newest.wall_ms;
        Ok(placed)
    }

    fn encode(&self, batch: &[NewRecord]) -> Result<(Vec<u8>, Vec<Placed>), StoreError> {
        let (mut bytes, mut placed, mut head) = (Vec::new(), Vec::with_capacity(batch.len()), self.head);
        let (first, segment) = (self.head.sequence + 1, self.newest().first());
        for (new, left) in batch.iter().zip((0..batch.len()).rev()) {
            let start = bytes.len();
            let limit = u32::MAX as usize;
            let left =
                u32::try_from(left).map_err(|_| StoreError::TooLarge { what: "batch", size: left, limit })?;
            head = encode(&mut bytes, head, first, left, new)?;
            let length = u32::try_from(bytes.len() - start).expect("a record is at most RECORD_BYTES long");
            placed.push((head, Position { segment, offset: self.tail.end + start as u64, length }));
        }
        Ok((bytes, placed))
    }

    fn reserve(&mut self, needed: u64) -> Result<(), StoreError> {
        if self.tail.end + needed <= self.tail.reserved {
            return Ok(());
        }
        // Near the end of the disk there may be room for this batch alone.
        for length in [needed + RESERVE, needed] {
            match self.disk.allocate(&self.tail.file, self.tail.end, length) {
                Ok(()) => {
                    self.tail.reserved = self.tail.end + length;
                    return Ok(());
                }
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(StoreError::io("reserve space in", self.disk.path())(error)),
            }
        }
        Err(StoreError::Full { path: self.disk.path().into(), needed })
    }

    pub(crate) fn should_rotate(&self) -> bool {
        let newest = self.newest();
        newest.bytes - newest.start >= SEGMENT_BYTES || newest.records >= SEGMENT_RECORDS
    }

    /// Begins a new segment with the whole state as it is after the newest record. Without a record since the last
    /// time there is nothing new to keep.
    pub(crate) fn rotate(&mut self, checkpoint: &[u8]) -> Result<(), StoreError> {
        self.sound()?;
        if self.newest().records == 0 {
            return Ok(());
        }
        let number = self.newest().number + 1;
        let header = Header { journal: self.id, number, head: self.head, checkpoint: checkpoint.to_vec() };
        let tail = write_segment(&self.disk, &header).map_err(|not| {
            self.poisoned = !not.harmless;
            not.error
        })?;
        // Gives back what was reserved; if it fails the old segment is a little larger on disk and nothing else.
        let _best_effort = self.disk.truncate(&self.tail.file, self.tail.end);
        let newest_wall_ms = self.newest().newest_wall_ms;
        self.segments.push(Segment {
            number,
            before: self.head,
            start: tail.end,
            bytes: tail.end,
            records: 0,
            newest_wall_ms,
        });
        self.tail = tail;
        Ok(())
    }

    /// The oldest segment's records, when it exceeds `keep` and may go.
    pub(crate) fn superfluous(&self, keep: Keep) -> Result<Option<Vec<Record>>, StoreError> {
        let [oldest, _second, _newest, ..] = self.segments.as_slice() else { return Ok(None) };
        let total: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        if total <= keep.bytes && oldest.newest_wall_ms >= keep.since_wall_ms {
            return Ok(None);
        }
        Ok(Some(self.read(oldest)?.into_iter().map(|(record, _)| record).collect()))
    }

    /// Removes the oldest segment; answers its length. One at a time and durably, so that a power loss leaves no gap.
    pub(crate) fn remove_oldest(&mut self) -> Result<u64, StoreError> {
        self.sound()?;
        let oldest = self.segments.remove(0);
        self.retained_from.is_now(self.oldest());
        self.poisoned = true;
        let removed = self.disk.remove(&oldest.name()).and_then(|()| self.disk.sync_dir());
        removed.map_err(StoreError::io("remove", self.disk.path().join(oldest.name())))?;
        self.poisoned = false;
        // Most segments have none; one that stays by mistake is small and harmless.
        let _best_effort = self.disk.remove(&format!("{}{CUT}", oldest.name()));
        Ok(oldest.bytes)
    }

    /// The record at a place that somebody remembers; None when there is none, or it is not whole.
    pub(crate) fn at(&self, position: Position) -> Option<Record> {
        if position.length as usize > LONGEST_FRAME {
            return None;
        }
        let name = file_name(position.segment);
        let bytes = self.disk.read_at(&name, position.offset, position.length as usize).ok()?;
        Frame::decode(&bytes).ok().map(|(frame, _)| frame.record)
    }

    /// Reads segments oldest first, from the one that holds `sequence`, until `each` answers false.
    pub(crate) fn read_from(
        &self,
        sequence: u64,
        mut each: impl FnMut(Vec<(Record, Position)>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        for segment in self.segments.iter().filter(|segment| segment.last() >= sequence) {
            if !each(self.read(segment)?)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads segments newest first until `each` answers false.
    pub(crate) fn read_back(
        &self,
        mut each: impl FnMut(Vec<(Record, Position)>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        for segment in self.segments.iter().rev() {
            if !each(self.read(segment)?)? {
                break;
            }
        }
        Ok(())
    }

    fn read(&self, segment: &Segment) -> Result<Vec<(Record, Position)>, StoreError> {
        Ok(Walk::default().known(&self.disk, segment)?.scan.records)
    }

    /// What there is to verify now.
    pub(crate) fn kept(&self) -> Kept<D> {
        Kept {
            disk: self.disk.clone(),
            id: self.id,
            segments: self.segments.clone(),
            head: self.head,
            oldest: self.retained_from.clone(),
        }
    }

    fn sound(&self) -> Result<(), StoreError> {
        if self.poisoned { Err(StoreError::Poisoned { path: self.disk.path().into() }) } else { Ok(()) }
    }

    fn newest(&self) -> &Segment {
        self.segments.last().expect("a journal always has a segment")
    }

    fn newest_mut(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("a journal always has a segment")
    }
}
