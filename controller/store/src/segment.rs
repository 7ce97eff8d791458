//! The bytes of one segment: a header with the whole state, then frames. Decides what is whole, torn or damaged.
//!
//! ```text
//! magic       8   "BUNRAKUJ"
//! format      u32
//! journal     16  id
//! number      u64 segments are counted from one, so that a missing one is noticed
//! sequence    u64 of the last record before this segment
//! previous    32  its hash
//! length      u64 of the checkpoint; zero in the first segment
//! checkpoint  32  its BLAKE3 hash
//! crc         u32 CRC-32 of all of the above
//! …               the checkpoint, then the frames
//! ```

use bunraku_common::Digest;

use crate::{
    JournalId, Link,
    record::{Frame, NotAFrame, Record, take_u32, take_u64},
};

pub(crate) const FORMAT: u32 = 1;
/// A segment that is this long gets a successor: small enough to be read at once, large enough to be rare.
pub(crate) const SEGMENT_BYTES: u64 = 8 << 20;
/// So many records make a segment full even when they are short, which bounds what a restart replays.
pub(crate) const SEGMENT_RECORDS: u64 = 20_000;

const MAGIC: &[u8; 8] = b"BUNRAKUJ";
const HEADER: usize = 8 + 4 + 16 + 8 + 8 + 32 + 8 + 32 + 4;

/// The file that holds the records from `first` on.
pub(crate) fn file_name(first: u64) -> String {
    format!("{first:020}.seg")
}

/// The first record's sequence, when the name is that of a segment.
pub(crate) fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let first = digits.parse().ok()?;
    (file_name(first) == name).then_some(first)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) journal: JournalId,
    pub(crate) number: u64,
    /// The last record before this segment.
    pub(crate) head: Link,
    pub(crate) checkpoint: Vec<u8>,
}

/// Why bytes are not the start of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAHeader {
    Format(u32),
    Damaged(&'static str),
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.checkpoint.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&self.journal.0.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.head.sequence.to_le_bytes());
        out.extend_from_slice(self.head.hash.as_bytes());
        out.extend_from_slice(&(self.checkpoint.len() as u64).to_le_bytes());
        out.extend_from_slice(Digest::of(&self.checkpoint).as_bytes());
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&self.checkpoint);
        out
    }

    /// Reads the header at the start of `bytes`; answers it with its length, checkpoint included.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, usize), NotAHeader> {
        let cut_off = NotAHeader::Damaged("the segment's header is cut off");
        let (fixed, behind) = bytes.split_first_chunk::<HEADER>().ok_or(cut_off)?;
        let mut rest = fixed.strip_prefix(MAGIC).ok_or(NotAHeader::Damaged("this is not a segment"))?;
        // The format comes before the checksum: a later format may have its checksum elsewhere.
        let format = take_u32(&mut rest).ok_or(cut_off)?;
        let mut crc = &fixed[HEADER - 4..];
        let sound = take_u32(&mut crc) == Some(crc32fast::hash(&fixed[..HEADER - 4]));
        if !sound {
            // A flipped bit in the number of a format that we know is damage, not news.
            let newer = format > FORMAT && format < FORMAT + 1000;
            return Err(if newer {
                NotAHeader::Format(format)
            } else {
                NotAHeader::Damaged("the header's checksum is wrong")
            });
        }
        if format != FORMAT {
            return Err(NotAHeader::Format(format));
        }
        let (header, digest, length) = Self::fields(rest).ok_or(cut_off)?;
        let checkpoint = behind.get(..length).ok_or(NotAHeader::Damaged("the checkpoint is cut off"))?;
        if Digest::of(checkpoint) != digest {
            return Err(NotAHeader::Damaged("the checkpoint does not have its hash"));
        }
        Ok((Self { checkpoint: checkpoint.to_vec(), ..header }, HEADER + length))
    }

    fn fields(mut rest: &[u8]) -> Option<(Self, Digest, usize)> {
        let (journal, mut behind) = rest.split_first_chunk::<16>()?;
        let number = take_u64(&mut behind)?;
        let sequence = take_u64(&mut behind)?;
        let (hash, mut behind) = behind.split_first_chunk::<32>()?;
        let length = usize::try_from(take_u64(&mut behind)?).ok()?;
        rest = behind;
        let digest = Digest::from_bytes(*rest.first_chunk::<32>()?);
        let head = Link { sequence, hash: Digest::from_bytes(*hash) };
        let journal = JournalId(u128::from_le_bytes(*journal));
        Some((Self { journal, number, head, checkpoint: Vec::new() }, digest, length))
    }
}

