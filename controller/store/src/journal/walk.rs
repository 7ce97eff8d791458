//! Reads segments in order and checks that each is whole and continues the one before.

use crate::{
    Damage, JournalId, Link, StoreError,
    disk::Disk,
    segment::{FORMAT, Fault, Header, NotAHeader, Scan, file_name, scan},
};

use super::Segment;

/// Where the reader has come to. Begins anywhere: older segments may have been pruned.
#[derive(Debug, Default)]
pub(super) struct Walk {
    before: Option<(JournalId, u64, Link)>,
}

/// One segment, read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) segment: Segment,
    pub(super) header: Header,
    pub(super) scan: Scan,
    pub(super) bytes: Vec<u8>,
}

impl Walk {
    /// Reads the segment that begins with record `first`, whose end may be torn.
    pub(super) fn step<D: Disk>(&mut self, disk: &D, first: u64) -> Result<Read, StoreError> {
        self.read(disk, first, u64::MAX)
    }

    fn read<D: Disk>(&mut self, disk: &D, first: u64, most: u64) -> Result<Read, StoreError> {
        let name = file_name(first);
        let path = disk.path().join(&name);
        let bytes = disk.read(&name, most).map_err(StoreError::io("read", &path))?;
        let (header, start) = match Header::decode(&bytes) {
            Ok(found) => found,
            Err(NotAHeader::Format(found)) => return Err(StoreError::Format { path, found, known: FORMAT }),
            Err(NotAHeader::Damaged(what)) => {
                return Err(damaged(disk, first, at_start(first, what.to_owned())));
            }
        };
        self.continues(&header, first).map_err(|what| damaged(disk, first, at_start(first, what)))?;
        let scan = scan(&bytes, start, header.head).map_err(|fault| damaged(disk, first, fault))?;
        self.before = Some((header.journal, header.number, scan.head));
        let segment = Segment {
            number: header.number,
            before: header.head,
            start: start as u64,
            bytes: scan.end as u64,
            records: scan.records.len() as u64,
            newest_wall_ms: scan.records.last().map_or(0, |(record, _)| record.wall_ms),
        };
        Ok(Read { segment, header, scan, bytes })
    }

    /// The same for a segment that must be whole to its last byte.
    pub(super) fn whole<D: Disk>(&mut self, disk: &D, first: u64) -> Result<Read, StoreError> {
        whole(disk, self.step(disk, first)?)
    }

    /// The same for a segment that is known already: it must be what it was.
    pub(super) fn known<D: Disk>(&mut self, disk: &D, segment: &Segment) -> Result<Read, StoreError> {
        let read = self.whole(disk, segment.first())?;
        as_known(disk, segment, read)
    }

    /// The same for the segment that is appended to meanwhile: what was known of it must be what it was.
    pub(super) fn known_up_to<D: Disk>(&mut self, disk: &D, segment: &Segment) -> Result<Read, StoreError> {
        let read = whole(disk, self.read(disk, segment.first(), segment.bytes)?)?;
        as_known(disk, segment, read)
    }

    fn continues(&self, header: &Header, first: u64) -> Result<(), String> {
        if header.head.sequence + 1 != first {
            return Err(format!(
                "the segment's header says that it begins with record {}",
                header.head.sequence + 1
            ));
        }
        let Some((journal, number, head)) = self.before else { return Ok(()) };
        if header.journal != journal {
            return Err(format!("the segment is of journal {}, the one before of {journal}", header.journal));
        }
        if header.number != number + 1 {
            return Err(format!("this is segment {}, and the one before is {number}", header.number));
        }
        if header.head != head {
            let (expected, found) = (header.head.sequence, head.sequence);
            return Err(format!(
                "it continues record {expected}, and the segment before ends with another record {found}"
            ));
        }
        Ok(())
    }
}

fn whole<D: Disk>(disk: &D, read: Read) -> Result<Read, StoreError> {
    match read.scan.torn {
        Some(fault) => Err(damaged(disk, read.segment.first(), fault)),
        None => Ok(read),
    }
}

fn as_known<D: Disk>(disk: &D, segment: &Segment, read: Read) -> Result<Read, StoreError> {
    if read.segment.last() == segment.last() {
        return Ok(read);
    }
    let (found, wanted) = (read.segment.last(), segment.last());
    let what = format!("the segment ends with record {found}, and record {wanted} was its last");
    let fault = Fault { offset: read.scan.end, sequence: found + 1, what };
    Err(damaged(disk, segment.first(), fault))
}

fn at_start(sequence: u64, what: String) -> Fault {
    Fault { offset: 0, sequence, what }
}

pub(super) fn damaged<D: Disk>(disk: &D, first: u64, fault: Fault) -> StoreError {
    let directory = disk.path().display();
    let hint = format!(
        "restore {directory} from a backup; if only old audit is damaged, moving {} and every older segment elsewhere \
         gives that audit up and keeps the rest",
        file_name(first)
    );
    StoreError::Damaged(Box::new(Damage {
        file: disk.path().join(file_name(first)),
        offset: fault.offset as u64,
        sequence: fault.sequence,
        what: fault.what,
        hint,
    }))
}
