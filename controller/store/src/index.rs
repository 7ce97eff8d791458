//! The index: which records carry a key, and where a record lies. Kept in sled, which is quick to ask.
//!
//! It may be lost at any time: everything in it can be read from the journal again (`catch_up.rs`), and what it says
//! is checked against the journal's own checksums when it is used. It never holds a record's content.
//!
//! ```text
//! m                          journal id, format, newest sequence indexed, its hash
//! k length-of-key key seq  → nothing
//! s seq                    → segment, offset, length
//! ```
//!
//! One tree, so that a batch is applied as a whole. Numbers are big-endian: sled orders by bytes.

use std::{
    fs::File,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use bunraku_common::Digest;
use sled::{Batch, Db};

use crate::{JournalId, Link, StoreError, segment::Position};

pub(crate) const FORMAT: u32 = 1;
/// sled's default is 1 GiB. The newest pages are what is asked for; the rest is read from disk, where a record with three
/// keys takes about 1 KB (measured with 100,000 records).
const CACHE_BYTES: u64 = 32 << 20;
const META: &[u8] = b"m";
/// A child that was forked and has not become another program yet holds a copy of sled's lock, which sled only closes.
const LOCK_LINGERS: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Index {
    db: Db,
    path: PathBuf,
}

/// What the index covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) format: u32,
    pub(crate) journal: JournalId,
    pub(crate) head: Link,
}

/// One record to be indexed.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) link: Link,
    pub(crate) keys: &'a [String],
    pub(crate) position: Position,
}

impl Index {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        wait_for_lock(&path.join("db"));
        let db = config.open().map_err(failed("open"))?;
        Ok(Self { db, path: path.into() })
    }

    /// None when nothing was indexed yet.
    pub(crate) fn meta(&self) -> Result<Option<Meta>, StoreError> {
        let Some(bytes) = self.db.get(META).map_err(failed("read"))? else { return Ok(None) };
        let unreadable =
            || failed("read")(sled::Error::Unsupported("its own description is cut off".to_owned()));
        decode_meta(&bytes).ok_or_else(unreadable).map(Some)
    }

    /// Indexes records that follow what is indexed already; the same ones may come again.
    pub(crate) fn add(&self, journal: JournalId, entries: &[Entry<'_>]) -> Result<(), StoreError> {
        let Some(newest) = entries.last() else { return Ok(()) };
        let mut batch = Batch::default();
        for Entry { link, keys, position } in entries {
            for key in *keys {
                batch.insert(key_of(key, link.sequence), &[]);
            }
            batch.insert(&place_of(link.sequence), encode_position(*position));
        }
        batch.insert(META, encode_meta(&Meta { format: FORMAT, journal, head: newest.link }));
        self.db.apply_batch(batch).map_err(failed("write"))
    }

    /// Takes out a record that is about to be pruned.
    pub(crate) fn forget<'a>(
        &self,
        records: impl Iterator<Item = (u64, &'a [String])>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (sequence, keys) in records {
            for key in keys {
                batch.remove(key_of(key, sequence));
            }
            batch.remove(&place_of(sequence));
        }
        self.db.apply_batch(batch).map_err(failed("write"))
    }

    pub(crate) fn place(&self, sequence: u64) -> Result<Option<Position>, StoreError> {
        let found = self.db.get(place_of(sequence)).map_err(failed("read"))?;
        Ok(found.as_deref().and_then(decode_position))
    }

    /// The newest records that carry `key`, newest first.
    pub(crate) fn newest(&self, key: &str, limit: usize) -> Result<Vec<u64>, StoreError> {
        let mut found = Vec::new();
        for entry in self.db.scan_prefix(prefix_of(key)).rev().take(limit) {
            let (name, _) = entry.map_err(failed("read"))?;
            found.extend(name.last_chunk().map(|sequence| u64::from_be_bytes(*sequence)));
        }
        Ok(found)
    }

    /// Puts everything on disk. sled's own flush does not reach the drive, so its file is synced as well.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(failed("write"))?;
        let synced = File::open(self.path.join("db")).and_then(|file| file.sync_all());
        synced.map_err(StoreError::io("sync", &self.path))
    }
}

/// Nobody else comes here: the store's own lock keeps them out. What goes wrong is for sled to say.
fn wait_for_lock(file: &Path) {
    let until = Instant::now() + LOCK_LINGERS;
    while File::open(file).is_ok_and(|file| file.try_lock().is_err()) && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
}