/// Where a record's frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// The first sequence of the segment, which names its file.
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// The whole batches of a segment.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) records: Vec<(Record, Position)>,
    pub(crate) head: Link,
    /// Where the last whole batch begins and ends.
    pub(crate) last_batch: usize,
    pub(crate) end: usize,
    /// Why the scan ended before the last byte, when it did.
    pub(crate) torn: Option<Fault>,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) offset: usize,
    pub(crate) sequence: u64,
    pub(crate) what: String,
}

/// Reads all frames of a segment whose header is `start` bytes long and names `head`.
///
/// An error is damage to records that were once durable. Bytes at the end that are no whole batch are `torn`: a power
/// loss leaves such, and so does damage to the very last batch; the two look the same.
pub(crate) fn scan(bytes: &[u8], start: usize, head: Link) -> Result<Scan, Fault> {
    let segment = head.sequence + 1;
    let mut whole = Scan { records: Vec::new(), head, last_batch: start, end: start, torn: None };
    let mut batch: Vec<(Record, Position)> = Vec::new();
    let (mut offset, mut head) = (start, head);
    while offset < bytes.len() {
        let sequence = head.sequence + 1;
        let fault = |what: String| Fault { offset, sequence, what };
        let batch_starts = whole.head.sequence + 1;
        let (frame, length) = match Frame::decode(&bytes[offset..]) {
            Ok(found) => found,
            Err(error) => {
                if durable_behind(&bytes[offset..], batch_starts) {
                    return Err(fault(error.to_string()));
                }
                whole.torn = Some(fault(error.to_string()));
                return Ok(whole);
            }
        };
        let record = frame.record;
        if record.sequence != sequence {
            return Err(fault(format!("here is record {}", record.sequence)));
        }
        if record.previous != head.hash {
            return Err(fault("the record is not chained to the one before".to_owned()));
        }
        if frame.batch != batch_starts {
            return Err(fault(format!("the batch from record {batch_starts} on is not complete")));
        }
        head = record.link();
        let position =
            Position { segment, offset: offset as u64, length: u32::try_from(length).unwrap_or(u32::MAX) };
        batch.push((record, position));
        offset += length;
        if frame.left == 0 {
            whole.records.append(&mut batch);
            (whole.last_batch, whole.end, whole.head) = (whole.end, offset, head);
        }
    }
    if whole.end < bytes.len() {
        let (sequence, what) = (head.sequence + 1, NotAFrame::Short.to_string());
        whole.torn = Some(Fault { offset, sequence, what });
    }
    Ok(whole)
}

