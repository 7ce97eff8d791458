//! Where things are, and how files are owned.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use bunraku_common::{Digest, EnvironmentName};

/// What `puppet generate types` writes: the node's addition at the root of a version, outside its digest.
pub const RESOURCE_TYPES: &str = ".resource_types";

/// Places and rules from the node's configuration. `root` must be one file system.
#[derive(Debug, Clone)]
pub struct Layout {
    pub root: PathBuf,
    /// Puppet's `environmentpath` (one directory of it).
    pub environments_dir: PathBuf,
    /// The puppet user's group. With it files are readable for this group only, without it for all.
    pub group: Option<u32>,
    /// A stage leaves at least this much free.
    pub reserve_bytes: u64,
    pub reserve_inodes: u64,
}

impl Layout {
    /// Reserves that suit a server: 256 MiB and 10,000 inodes.
    pub fn new(root: PathBuf, environments_dir: PathBuf, group: Option<u32>) -> Self {
        Self { root, environments_dir, group, reserve_bytes: 256 << 20, reserve_inodes: 10_000 }
    }

    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    pub(crate) fn versions(&self) -> PathBuf {
        self.root.join("versions")
    }

    pub(crate) fn versions_of(&self, env: &EnvironmentName) -> PathBuf {
        self.versions().join(env.as_str())
    }

    pub(crate) fn version(&self, env: &EnvironmentName, digest: &Digest) -> PathBuf {
        self.versions_of(env).join(version_name(env, digest))
    }

    pub(crate) fn seal(&self, env: &EnvironmentName, digest: &Digest) -> PathBuf {
        self.versions_of(env).join(format!("{}.seal", version_name(env, digest)))
    }

    pub(crate) fn spares(&self) -> PathBuf {
        self.root.join("spare")
    }

    pub(crate) fn spare(&self, env: &EnvironmentName) -> PathBuf {
        self.spares().join(env.as_str())
    }

    pub(crate) fn spare_seal(&self, env: &EnvironmentName) -> PathBuf {
        self.spares().join(format!("{env}.seal"))
    }

    pub(crate) fn dirty(&self, env: &EnvironmentName) -> PathBuf {
        self.spares().join(format!("{env}.dirty"))
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn adopted(&self) -> PathBuf {
        self.root.join("adopted")
    }

    pub(crate) fn link(&self, env: &EnvironmentName) -> PathBuf {
        self.environments_dir.join(env.as_str())
    }

    /// Beside the live link; Puppet passes over names that are not `\w+`.
    pub(crate) fn ready_link(&self, env: &EnvironmentName) -> PathBuf {
        self.environments_dir.join(format!(".{env}.bunraku"))
    }

    pub(crate) const fn file_mode(&self, executable: bool) -> u32 {
        match (self.group.is_some(), executable) {
            (true, false) => 0o640,
            (false, false) => 0o644,
            (true, true) => 0o750,
            (false, true) => 0o755,
        }
    }

    pub(crate) const fn directory_mode(&self) -> u32 {
        self.file_mode(true)
    }

    /// Makes a directory of ours that Puppet Server passes through. One that was made for another group gets the owner
    /// and mode that the configuration now asks for; one of another user is left alone.
    pub(crate) fn make_passage(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Ok(()) => self.own_passage(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let found = fs::symlink_metadata(path)?;
                let ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
                if ours && !self.suits(&found) { self.own_passage(path) } else { Ok(()) }
            }
            Err(error) => Err(error),
        }
    }

    /// As [`make_passage`](Self::make_passage) for the root, which an operator may have made, and open to more.
    pub(crate) fn make_root(&self) -> io::Result<()> {
        let passable = fs::metadata(&self.root).is_ok_and(|found| {
            let by_group = self.group == Some(found.gid()) && found.mode() & 0o050 == 0o050;
            by_group || found.mode() & 0o005 == 0o005
        });
        if passable { Ok(()) } else { self.make_passage(&self.root) }
    }

    /// Whether what is live was made for the group that is configured now. Files keep the owner and mode that they were
    /// made with, because versions share them: `heal` replaces them.
    pub fn live_suits(&self, env: &EnvironmentName) -> bool {
        fs::metadata(self.link(env)).map_or(true, |found| self.suits(&found))
    }

    fn suits(&self, found: &fs::Metadata) -> bool {
        found.mode() & 0o7777 == self.directory_mode() && self.group.is_none_or(|group| group == found.gid())
    }

    fn own_passage(&self, path: &Path) -> io::Result<()> {
        chown(path, None, self.group)?;
        fs::set_permissions(path, fs::Permissions::from_mode(self.directory_mode()))
    }
}

pub(crate) fn version_name(env: &EnvironmentName, digest: &Digest) -> String {
    format!("{env}_{digest}")
}

pub(crate) fn parse_version_name(env: &EnvironmentName, name: &str) -> Option<Digest> {
    name.strip_prefix(env.as_str())?.strip_prefix('_')?.parse().ok()
}

/// Makes a change of names in this directory last.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
