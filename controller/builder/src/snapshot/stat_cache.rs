//! What an earlier walk learned about files: so that unchanged ones are not opened.
//!
//! A file is the same when device, inode, size, mode, mtime and ctime are (nobody can set a ctime). Files that changed
//! no earlier than the walk began are not remembered: they may change again within the same tick of the file system's
//! clock. The cache file is rewritten whole; one that is damaged, foreign or of another device counts as none.
//!
//! Format: magic, device, stamp of the object store, entries sorted by inode, BLAKE3 of all that.

use std::{collections::HashMap, fs, io, path::Path};

use bunraku_common::Digest;
use rustix::fs::Stat;

const MAGIC: &[u8; 16] = b"bunraku-stat-1\n\0";
const ENTRY: usize = 8 * 4 + 4 + 32;
const HEAD: usize = 16 + 8 + 16;

/// What identifies one state of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    inode: u64,
    size: u64,
    mode: u32,
    mtime: i64,
    ctime: i64,
}

impl Key {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode,
            mtime: nanoseconds(stat.st_mtime, stat.st_mtime_nsec.into()),
            ctime: nanoseconds(stat.st_ctime, stat.st_ctime_nsec.into()),
        }
    }

    /// Whether the file cannot have changed since `time` without showing it.
    pub(super) fn settled_before(&self, time: i64) -> bool {
        self.ctime < time && self.mtime < time
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i128) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(i64::try_from(nanoseconds).unwrap_or(0))
}

/// The file system's clock, less twice its coarsest tick (100 Hz).
pub(super) fn walk_begins() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    nanoseconds(now.tv_sec, now.tv_nsec.into()) - 20_000_000
}

#[derive(Debug, Default)]
pub(super) struct StatCache {
    known: HashMap<u64, (Key, Digest)>,
    /// Whether the store may have lost objects since this was written.
    pub(super) doubtful: bool,
}

impl StatCache {
    pub(super) fn load(path: &Path, device: u64, stamp: [u8; 16]) -> Self {
        fs::read(path).ok().and_then(|bytes| Self::decode(&bytes, device, stamp)).unwrap_or_default()
    }

    pub(super) fn get(&self, key: &Key) -> Option<Digest> {
        self.known.get(&key.inode).filter(|(known, _)| known == key).map(|(_, digest)| *digest)
    }

    fn decode(bytes: &[u8], device: u64, stamp: [u8; 16]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<32>()?;
        let (head, entries) = body.split_at_checked(HEAD)?;
        let same_device = head[16..24] == device.to_le_bytes();
        if &head[..16] != MAGIC || !same_device || blake3::hash(body).as_bytes() != sum {
            return None;
        }
        let mut known = HashMap::with_capacity(entries.len() / ENTRY);
        for entry in entries.chunks_exact(ENTRY) {
            let number = |at: usize| entry[at..at + 8].try_into().map(u64::from_le_bytes).ok();
            let key = Key {
                inode: number(0)?,
                size: number(8)?,
                mtime: number(16)?.cast_signed(),
                ctime: number(24)?.cast_signed(),
                mode: u32::from_le_bytes(entry[32..36].try_into().ok()?),
            };
            known.insert(key.inode, (key, Digest::from_bytes(entry[36..].try_into().ok()?)));
        }
        Some(Self { known, doubtful: head[24..40] != stamp })
    }
}

/// Replaces the cache file. Not synced: after a power loss it is whole, or its sum does not fit.
pub(super) fn save(
    path: &Path,
    device: u64,
    stamp: [u8; 16],
    mut entries: Vec<(Key, Digest)>,
) -> io::Result<()> {
    entries.sort_by_key(|(key, _)| key.inode);
    let mut bytes = Vec::with_capacity(HEAD + entries.len() * ENTRY + 32);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&device.to_le_bytes());
    bytes.extend_from_slice(&stamp);
    for (key, digest) in &entries {
        for number in [key.inode, key.size, key.mtime.cast_unsigned(), key.ctime.cast_unsigned()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&key.mode.to_le_bytes());
        bytes.extend_from_slice(digest.as_bytes());
    }
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes)?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: [u8; 16] = [7; 16];

    fn key() -> Key {
        Key { inode: 5, size: 3, mode: 0o100_644, mtime: -1, ctime: 9 }
    }

    #[test]
    fn a_file_is_known_only_in_exactly_the_state_that_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        save(&path, 1, STAMP, vec![(key(), Digest::of(b"x"))]).unwrap();
        let cache = StatCache::load(&path, 1, STAMP);
        assert_eq!(cache.get(&key()), Some(Digest::of(b"x")));
        assert!(!cache.doubtful);
        let others = [
            Key { size: 4, ..key() },
            Key { mode: 0o100_755, ..key() },
            Key { mtime: 0, ..key() },
            Key { ctime: 10, ..key() },
            Key { inode: 6, ..key() },
        ];
        assert!(others.iter().all(|other| cache.get(other).is_none()));
        assert!(StatCache::load(&path, 1, [8; 16]).doubtful);
        assert_eq!(StatCache::load(&path, 2, STAMP).get(&key()), None);
    }

    #[test]
    fn a_damaged_cache_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        save(&path, 1, STAMP, vec![(key(), Digest::of(b"x"))]).unwrap();
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(StatCache::decode(&bad, 1, STAMP).is_none(), "bit {bit} was not noticed");
        }
        for length in 0..good.len() {
            assert!(StatCache::decode(&good[..length], 1, STAMP).is_none(), "cut at {length}");
        }
    }
}
