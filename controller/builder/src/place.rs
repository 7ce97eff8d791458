//! Where one environment is built: `root/environments/ENV/…`.
//!
//! The directory itself and the files in it belong to this process; the directories in it belong to the build user.
//! So this process never writes through a directory that the build user could exchange for a link.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use bunraku_common::EnvironmentName;

use crate::{account::Account, kind::Kind};

#[derive(Debug, Clone)]
pub(crate) struct Place {
    dir: PathBuf,
    kind: Kind,
}

impl Place {
    /// Each builder has its own: neither understands the other's cache, and r10k's trees carry a `.git` that g10k
    /// would keep.
    pub(crate) fn new(root: &Path, environment: &EnvironmentName, kind: Kind) -> Self {
        let dir = root.join("environments").join(environment.as_str()).join(kind.as_str());
        Self { dir, kind }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.dir.join("control.git")
    }

    /// As the builder's configuration names it.
    pub(crate) fn control_url(&self) -> String {
        format!("file://{}", self.control().display())
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.dir.join("base")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join(format!("{}.yaml", self.kind.as_str()))
    }

    pub(crate) fn mark(&self) -> PathBuf {
        self.dir.join("running")
    }

    pub(crate) fn stat_cache(&self) -> PathBuf {
        self.dir.join("stat-cache")
    }

    /// Makes the directory itself, which belongs to this process.
    pub(crate) fn found(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        // Whatever the umask is: the build user must pass through.
        for dir in [self.dir.parent(), Some(&self.dir)].into_iter().flatten() {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
        }
        Ok(())
    }

    /// Makes what belongs to the build user.
    pub(crate) fn furnish(&self, account: &Account) -> io::Result<()> {
        account.make_dir(&self.cache())?;
        account.make_dir(&self.base())
    }

    /// Writes the builder's configuration, for the build user alone: a Forge's address may carry a password.
    pub(crate) fn configure(&self, account: &Account, yaml: &str) -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(self.config())?;
        // One that was there already keeps its mode.
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
        if let Some((_, gid)) = account.ids() {
            fchown(&file, None, Some(gid))?;
        }
        file.write_all(yaml.as_bytes())
    }

    /// Throws the built tree and the builder's cache away: a build that was cut off may have left anything in them. A
    /// mirror whose clone was killed before its configuration was whole is never fetched into again (measured: g10k
    /// then says for ever that the branch does not exist).
    pub(crate) fn clear(&self) -> io::Result<()> {
        for dir in [self.base(), self.cache()] {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}
