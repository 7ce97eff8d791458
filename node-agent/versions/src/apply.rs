//! Makes a tree what a snapshot says: applies a difference to a tree, or links a new tree from an old one.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bunraku_common::{
    Digest,
    objects::Objects,
    snapshot::{Change, Node, Tree, TreeError, Trees},
};
use rustix::{
    fs::{AtFlags, CWD, Stat, linkat},
    io::Errno,
};

use crate::{
    below::{self, Below},
    fail_point::fail_point,
    plan::{Need, same_content},
    versions::Versions,
};

/// Above this many files and directories one `syncfs` is cheaper than an fsync of each: on ext4 every fsync of a new
/// file is a commit of the journal (8 files and their directories: 41 ms against 6 ms; 170: 183 ms against 11 ms). Below
/// it, a `syncfs` could wait for what others have just written to the same file system.
const FSYNC_EACH: usize = 8;

#[derive(Debug)]
pub(crate) enum ApplyError {
    /// The tree, or one that content is taken from, is not what its seal says: another base may do.
    NotAsSealed(Digest, String),
    /// The listings of the tree are not here any more.
    Trees(TreeError),
    Io(String, io::Error),
    Cancelled,
}

/// Applies changes to one tree. Nothing that is written has its final name before it is complete.
#[derive(Debug)]
pub(crate) struct Apply<'a> {
    pub(crate) versions: &'a Versions,
    incoming: Arc<Objects>,
    pub(crate) tree: Below,
    /// What the tree holds before.
    pub(crate) base: Option<Digest>,
    /// Received contents: verified, one file each in `incoming`, with how often each is needed still.
    pub(crate) received: HashMap<Digest, Need>,
    /// Contents that other versions hold, by path.
    pub(crate) elsewhere: HashMap<String, Elsewhere>,
    pub(crate) cancel: &'a AtomicBool,
    pub(crate) written_files: u64,
    touched: BTreeSet<String>,
    written: Vec<File>,
}

/// A file of a sealed version, at the same path.
#[derive(Debug, Clone)]
pub(crate) struct Elsewhere {
    pub(crate) version: Digest,
    pub(crate) at: PathBuf,
}

impl<'a> Apply<'a> {
    pub(crate) fn new(
        versions: &'a Versions,
        incoming: Arc<Objects>,
        tree: Below,
        base: Option<Digest>,
        cancel: &'a AtomicBool,
    ) -> Self {
        Self {
            versions,
            incoming,
            tree,
            base,
            received: HashMap::new(),
            elsewhere: HashMap::new(),
            cancel,
            written_files: 0,
            touched: BTreeSet::new(),
            written: Vec::new(),
        }
    }