fn failed(doing: &'static str) -> impl FnOnce(sled::Error) -> StoreError {
    move |source| StoreError::Index { doing, source }
}

fn prefix_of(key: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(5 + key.len() + 8);
    name.push(b'k');
    // A key is never the beginning of another one's name: the lengths differ.
    name.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
    name.extend_from_slice(key.as_bytes());
    name
}

fn key_of(key: &str, sequence: u64) -> Vec<u8> {
    let mut name = prefix_of(key);
    name.extend_from_slice(&sequence.to_be_bytes());
    name
}

fn place_of(sequence: u64) -> [u8; 9] {
    let mut name = [b's'; 9];
    name[1..].copy_from_slice(&sequence.to_be_bytes());
    name
}

fn encode_position(position: Position) -> Vec<u8> {
    let mut out = position.segment.to_be_bytes().to_vec();
    out.extend_from_slice(&position.offset.to_be_bytes());
    out.extend_from_slice(&position.length.to_be_bytes());
    out
}

fn decode_position(bytes: &[u8]) -> Option<Position> {
    let (segment, rest) = bytes.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    let length = u32::from_be_bytes(rest.try_into().ok()?);
    Some(Position { segment: u64::from_be_bytes(*segment), offset: u64::from_be_bytes(*offset), length })
}

fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut out = meta.format.to_be_bytes().to_vec();
    out.extend_from_slice(&meta.journal.0.to_be_bytes());
    out.extend_from_slice(&meta.head.sequence.to_be_bytes());
    out.extend_from_slice(meta.head.hash.as_bytes());
    out
}

fn decode_meta(bytes: &[u8]) -> Option<Meta> {
    let (format, rest) = bytes.split_first_chunk()?;
    let (journal, rest) = rest.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let hash = Digest::from_bytes(rest.try_into().ok()?);
    let head = Link { sequence: u64::from_be_bytes(*sequence), hash };
    Some(Meta {
        format: u32::from_be_bytes(*format),
        journal: JournalId(u128::from_be_bytes(*journal)),
        head,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(offset: u64) -> Position {
        Position { segment: 1, offset, length: 90 }
    }

    fn add(index: &Index, sequence: u64, keys: &[&str]) {
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        let link = Link { sequence, hash: Digest::of(&sequence.to_le_bytes()) };
        index.add(JournalId(9), &[Entry { link, keys: &keys, position: position(sequence * 100) }]).unwrap();
    }

    #[test]
    fn the_newest_records_of_a_key_come_first_and_only_of_that_key() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        add(&index, 1, &["node/c1", "kind/x"]);
        add(&index, 2, &["node/c10", "kind/x"]);
        add(&index, 3, &["node/c1"]);
        assert_eq!(index.newest("node/c1", 10).unwrap(), [3, 1]);
        assert_eq!(index.newest("kind/x", 1).unwrap(), [2]);
        assert_eq!(index.newest("node/c", 10).unwrap(), [0; 0]);
        assert_eq!(index.place(2).unwrap(), Some(position(200)));
    }

    #[test]
    fn what_was_synced_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        assert_eq!(index.meta().unwrap(), None);
        add(&index, 7, &["a"]);
        index.sync().unwrap();
        drop(index);
        let meta = Index::open(dir.path()).unwrap().meta().unwrap().unwrap();
        assert_eq!((meta.format, meta.journal, meta.head.sequence), (FORMAT, JournalId(9), 7));
    }

    #[test]
    fn regression_a_childs_copy_of_the_lock_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        drop(Index::open(dir.path()).unwrap());
        let copy_in_a_child = File::open(dir.path().join("db")).unwrap();
        copy_in_a_child.lock().unwrap();
        let becomes_another_program = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(copy_in_a_child);
        });
        Index::open(dir.path()).unwrap();
        becomes_another_program.join().unwrap();
    }

    #[test]
    fn a_forgotten_record_is_found_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        add(&index, 1, &["a"]);
        add(&index, 2, &["a"]);
        index.forget([(1, ["a".to_owned()].as_slice())].into_iter()).unwrap();
        assert_eq!(index.newest("a", 10).unwrap(), [2]);
        assert_eq!(index.place(1).unwrap(), None);
    }
}
