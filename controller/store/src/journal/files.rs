//! How a segment comes into being, and how one that an earlier process left is made safe to go on with.

use std::io;

use super::{CUT, RESERVE, UNFINISHED, walk::Read};
use crate::{
    StoreError,
    disk::{Disk, is_full},
    segment::{Header, file_name},
};

/// A segment that may be appended to: its file, where the next batch goes, and up to where space is reserved.
#[derive(Debug)]
pub(super) struct Tail<F> {
    pub(super) file: F,
    pub(super) end: u64,
    pub(super) reserved: u64,
}

/// Why there is no new segment; `harmless` when the directory is as it was.
#[derive(Debug)]
pub(super) struct NotWritten {
    pub(super) error: StoreError,
    pub(super) harmless: bool,
}

/// Writes a segment under a temporary name, syncs it, gives it its name, and makes the name durable.
pub(super) fn write_segment<D: Disk>(disk: &D, header: &Header) -> Result<Tail<D::File>, NotWritten> {
    let name = file_name(header.head.sequence + 1);
    let unfinished = format!("{name}{UNFINISHED}");
    let bytes = header.encode();
    let end = bytes.len() as u64;
    let reserved = end + RESERVE;
    let failed = |source: io::Error, harmless| {
        let path = disk.path().join(&name);
        let error = if harmless && is_full(&source) {
            StoreError::Full { path, needed: reserved }
        } else {
            StoreError::Io { doing: "begin the segment", path, source }
        };
        NotWritten { error, harmless }
    };

    let file = disk.create(&unfinished).map_err(|error| failed(error, true))?;
    if let Err(error) = disk.allocate(&file, 0, reserved) {
        // What cannot be removed now is removed when the journal is opened.
        let _best_effort = disk.remove(&unfinished);
        return Err(failed(error, true));
    }
    disk.write_at(&file, 0, &bytes)
        .and_then(|()| disk.sync_data(&file))
        .and_then(|()| disk.rename(&unfinished, &name))
        .and_then(|()| disk.sync_dir())
        .map_err(|error| failed(error, false))?;
    Ok(Tail { file, end, reserved })
}

/// Cuts what is torn and makes durable what is whole.
///
/// What was read may be in the kernel's memory only: the process before this one may have died between write and sync,
/// or its sync may have failed, after which the kernel believes these pages to be clean. So the last batch is written
/// once more, with the same bytes, before anyone acts on it.
pub(super) fn settle<D: Disk>(disk: &D, newest: &Read) -> Result<Tail<D::File>, StoreError> {
    let name = newest.segment.name();
    let (from, end) = (newest.scan.last_batch, newest.scan.end);
    let settled = disk.open(&name).and_then(|file| {
        if newest.bytes.len() > end {
            // For a person to look at, should it turn out to have been acknowledged; the start does not depend on it.
            let _best_effort = keep_cut(disk, &format!("{name}{CUT}"), &newest.bytes[end..]);
            disk.truncate(&file, end as u64)?;
        }
        disk.write_at(&file, from as u64, &newest.bytes[from..end])?;
        disk.sync_data(&file)?;
        disk.sync_dir()?;
        Ok(file)
    });
    let file = settled.map_err(StoreError::io("settle the end of", disk.path().join(name)))?;
    Ok(Tail { file, end: end as u64, reserved: end as u64 })
}

fn keep_cut<D: Disk>(disk: &D, name: &str, bytes: &[u8]) -> io::Result<()> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    let file = disk.create(name)?;
    disk.allocate(&file, 0, bytes.len() as u64)?;
    disk.write_at(&file, 0, bytes)?;
    disk.sync_data(&file)
}