    pub(crate) fn run(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        for change in changes {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(ApplyError::Cancelled);
            }
            self.one(change)?;
            self.touched.insert(below::split(change.path()).0.to_owned());
        }
        Ok(())
    }

    /// Everything that was written is on disk when this returns. `all`: more was written than went through here.
    pub(crate) fn sync(&mut self, all: bool) -> Result<(), ApplyError> {
        let failed = |error| ApplyError::Io("make the new files last".into(), error);
        fail_point("stage-sync").map_err(failed)?;
        if all || self.written_files as usize + self.touched.len() > FSYNC_EACH {
            return rustix::fs::syncfs(self.tree.root()).map_err(|error| failed(error.into()));
        }
        for file in self.written.drain(..) {
            file.sync_all().map_err(failed)?;
        }
        for directory in std::mem::take(&mut self.touched) {
            match self.tree.sync_directory(&directory) {
                // A directory of the base that a later change removed.
                Err(error) if below::is_absent(&error) => {}
                synced => synced.map_err(failed)?,
            }
        }
        Ok(())
    }

    fn one(&mut self, change: &Change) -> Result<(), ApplyError> {
        let path = change.path();
        match change {
            Change::Removed { .. } => {
                let trash = self.versions.trash_name();
                let removed = self.tree.remove(path, &trash);
                removed.map_err(|error| self.failed("remove", path, error))
            }
            Change::Added { node, .. } => self.put(path, node, None),
            Change::Changed { old, new, .. } => self.put(path, new, Some(old)),
        }
    }

    fn put(&mut self, path: &str, node: &Node, old: Option<&Node>) -> Result<(), ApplyError> {
        let done = match node {
            Node::Directory { .. } => {
                let layout = &self.versions.layout;
                self.touched.insert(path.to_owned());
                self.tree.make_directory(path, layout.directory_mode(), layout.group)
            }
            Node::Link { target } => {
                let temporary = self.versions.temporary();
                symlink(target, &temporary).and_then(|()| self.take(&temporary, path))
            }
            Node::File { digest, executable, .. } => {
                self.written_files += 1;
                let own = old.is_some_and(|old| same_content(old, node));
                return self.file(path, digest, *executable, own);
            }
        };
        done.map_err(|error| self.failed("write", path, error))
    }

    fn file(&mut self, path: &str, digest: &Digest, executable: bool, own: bool) -> Result<(), ApplyError> {
        let found = fail_point("stage-write").and_then(|()| {
            if own {
                let mut content = self.tree.open_file(path)?;
                return self.copy(&mut content, executable);
            }
            if self.received.contains_key(digest) {
                return self.receive(digest, executable);
            }
            Err(io::ErrorKind::NotFound.into())
        });
        let temporary = match (found, self.elsewhere.get(path)) {
            (Err(error), Some(elsewhere)) if error.kind() == io::ErrorKind::NotFound => {
                let elsewhere = elsewhere.clone();
                self.borrow(&elsewhere, digest, executable)?
            }
            (found, _) => found.map_err(|error| self.failed("write", path, error))?,
        };
        self.take(&temporary, path).map_err(|error| {
            let _best_effort = fs::remove_file(&temporary);
            self.failed("write", path, error)
        })
    }

    fn take(&mut self, temporary: &Path, path: &str) -> io::Result<()> {
        self.tree.take(temporary, path)
    }

    /// The received file itself for its last use, a copy before.
    fn receive(&mut self, digest: &Digest, executable: bool) -> io::Result<PathBuf> {
        let need = self.received.get_mut(digest).ok_or(io::ErrorKind::NotFound)?;
        need.uses = need.uses.saturating_sub(1);
        let last = need.uses == 0;
        let (mut file, _) = self.incoming.open_object(digest)?;
        if !last || file.metadata()?.nlink() > 1 {
            return self.copy(&mut file, executable);
        }
        let layout = &self.versions.layout;
        below::set_owner_and_mode(file.as_fd(), layout.file_mode(executable), layout.group)?;
        self.wrote(file);
        Ok(self.incoming.path(digest))
    }

    fn copy(&mut self, from: &mut File, executable: bool) -> io::Result<PathBuf> {
        let (temporary, file) = copy_to_temporary(self.versions, from, executable)?;
        self.wrote(file);
        Ok(temporary)
    }

    /// Links a file of another version, or copies it where the mode differs or a link is not possible. Its content is
    /// hashed first: it is not covered by the seal of this tree's base.
    fn borrow(
        &mut self,
        elsewhere: &Elsewhere,
        digest: &Digest,
        executable: bool,
    ) -> Result<PathBuf, ApplyError> {
        let not_as_sealed = |error: io::Error| ApplyError::NotAsSealed(elsewhere.version, error.to_string());
        let (parent, name) = (elsewhere.at.parent(), elsewhere.at.file_name().and_then(|name| name.to_str()));
        let (Some(parent), Some(name)) = (parent, name) else {
            return Err(not_as_sealed(io::ErrorKind::InvalidInput.into()));
        };
        let parent = Below::open(parent).map_err(not_as_sealed)?;
        let mut file = below::open_file_at(parent.root(), name).map_err(not_as_sealed)?;
        if hash(&file).map_err(not_as_sealed)? != *digest {
            return Err(not_as_sealed(io::Error::other("its content was changed")));
        }
        let failed = |error| ApplyError::Io(format!("copy {}", elsewhere.at.display()), error);
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        if self.versions.may_be_linked(&stat, executable) {
            let temporary = self.versions.temporary();
            match linkat(parent.root(), name, CWD, &temporary, AtFlags::empty()) {
                Ok(()) => return Ok(temporary),
                Err(error) if link_refused(error) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        io::Seek::rewind(&mut file).and_then(|()| self.copy(&mut file, executable)).map_err(failed)
    }

    fn wrote(&mut self, file: File) {
        // Beyond this number nobody asks for single files.
        if self.written.len() <= FSYNC_EACH {
            self.written.push(file);
        }
    }

    fn failed(&self, doing: &str, path: &str, error: io::Error) -> ApplyError {
        match self.base {
            Some(base) if below::is_not_as_recorded(&error) => {
                ApplyError::NotAsSealed(base, format!("could not {doing} `{path}`: {error}"))
            }
            Some(_) | None => ApplyError::Io(format!("{doing} `{path}` in a version below"), error),
        }
    }
}

impl Versions {
    /// Links a whole tree: files as hard links where mode and owner are right, else as copies; directories anew.
    /// Costs 30 µs a file.
    pub(crate) fn link_tree(
        &self,
        from: &Path,
        digest: &Digest,
        to: &Path,
        cancel: &AtomicBool,
    ) -> Result<(), ApplyError> {
        let from = Below::open(from).map_err(|e| ApplyError::NotAsSealed(*digest, e.to_string()))?;
        let to = self.make_tree(to)?;
        let link = LinkTree { versions: self, digest: *digest, cancel };
        link.directory(digest, from.root(), to.root())
    }

    /// An empty tree with the mode of a directory.
    pub(crate) fn make_tree(&self, at: &Path) -> Result<Below, ApplyError> {
        let failed = |error| ApplyError::Io(format!("make {}", at.display()), error);
        fs::create_dir(at).map_err(failed)?;
        let made = Below::open(at).map_err(failed)?;
        let layout = &self.layout;
        below::set_owner_and_mode(made.root(), layout.directory_mode(), layout.group).map_err(failed)?;
        Ok(made)
    }

    pub(crate) fn may_be_linked(&self, stat: &Stat, executable: bool) -> bool {
        below::permissions(stat) == self.layout.file_mode(executable)
            && self.layout.group.is_none_or(|group| group == stat.st_gid)
    }
}

struct LinkTree<'a> {
    versions: &'a Versions,
    digest: Digest,
    cancel: &'a AtomicBool,
}