/// Whether a whole frame of a later batch than `batch` lies anywhere behind: then that batch was durable once.
fn durable_behind(bytes: &[u8], batch: u64) -> bool {
    (1..bytes.len()).any(|at| {
        // The batch's number follows length and sequence. Looking at it first spares nearly every checksum.
        let mut number = bytes.get(at + 12..).unwrap_or_default();
        let later = take_u64(&mut number).is_some_and(|found| found > batch && found - batch < SEGMENT_BYTES);
        later && Frame::decode(&bytes[at..]).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{NewRecord, encode};

    fn header(checkpoint: &[u8]) -> Header {
        let journal = JournalId(7);
        Header { journal, number: 3, head: journal.genesis(), checkpoint: checkpoint.to_vec() }
    }

    /// A segment with one batch for each number, of so many records; answers also where each batch begins.
    fn segment(batches: &[u32]) -> (Vec<u8>, usize, Vec<usize>) {
        let header = header(b"state");
        let mut bytes = header.encode();
        let (start, mut head, mut starts) = (bytes.len(), header.head, Vec::new());
        for &size in batches {
            starts.push(bytes.len());
            let first = head.sequence + 1;
            for left in (0..size).rev() {
                let payload = format!("{{\"number\":{}}}", head.sequence).into_bytes();
                let new = NewRecord {
                    at_ms: 1,
                    wall_ms: 2,
                    who: "root".into(),
                    keys: vec!["kind/x".into()],
                    payload,
                };
                head = encode(&mut bytes, head, first, left, &new).unwrap();
            }
        }
        (bytes, start, starts)
    }

    fn scanned(bytes: &[u8], start: usize) -> Result<Scan, Fault> {
        scan(bytes, start, JournalId(7).genesis())
    }

    #[test]
    fn a_header_is_read_again_with_its_checkpoint() {
        let (header, length) = Header::decode(&header(b"state").encode()).unwrap();
        assert_eq!(header.checkpoint, b"state");
        assert_eq!((header.number, length), (3, HEADER + 5));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let bytes = header(b"state").encode();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_named_and_not_called_damage() {
        let mut bytes = header(b"").encode();
        bytes[8] = 2;
        assert_eq!(Header::decode(&bytes), Err(NotAHeader::Format(2)));
    }

    #[test]
    fn a_segments_name_tells_its_first_record() {
        assert_eq!(file_name(17), "00000000000000000017.seg");
        assert_eq!(first_of("00000000000000000017.seg"), Some(17));
        for other in ["17.seg", "00000000000000000017.seg.new", "+0000000000000000017.seg", "lock"] {
            assert_eq!(first_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_segment_cut_at_any_byte_keeps_exactly_its_whole_batches() {
        let (bytes, start, mut starts) = segment(&[1, 3, 2]);
        starts.push(bytes.len());
        for cut in start..=bytes.len() {
            let scan = scanned(&bytes[..cut], start).unwrap();
            let whole = starts.iter().rev().find(|&&at| at <= cut).unwrap();
            assert_eq!(scan.end, *whole, "cut at {cut}");
            assert_eq!(scan.torn.is_some(), cut != *whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_in_an_earlier_batch_is_damage_and_named() {
        let (bytes, start, starts) = segment(&[1, 3, 2]);
        for bit in start * 8..starts[2] * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let fault = scanned(&changed, start).unwrap_err();
            assert!(fault.offset <= bit / 8 && fault.sequence <= 4, "bit {bit}: {fault:?}");
        }
    }

    #[test]
    fn a_flipped_bit_in_the_last_batch_looks_like_a_torn_one() {
        let (bytes, start, starts) = segment(&[1, 3, 2]);
        for bit in starts[2] * 8..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let scan = scanned(&changed, start).unwrap();
            assert_eq!((scan.end, scan.records.len()), (starts[2], 4), "bit {bit}");
            assert!(scan.torn.is_some());
        }
    }

    #[test]
    fn zeroes_at_the_end_are_torn_and_zeroes_in_the_middle_are_damage() {
        let (mut bytes, start, starts) = segment(&[1, 3, 2]);
        let end = bytes.len();
        bytes.resize(end + 5000, 0);
        assert_eq!(scanned(&bytes, start).unwrap().end, end);
        bytes[starts[1]..starts[2]].fill(0);
        assert_eq!(scanned(&bytes, start).unwrap_err().sequence, 2);
    }

    proptest! {
        #[test]
        fn reading_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _header = Header::decode(&bytes);
            let _scan = scan(&bytes, 0, JournalId(7).genesis());
        }
    }
}
