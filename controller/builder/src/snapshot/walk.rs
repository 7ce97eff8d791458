//! The walk: lists a tree once, hands changed files to the readers, then builds the directories from the leaves up.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use bunraku_common::{
    Digest, limits,
    objects::Objects,
    snapshot::{Entry, Node, Tree, tree::link_stays_inside},
};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use tokio_util::sync::CancellationToken;

use super::{
    Exclude, Snapshot, SnapshotError,
    offence::{Offences, Why},
    read::{self, Content, Job},
    stat_cache::{Key, StatCache, walk_begins},
};
use crate::kind::Kind;

type Remember = Vec<(Key, Digest)>;

pub(super) fn walk(
    root: OwnedFd,
    known: &StatCache,
    exclude: &Exclude,
    objects: &Objects,
    cancel: &CancellationToken,
) -> Result<(Snapshot, Remember), SnapshotError> {
    let (jobs, waiting) = mpsc::sync_channel(read::WAITING);
    let waiting = Mutex::new(waiting);
    let mut walk = Walk {
        known,
        exclude,
        objects,
        cancel,
        jobs: Some(jobs),
        begun: walk_begins(),
        files: Vec::new(),
        opened: 0,
        entries: 0,
        bytes: 0,
        offences: Offences::default(),
    };
    let (listed, read) = thread::scope(|scope| {
        let reader = || {
            let done = read::work(&waiting, objects);
            if done.is_err() {
                // The walk must not wait for a reader that has left: take the rest and drop it.
                while waiting.lock().is_ok_and(|jobs| jobs.recv().is_ok()) {}
            }
            done
        };
        let readers: Vec<_> = (0..read::THREADS).map(|_| scope.spawn(reader)).collect();
        let listed = walk.directory(Arc::new(root), "", 0);
        walk.jobs = None;
        let read: Vec<_> =
            readers.into_iter().map(|r| r.join().expect("readers hold no code that panics")).collect();
        (listed, read)
    });
    let listing = listed?;
    for (number, content) in read.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        walk.files[number].content = Some(content);
    }
    walk.finish(&listing)
}

struct Walk<'a> {
    known: &'a StatCache,
    exclude: &'a Exclude,
    objects: &'a Objects,
    cancel: &'a CancellationToken,
    jobs: Option<mpsc::SyncSender<Job>>,
    begun: i64,
    files: Vec<FileState>,
    opened: u64,
    entries: usize,
    bytes: u64,
    offences: Offences,
}

struct FileState {
    key: Key,
    content: Option<Content>,
}

/// A directory whose files may still be with the readers.
struct Listing {
    path: String,
    entries: Vec<(String, Listed)>,
}

enum Listed {
    File { number: usize, executable: bool },
    Directory(Listing),
    Link(String),
}

