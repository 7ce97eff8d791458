//! A record, and its frame in a segment.
//!
//! ```text
//! length    u32   of the body
//! sequence  u64
//! batch     u64   sequence of the batch's first record
//! left      u32   records of the same batch that follow
//! previous  32    hash of the record before
//! body            at_ms u64, wall_ms u64, who, count u16 and the keys (each u16 and bytes), payload
//! crc       u32   CRC-32 of all of the above
//! ```
//!
//! Numbers are little-endian. The record's own hash is BLAKE3 over sequence, previous and body. `batch` and `left` tell
//! a batch that a power loss tore (its sectors reach the disk in any order) from damage to one that was durable: a
//! batch is only written when the one before it is on disk.

use bunraku_common::Digest;

use crate::{Link, StoreError};

/// One record's body. The same as one message on the wire, so that whatever was received can be journalled.
pub const RECORD_BYTES: usize = 4 << 20;

/// Bytes before the body.
const HEAD: usize = 4 + 8 + 8 + 4 + 32;
/// Bytes of a frame that are not body.
const AROUND_BODY: usize = HEAD + 4;
pub(crate) const LONGEST_FRAME: usize = AROUND_BODY + RECORD_BYTES;

/// What the caller has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Controller time in milliseconds: never goes back.
    pub at_ms: u64,
    /// Wall-clock time in milliseconds since 1970, for people.
    pub wall_ms: u64,
    /// Who asked for it, as the audit shows it.
    pub who: String,
    /// Words under which [`crate::Store::find`] finds it: `deploy/17`, `environment/production`, `node/c1`.
    pub keys: Vec<String>,
    /// JSON; not looked at here.
    pub payload: Vec<u8>,
}

/// A record that is in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub sequence: u64,
    pub hash: Digest,
    /// The hash of the record before.
    pub previous: Digest,
    pub at_ms: u64,
    pub wall_ms: u64,
    pub who: String,
    pub keys: Vec<String>,
    pub payload: Vec<u8>,
}

impl Record {
    pub fn link(&self) -> Link {
        Link { sequence: self.sequence, hash: self.hash }
    }

    /// The record that `new` becomes behind `head`.
    pub(crate) fn chained(head: Link, new: NewRecord) -> Result<Self, StoreError> {
        let body = encode_body(&new)?;
        let sequence = head.sequence + 1;
        let NewRecord { at_ms, wall_ms, who, keys, payload } = new;
        let hash = hash_of(sequence, &head.hash, &body);
        Ok(Self { sequence, hash, previous: head.hash, at_ms, wall_ms, who, keys, payload })
    }
}

/// A record and the batch that it was written with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) record: Record,
    pub(crate) batch: u64,
    pub(crate) left: u32,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAFrame {
    #[error("the record is cut off")]
    Short,
    #[error("there is no record")]
    Implausible,
    #[error("the record's checksum is wrong")]
    Checksum,
    #[error("the record cannot be read although its checksum is right")]
    Body,
}

/// Appends the frame of `new` behind `head` to `out` and answers its link.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    head: Link,
    batch: u64,
    left: u32,
    new: &NewRecord,
) -> Result<Link, StoreError> {
    let body = encode_body(new)?;
    let start = out.len();
    let sequence = head.sequence + 1;
    let length = u32::try_from(body.len()).expect("a body is at most RECORD_BYTES long");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&batch.to_le_bytes());
    out.extend_from_slice(&left.to_le_bytes());
    out.extend_from_slice(head.hash.as_bytes());
    out.extend_from_slice(&body);
    let crc = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(Link { sequence, hash: hash_of(sequence, &head.hash, &body) })
}

impl Frame {
    /// Reads the frame at the start of `bytes`; answers it with its length.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, usize), NotAFrame> {
        let total = Self::length(bytes)?;
        let frame = &bytes[..total];
        let mut crc = &frame[total - 4..];
        if crc32fast::hash(&frame[..total - 4]) != take_u32(&mut crc).ok_or(NotAFrame::Short)? {
            return Err(NotAFrame::Checksum);
        }
        let record = Self::fields(frame).ok_or(NotAFrame::Body)?;
        Ok((record, total))
    }

    /// The frame's whole length, when its first fields can be those of a frame and all of it is there.
    fn length(bytes: &[u8]) -> Result<usize, NotAFrame> {
        let mut rest = bytes;
        let body = take_u32(&mut rest).ok_or(NotAFrame::Short)? as usize;
        let sequence = take_u64(&mut rest).ok_or(NotAFrame::Short)?;
        let batch = take_u64(&mut rest).ok_or(NotAFrame::Short)?;
        if body == 0 || body > RECORD_BYTES || batch == 0 || batch > sequence {
            return Err(NotAFrame::Implausible);
        }
        let total = AROUND_BODY + body;
        if bytes.len() < total { Err(NotAFrame::Short) } else { Ok(total) }
    }

    fn fields(frame: &[u8]) -> Option<Self> {
        let mut rest = &frame[4..frame.len() - 4];
        let sequence = take_u64(&mut rest)?;
        let batch = take_u64(&mut rest)?;
        let left = take_u32(&mut rest)?;
        let previous = Digest::from_bytes(*rest.split_first_chunk::<32>()?.0);
        let body = &rest[32..];
        let hash = hash_of(sequence, &previous, body);
        let NewRecord { at_ms, wall_ms, who, keys, payload } = decode_body(body)?;
        let record = Record { sequence, hash, previous, at_ms, wall_ms, who, keys, payload };
        Some(Self { record, batch, left })
    }
}

