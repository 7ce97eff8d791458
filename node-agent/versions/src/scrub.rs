//! Compares a version on disk with its snapshot, file by file: slowly in the background, or all at once to heal.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{self, AtomicBool},
};

use bunraku_common::{
    Digest, EnvironmentName,
    snapshot::{Node, TreeError, Trees},
};
use rustix::fs::{Stat, readlinkat};

use crate::{
    VersionsError,
    apply::hash,
    below::{self, Below},
    layout::RESOURCE_TYPES,
    versions::{Versions, locked},
};

/// How much one call of `scrub` may do; it ends after the directory in which either is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub files: u64,
    pub bytes: u64,
}

/// What one call of `scrub` saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    pub drift: Vec<Drift>,
    pub checked_files: u64,
    /// The directory to go on with; none: the end was reached.
    pub next: Option<String>,
}

/// One path that is not what the snapshot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    pub path: String,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Missing,
    /// Not in the snapshot.
    Extra,
    /// Something else than a file, directory or link as recorded.
    Kind,
    /// Other bytes, or another target of a link.
    Content,
    /// Another mode, owner or group.
    Mode,
}

impl Versions {
    /// Hashes files of the live version, beginning with the directory `from` (as `Scrubbed::next` said), and
    /// remembers what differs for `observe`. `.resource_types` is not looked at.
    pub fn scrub(
        &self,
        env: &EnvironmentName,
        from: Option<&str>,
        budget: Budget,
    ) -> Result<Scrubbed, VersionsError> {
        let Some(live) = self.live(env) else {
            return Err(VersionsError::NotLive { environment: env.clone() });
        };
        let go_on = AtomicBool::new(false);
        let scrubbed = self.check(env, &live, from.unwrap_or_default(), budget, &go_on)?;
        // A swap in between makes the result one of another version.
        if self.live(env) == Some(live) {
            let mut all = locked(&self.drift);
            let known = all.entry(env.clone()).or_default();
            forget_range(known, from.unwrap_or_default(), scrubbed.next.as_deref());
            known.extend(scrubbed.drift.iter().map(|drift| drift.path.clone()));
        }
        Ok(scrubbed)
    }

    pub(crate) fn check(
        &self,
        env: &EnvironmentName,
        digest: &Digest,
        from: &str,
        budget: Budget,
        cancel: &AtomicBool,
    ) -> Result<Scrubbed, VersionsError> {
        let path = self.resolve(env, digest);
        let root = Below::open(&path).map_err(VersionsError::io("open", &path))?;
        let mut check = Check { versions: self, from, left: budget, cancel, seen: Scrubbed::default() };
        check.directory(digest, root.root(), "").map_err(|error| match error {
            Broken::Io(error) => VersionsError::io("check", &path)(error),
            Broken::Cancelled => VersionsError::Cancelled,
            Broken::Tree(source) => VersionsError::Tree { environment: env.clone(), source },
        })?;
        Ok(check.seen)
    }
}

struct Check<'a> {
    versions: &'a Versions,
    from: &'a str,
    left: Budget,
    cancel: &'a AtomicBool,
    seen: Scrubbed,
}

enum Broken {
    Io(io::Error),
    Tree(TreeError),
    Cancelled,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Check<'_> {
    fn directory(&mut self, digest: &Digest, fd: BorrowedFd<'_>, path: &str) -> Result<(), Broken> {
        let tree = self.versions.trees.tree(digest).map_err(Broken::Tree)?;
        let due = order(path, self.from) != Ordering::Less;
        if due {
            if self.left.files == 0 || self.left.bytes == 0 {
                self.seen.next = Some(path.to_owned());
                return Ok(());
            }
            let on_disk = below::names(fd)?;
            for name in on_disk.iter().filter(|name| tree.get(name).is_none()) {
                if !(path.is_empty() && name == RESOURCE_TYPES) {
                    self.differs(join(path, name), What::Extra);
                }
            }
            self.own_mode(fd, path)?;
            for entry in tree.entries() {
                self.entry(fd, &entry.name, &entry.node, &join(path, &entry.name))?;
            }
        }
        for entry in tree.entries() {
            let Node::Directory { digest } = &entry.node else { continue };
            let child = join(path, &entry.name);
            let passed = order(&child, self.from) == Ordering::Less && !is_within(self.from, &child);
            if passed || self.seen.next.is_some() {
                continue;
            }
            match below::open_directory(fd, &entry.name) {
                Ok(open) => self.directory(digest, open.as_fd(), &child)?,
                // Reported as missing or of another kind by its parent.
                Err(error) if below::is_absent(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn entry(&mut self, fd: BorrowedFd<'_>, name: &str, node: &Node, path: &str) -> Result<(), Broken> {
        if self.cancel.load(atomic::Ordering::Relaxed) {
            return Err(Broken::Cancelled);
        }
        let Some(stat) = below::stat_at(fd, name)? else {
            self.differs(path.to_owned(), What::Missing);
            return Ok(());
        };
        let what = match node {
            Node::Directory { .. } => (!below::is_directory(&stat)).then_some(What::Kind),
            Node::Link { target } => match readlinkat(fd, name, Vec::new()) {
                Ok(found) => (found.to_bytes() != target.as_bytes()).then_some(What::Content),
                Err(_) => Some(What::Kind),
            },
            Node::File { digest, size, executable } => {
                self.seen.checked_files += 1;
                self.left.files = self.left.files.saturating_sub(1);
                self.left.bytes = self.left.bytes.saturating_sub(*size);
                self.file(fd, name, &stat, digest, *size, *executable)?
            }
        };
        if let Some(what) = what {
            self.differs(path.to_owned(), what);
        }
        Ok(())
    }

    fn file(
        &self,
        fd: BorrowedFd<'_>,
        name: &str,
        stat: &Stat,
        digest: &Digest,
        size: u64,
        executable: bool,
    ) -> Result<Option<What>, Broken> {
        if !below::is_file(stat) {
            return Ok(Some(What::Kind));
        }
        if u64::try_from(stat.st_size) != Ok(size) || hash(&below::open_file_at(fd, name)?)? != *digest {
            return Ok(Some(What::Content));
        }
        let right = self.versions.may_be_linked(stat, executable) && is_ours(stat);
        Ok((!right).then_some(What::Mode))
    }

    fn own_mode(&mut self, fd: BorrowedFd<'_>, path: &str) -> Result<(), Broken> {
        let stat = rustix::fs::fstat(fd).map_err(io::Error::from)?;
        if !(self.versions.may_be_linked(&stat, true) && is_ours(&stat)) {
            self.differs(path.to_owned(), What::Mode);
        }
        Ok(())
    }

    fn differs(&mut self, path: String, what: What) {
        self.seen.drift.push(Drift { path, what });
    }
}

fn is_ours(stat: &Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw()
}

/// The order in which directories are visited: parents first, names by their bytes.
fn order(a: &str, b: &str) -> Ordering {
    let parts = |path: &str| path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let (a, b): (Vec<String>, Vec<String>) = (parts(a), parts(b));
    a.cmp(&b)
}

fn is_within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Forgets what earlier scrubs saw in the directories from `from` up to `next`.
fn forget_range(known: &mut BTreeSet<String>, from: &str, next: Option<&str>) {
    known.retain(|path| {
        let (directory, _) = below::split(path);
        order(directory, from) == Ordering::Less
            || next.is_some_and(|next| order(directory, next) != Ordering::Less)
    });
}

pub(crate) fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") }
}
