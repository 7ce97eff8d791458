//! Hashes files and puts them into the store, on two threads beside the walk.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use bunraku_common::{Digest, limits, objects::Objects};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};

use super::SnapshotError;
use crate::manifest;

/// Opening costs more than hashing (64,000 small files a second and core): two threads keep two cores busy.
pub(super) const THREADS: usize = 2;
/// Files that wait for a thread. Each holds its directory open, so this bounds descriptors, too.
pub(super) const WAITING: usize = 64;
/// Files up to this size are read at once; larger ones go through a temporary file.
const AT_ONCE: u64 = 4 << 20;
/// A manifest lists modules: a few hundred bytes each.
const MANIFEST_BYTES: u64 = 16 << 20;

/// One file to read.
pub(super) struct Job {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) name: CString,
    pub(super) path: String,
    /// A builder's own file, stored without what differs between equal builds.
    pub(super) manifest: bool,
    pub(super) number: usize,
}

/// What it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// Takes jobs until there are none, or one fails.
pub(super) fn work(
    jobs: &Mutex<mpsc::Receiver<Job>>,
    objects: &Objects,
) -> Result<Vec<(usize, Content)>, SnapshotError> {
    let mut done = Vec::new();
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return Ok(done) };
        done.push((job.number, read(&job, objects)?));
    }
}

fn read(job: &Job, objects: &Objects) -> Result<Content, SnapshotError> {
    let wrong = |source: io::Error| SnapshotError::Read { path: job.path.clone(), source };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(&*job.directory, &job.name, flags, Mode::empty()).map_err(|e| wrong(e.into()))?;
    let stat = fstat(&file).map_err(|e| wrong(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(wrong(io::Error::other("it was exchanged while the snapshot was taken")));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let mut file = File::from(file);
    if job.manifest {
        let bytes = whole(&mut file, MANIFEST_BYTES).map_err(wrong)?;
        let plain = manifest::without_times(&bytes)
            .map_err(|reason| SnapshotError::Manifest { path: job.path.clone(), reason })?;
        return put(objects, &plain);
    }
    if size <= AT_ONCE {
        let bytes = whole(&mut file, AT_ONCE).map_err(wrong)?;
        return put(objects, &bytes);
    }
    stream(&mut file, objects, wrong)
}

fn whole(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other("it grew while the snapshot was taken"));
    }
    Ok(bytes)
}

fn put(objects: &Objects, bytes: &[u8]) -> Result<Content, SnapshotError> {
    let digest = objects.put_blob(bytes).map_err(SnapshotError::Store)?;
    Ok(Content { digest, size: bytes.len() as u64 })
}

fn stream(
    file: &mut File,
    objects: &Objects,
    wrong: impl Fn(io::Error) -> SnapshotError,
) -> Result<Content, SnapshotError> {
    let (temporary, mut out) = objects.temporary().map_err(SnapshotError::Store)?;
    let copied = copy(file, &mut out, &wrong).and_then(|content| {
        objects.keep(&temporary, &content.digest).map_err(SnapshotError::Store)?;
        Ok(content)
    });
    if copied.is_err() {
        let _best_effort = std::fs::remove_file(&temporary);
    }
    copied
}

fn copy(
    file: &mut File,
    out: &mut File,
    wrong: &impl Fn(io::Error) -> SnapshotError,
) -> Result<Content, SnapshotError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer).map_err(wrong)?;
        if read == 0 {
            return Ok(Content { digest: hasher.finalize().into(), size });
        }
        size += read as u64;
        if size > limits::BLOB_BYTES {
            return Err(wrong(io::Error::other("it grew while the snapshot was taken")));
        }
        hasher.update(&buffer[..read]);
        out.write_all(&buffer[..read]).map_err(SnapshotError::Store)?;
    }
}