fn hash_of(sequence: u64, previous: &Digest, body: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&sequence.to_le_bytes()).update(previous.as_bytes()).update(body);
    hasher.finalize().into()
}

fn encode_body(new: &NewRecord) -> Result<Vec<u8>, StoreError> {
    let mut body = Vec::with_capacity(64 + new.payload.len());
    body.extend_from_slice(&new.at_ms.to_le_bytes());
    body.extend_from_slice(&new.wall_ms.to_le_bytes());
    put_text(&mut body, "name", &new.who)?;
    body.extend_from_slice(&short("list of keys", new.keys.len())?.to_le_bytes());
    for key in &new.keys {
        put_text(&mut body, "key", key)?;
    }
    body.extend_from_slice(&new.payload);
    if body.len() > RECORD_BYTES {
        return Err(StoreError::TooLarge { what: "record", size: body.len(), limit: RECORD_BYTES });
    }
    Ok(body)
}

fn decode_body(body: &[u8]) -> Option<NewRecord> {
    let mut rest = body;
    let at_ms = take_u64(&mut rest)?;
    let wall_ms = take_u64(&mut rest)?;
    let who = take_text(&mut rest)?;
    let keys = (0..take_u16(&mut rest)?).map(|_| take_text(&mut rest)).collect::<Option<_>>()?;
    Some(NewRecord { at_ms, wall_ms, who, keys, payload: rest.to_vec() })
}

fn put_text(out: &mut Vec<u8>, what: &'static str, text: &str) -> Result<(), StoreError> {
    out.extend_from_slice(&short(what, text.len())?.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn short(what: &'static str, size: usize) -> Result<u16, StoreError> {
    u16::try_from(size).map_err(|_| StoreError::TooLarge { what, size, limit: usize::from(u16::MAX) })
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::from(take_u16(rest)?);
    let (text, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    String::from_utf8(text.to_vec()).ok()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (number, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*number)
}

pub(crate) fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    take(rest).map(u16::from_le_bytes)
}

pub(crate) fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest).map(u32::from_le_bytes)
}

pub(crate) fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_record() -> impl Strategy<Value = NewRecord> {
        let keys = prop::collection::vec(".{0,40}", 0..5);
        let payload = prop::collection::vec(any::<u8>(), 0..2000);
        (any::<u64>(), any::<u64>(), ".{0,60}", keys, payload)
            .prop_map(|(at_ms, wall_ms, who, keys, payload)| NewRecord { at_ms, wall_ms, who, keys, payload })
    }

    fn head() -> Link {
        Link { sequence: 41, hash: Digest::of(b"head") }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_again(new in any_record(), left in any::<u32>()) {
            let mut bytes = Vec::new();
            let link = encode(&mut bytes, head(), 40, left, &new).unwrap();
            let (frame, length) = Frame::decode(&bytes).unwrap();
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(frame.record.link(), link);
            prop_assert_eq!((frame.batch, frame.left), (40, left));
            prop_assert_eq!(frame.record, Record::chained(head(), new).unwrap());
        }

        #[test]
        fn decoding_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _answer = Frame::decode(&bytes);
        }

        #[test]
        fn decoding_a_body_of_any_bytes_never_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _answer = decode_body(&body);
        }

        #[test]
        fn a_changed_byte_is_always_noticed(new in any_record(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let mut bytes = Vec::new();
            encode(&mut bytes, head(), 40, 0, &new).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(Frame::decode(&bytes).is_err());
        }

        #[test]
        fn a_cut_frame_is_always_noticed(new in any_record(), at in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            encode(&mut bytes, head(), 40, 0, &new).unwrap();
            let at = at.index(bytes.len());
            prop_assert!(Frame::decode(&bytes[..at]).is_err());
        }
    }

    #[test]
    fn a_record_that_no_reader_would_accept_is_not_written() {
        let mut new = NewRecord {
            at_ms: 0,
            wall_ms: 0,
            who: String::new(),
            keys: vec![],
            payload: vec![0; RECORD_BYTES],
        };
        assert!(matches!(
            Record::chained(head(), new.clone()),
            Err(StoreError::TooLarge { what: "record", .. })
        ));
        new.payload.clear();
        new.keys = vec!["k".repeat(70_000)];
        assert!(matches!(Record::chained(head(), new), Err(StoreError::TooLarge { what: "key", .. })));
    }
}