impl LinkTree<'_> {
    fn directory(&self, digest: &Digest, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), ApplyError> {
        let tree: Tree = self.versions.trees.tree(digest).map_err(ApplyError::Trees)?;
        for entry in tree.entries() {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(ApplyError::Cancelled);
            }
            let name = entry.name.as_str();
            match &entry.node {
                Node::Directory { digest } => {
                    let below_from =
                        below::open_directory(from, name).map_err(|error| self.read(name, error))?;
                    let below_to = self.make(to, name)?;
                    self.directory(digest, below_from.as_fd(), below_to.as_fd())?;
                }
                Node::Link { target } => rustix::fs::symlinkat(target.as_str(), to, name)
                    .map_err(|error| self.write(name, error.into()))?,
                Node::File { size, executable, .. } => self.file(from, to, name, *size, *executable)?,
            }
        }
        Ok(())
    }

    fn make(&self, to: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, ApplyError> {
        let layout = &self.versions.layout;
        below::make_directory_at(to, name, layout.directory_mode(), layout.group)
            .map_err(|error| self.write(name, error))
    }

    fn file(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &str,
        size: u64,
        executable: bool,
    ) -> Result<(), ApplyError> {
        let stat = below::stat_at(from, name).map_err(|error| self.read(name, error))?;
        let right = |stat: &Stat| below::is_file(stat) && u64::try_from(stat.st_size) == Ok(size);
        let Some(stat) = stat.filter(right) else {
            return Err(self.read(name, io::Error::other("it is missing or was changed")));
        };
        if self.versions.may_be_linked(&stat, executable) {
            match linkat(from, name, to, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(error) if link_refused(error) => {}
                Err(error) => return Err(self.write(name, error.into())),
            }
        }
        let mut content = below::open_file_at(from, name).map_err(|error| self.read(name, error))?;
        let copied = copy_to_temporary(self.versions, &mut content, executable)
            .and_then(|(temporary, _)| Ok(rustix::fs::renameat(CWD, &temporary, to, name)?));
        copied.map_err(|error| self.write(name, error))
    }

    fn read(&self, name: &str, error: io::Error) -> ApplyError {
        ApplyError::NotAsSealed(self.digest, format!("could not link `{name}`: {error}"))
    }

    fn write(&self, name: &str, error: io::Error) -> ApplyError {
        ApplyError::Io(format!("link `{name}` into a new version below"), error)
    }
}