impl Walk<'_> {
    fn directory(&mut self, fd: Arc<OwnedFd>, path: &str, depth: usize) -> Result<Listing, SnapshotError> {
        if self.cancel.is_cancelled() {
            return Err(SnapshotError::Cancelled);
        }
        let mut entries = Vec::new();
        for name in names(&fd, path)? {
            if let Some(listed) = self.entry(&fd, path, &name, depth)? {
                entries.push(listed);
            }
        }
        Ok(Listing { path: path.to_owned(), entries })
    }

    fn entry(
        &mut self,
        fd: &Arc<OwnedFd>,
        at: &str,
        name: &CStr,
        depth: usize,
    ) -> Result<Option<(String, Listed)>, SnapshotError> {
        let bytes = name.to_bytes();
        let raw = if at.is_empty() { bytes.to_vec() } else { [at.as_bytes(), b"/", bytes].concat() };
        if bytes == b".git" || raw == b".resource_types" || self.exclude.matches(&raw) {
            return Ok(None);
        }
        self.entries += 1;
        if self.entries > limits::ENTRIES {
            return Err(SnapshotError::TooManyEntries(limits::ENTRIES));
        }
        let Ok(path) = String::from_utf8(raw) else {
            self.offences
                .add(&[at.as_bytes(), b"/", bytes].concat()[usize::from(at.is_empty())..], Why::NotUtf8);
            return Ok(None);
        };
        let stat = statat(&**fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| wrong(&path, e.into()))?;
        let offence = match FileType::from_raw_mode(stat.st_mode) {
            _ if path.len() > limits::PATH_BYTES => Why::PathTooLong,
            FileType::RegularFile => match self.file(fd, &path, name, &stat)? {
                Ok(file) => return Ok(Some((text(bytes), file))),
                Err(why) => why,
            },
            FileType::Directory if depth + 1 >= limits::DEPTH => Why::TooDeep,
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = openat(&**fd, name, flags, Mode::empty()).map_err(|e| wrong(&path, e.into()))?;
                let listing = self.directory(Arc::new(below), &path, depth + 1)?;
                return Ok(Some((text(bytes), Listed::Directory(listing))));
            }
            FileType::Symlink => match link(fd, &path, name, depth)? {
                Ok(link) => return Ok(Some((text(bytes), link))),
                Err(why) => why,
            },
            FileType::Socket => Why::Socket,
            FileType::Fifo => Why::Fifo,
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => Why::Device,
        };
        self.offences.add(path.as_bytes(), offence);
        Ok(None)
    }

    fn file(
        &mut self,
        fd: &Arc<OwnedFd>,
        path: &str,
        name: &CStr,
        stat: &Stat,
    ) -> Result<Result<Listed, Why>, SnapshotError> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if stat.st_mode & 0o6000 != 0 {
            return Ok(Err(Why::SetId));
        }
        if size > limits::BLOB_BYTES {
            return Ok(Err(Why::FileTooLarge(size)));
        }
        self.bytes += size;
        if self.bytes > limits::SNAPSHOT_BYTES {
            return Err(SnapshotError::TooManyBytes(limits::SNAPSHOT_BYTES));
        }
        let number = self.files.len();
        let key = Key::of(stat);
        // The size of a manifest is that of its plain form: it is always read.
        let manifest = [Kind::R10k, Kind::G10k].iter().any(|kind| kind.manifest() == path);
        let digest = self.known.get(&key).filter(|_| !manifest);
        let digest = digest.filter(|digest| !self.known.doubtful || self.objects.has(digest));
        self.files.push(FileState { key, content: digest.map(|digest| Content { digest, size }) });
        // While anything is refused already, reading would be in vain.
        if digest.is_none() && self.offences.total == 0 {
            self.opened += 1;
            let (directory, name) = (Arc::clone(fd), CString::from(name));
            let job = Job { directory, name, path: path.to_owned(), manifest, number };
            let jobs = self.jobs.as_ref().expect("the channel is closed only after the walk");
            jobs.send(job).expect("readers take jobs until the channel is closed");
        }
        Ok(Ok(Listed::File { number, executable: stat.st_mode & 0o100 != 0 }))
    }

    fn finish(mut self, listing: &Listing) -> Result<(Snapshot, Remember), SnapshotError> {
        let digest = if self.offences.total == 0 { self.put(listing)? } else { None };
        let Some(digest) = digest else {
            let Offences { named, total } = self.offences;
            return Err(SnapshotError::Refused { named, total });
        };
        let contents = self.files.iter().filter_map(|file| Some((file.key, file.content?)));
        let bytes = contents.clone().map(|(_, content)| content.size).sum();
        let settled = contents.filter(|(key, _)| key.settled_before(self.begun));
        let remember = settled.map(|(key, content)| (key, content.digest)).collect();
        let snapshot = Snapshot { digest, files: self.files.len() as u64, bytes, opened: self.opened };
        Ok((snapshot, remember))
    }

    /// None: a directory below is too large, and stands in `offences`.
    fn put(&mut self, listing: &Listing) -> Result<Option<Digest>, SnapshotError> {
        let mut entries = Vec::with_capacity(listing.entries.len());
        for (name, listed) in &listing.entries {
            let node = match listed {
                Listed::File { number, executable } => {
                    let Content { digest, size } =
                        self.files[*number].content.expect("without offences and errors every file was read");
                    Node::File { digest, size, executable: *executable }
                }
                Listed::Link(target) => Node::Link { target: target.clone() },
                Listed::Directory(below) => match self.put(below)? {
                    Some(digest) => Node::Directory { digest },
                    None => continue,
                },
            };
            entries.push(Entry { name: name.clone(), node });
        }
        let tree = Tree::new(entries).map_err(|error| wrong(&listing.path, io::Error::other(error)))?;
        if tree.encode().len() as u64 > limits::TREE_BYTES {
            self.offences.add(listing.path.as_bytes(), Why::DirectoryTooLarge);
        }
        if self.offences.total > 0 {
            return Ok(None);
        }
        self.objects.put_tree(&tree).map(Some).map_err(SnapshotError::Store)
    }
}

fn link(fd: &OwnedFd, path: &str, name: &CStr, depth: usize) -> Result<Result<Listed, Why>, SnapshotError> {
    let target = readlinkat(fd, name, Vec::new()).map_err(|e| wrong(path, e.into()))?;
    Ok(match target.into_string() {
        Err(_) => Err(Why::NotUtf8),
        Ok(target) if link_stays_inside(&target, depth) => Ok(Listed::Link(target)),
        Ok(target) => Err(Why::LinkLeaves(target.escape_debug().to_string())),
    })
}

/// Sorted, so that offences are named in one order.
fn names(fd: &OwnedFd, path: &str) -> Result<Vec<CString>, SnapshotError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd).map_err(|e| wrong(path, e.into()))? {
        let entry = entry.map_err(|e| wrong(path, e.into()))?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
        if names.len() > limits::ENTRIES {
            return Err(SnapshotError::TooManyEntries(limits::ENTRIES));
        }
    }
    names.sort();
    Ok(names)
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn wrong(path: &str, source: io::Error) -> SnapshotError {
    SnapshotError::Read { path: if path.is_empty() { ".".to_owned() } else { path.to_owned() }, source }
}
