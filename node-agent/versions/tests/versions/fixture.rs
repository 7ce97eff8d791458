//! One node with one controller's shelf, in a directory of its own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use bunraku_common::{Digest, EnvironmentName};
use bunraku_versions::{
    Layout, StageError, Staged, Versions,
    testing::{Files, Item, Shelf, Source, files},
};
use tempfile::TempDir;

pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) shelf: Shelf,
    pub(crate) versions: Versions,
}

pub(crate) fn env(name: &str) -> EnvironmentName {
    EnvironmentName::parse(name).unwrap()
}

pub(crate) fn production() -> EnvironmentName {
    env("production")
}

pub(crate) static GO: AtomicBool = AtomicBool::new(false);

/// No newer order comes.
pub(crate) const fn always() -> bool {
    true
}

/// In memory where the machine has it: some disks make 100,000 files a matter of minutes.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Node {
    pub(crate) fn new() -> Self {
        let dir = directory();
        let shelf = Shelf::open(&dir.path().join("shelf"));
        fs::create_dir(dir.path().join("environments")).unwrap();
        let versions = Versions::open(Self::layout(dir.path())).unwrap();
        Self { dir, shelf, versions }
    }

    pub(crate) fn layout(dir: &Path) -> Layout {
        let mut layout = Layout::new(dir.join("node"), dir.join("environments"), None);
        layout.reserve_bytes = 0;
        layout.reserve_inodes = 0;
        layout
    }

    /// What a restart of the agent does.
    pub(crate) fn reopen(&mut self) {
        self.versions = Versions::open(Self::layout(self.dir.path())).unwrap();
    }

    pub(crate) fn stage(&self, want: &Digest) -> Result<Staged, StageError> {
        self.versions.stage(&production(), want, &mut Source::new(&self.shelf), &GO)
    }

    /// Puts a snapshot on the shelf, stages it and makes it live.
    pub(crate) fn deploy(&self, files: &Files) -> Digest {
        let digest = self.shelf.put(files);
        self.stage(&digest).unwrap();
        self.versions.swap(&production(), &digest, false, 0).unwrap();
        digest
    }

    pub(crate) fn deploy_text(&self, pairs: &[(&str, &str)]) -> Digest {
        self.deploy(&files(pairs))
    }

    pub(crate) fn prepare_spare(&self) -> bunraku_versions::Prepared {
        self.versions.prepare_spare(&production(), None, &GO).unwrap()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// What Puppet Server would read.
    pub(crate) fn served(&self) -> Files {
        read(&self.dir.path().join("environments/production"))
    }

    pub(crate) fn version(&self, digest: &Digest) -> PathBuf {
        self.versions.resolve(&production(), digest)
    }

    pub(crate) fn nothing_counts_but(&self, versions: &[Digest]) {
        let mut listed = self.versions.list(&production());
        let mut expected = versions.to_vec();
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);
        let directory = self.root().join("versions/production");
        let found = fs::read_dir(&directory).map(Iterator::count).unwrap_or(0);
        assert_eq!(found, 2 * versions.len(), "something is left in {}", directory.display());
        assert!(!self.root().join("spare/production.dirty").exists());
        assert_eq!(fs::read_dir(self.root().join("tmp")).unwrap().count(), 0, "temporary names are left");
    }
}

/// Everything in a tree, byte for byte. Panics on a mode that is not one of ours.
pub(crate) fn read(root: &Path) -> Files {
    let mut found = Files::new();
    read_below(root, "", &mut found);
    found
}

fn read_below(directory: &Path, at: &str, found: &mut Files) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let inner = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
        let kind = fs::symlink_metadata(&path).unwrap();
        if kind.is_dir() {
            assert_eq!(kind.permissions().mode() & 0o7777, 0o755, "{}", path.display());
            read_below(&path, &inner, found);
            continue;
        }
        let item = if kind.is_symlink() {
            Item::Link(fs::read_link(&path).unwrap().to_str().unwrap().to_owned())
        } else {
            match kind.permissions().mode() & 0o7777 {
                0o644 => Item::File(fs::read(&path).unwrap()),
                0o755 => Item::Executable(fs::read(&path).unwrap()),
                other => panic!("{} has mode {other:o}", path.display()),
            }
        };
        found.insert(inner, item);
    }
}

/// Names, kinds, sizes, modes, times and contents: to prove that nothing here changed.
pub(crate) fn fingerprint(root: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut due = vec![root.to_owned()];
    while let Some(path) = due.pop() {
        let kind = fs::symlink_metadata(&path).unwrap();
        let content = if kind.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if kind.is_dir() {
            due.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, (kind.mode(), kind.ino(), kind.mtime(), kind.mtime_nsec(), content));
    }
    found
}