/// A copy with its final mode and owner under a temporary name.
pub(crate) fn copy_to_temporary(
    versions: &Versions,
    from: &mut impl Read,
    executable: bool,
) -> io::Result<(PathBuf, File)> {
    let temporary = versions.temporary();
    let mut file = File::create_new(&temporary)?;
    let layout = &versions.layout;
    let copied = io::copy(from, &mut file).and_then(|_| {
        file.flush()?;
        below::set_owner_and_mode(file.as_fd(), layout.file_mode(executable), layout.group)
    });
    match copied {
        Ok(()) => Ok((temporary, file)),
        Err(error) => {
            let _best_effort = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

pub(crate) fn hash(file: &File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().into())
}

/// The link count, the file system or a rule of the kernel forbids a link: a copy will do.
fn link_refused(error: Errno) -> bool {
    [Errno::MLINK, Errno::XDEV, Errno::PERM, Errno::OPNOTSUPP].contains(&error)
}

/// Where other versions hold, at the same path, contents that did not come with the pack.
pub(crate) fn find_elsewhere(
    trees: &impl Trees,
    changes: &[Change],
    received: &HashSet<Digest>,
    held: &[(Digest, PathBuf)],
) -> (HashMap<String, Elsewhere>, Option<Digest>) {
    let mut found = HashMap::new();
    let mut directories: HashMap<(Digest, String), Option<Tree>> = HashMap::new();
    for change in changes {
        let (Change::Added { path, node } | Change::Changed { path, new: node, .. }) = change else {
            continue;
        };
        let Node::File { digest, .. } = node else { continue };
        let own = matches!(change, Change::Changed { old, .. } if same_content(old, node));
        if own || received.contains(digest) {
            continue;
        }
        let (parent, name) = below::split(path);
        let holder = held.iter().find(|(version, _)| {
            let tree = directories
                .entry((*version, parent.to_owned()))
                .or_insert_with(|| directory_of(trees, version, parent));
            matches!(tree.as_ref().and_then(|tree| tree.get(name)), Some(Node::File { digest: d, .. }) if d == digest)
        });
        let Some((version, at)) = holder else { return (found, Some(*digest)) };
        found.insert(path.clone(), Elsewhere { version: *version, at: at.join(path) });
    }
    (found, None)
}

fn directory_of(trees: &impl Trees, root: &Digest, path: &str) -> Option<Tree> {
    let mut tree = trees.tree(root).ok()?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let Some(Node::Directory { digest }) = tree.get(part) else { return None };
        tree = trees.tree(digest).ok()?;
    }
    Some(tree)
}
