//! The unprivileged user that programs run as.

use std::{fs, io, os::unix::fs as unix, path::Path, process::Command};

/// Why nobody can build.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("there is no user {0} to build with (hint: useradd --system --create-home {0})")]
    Unknown(String),
    #[error("only root can build as user {0} (hint: run as root, or set `user` to yourself)")]
    NotRoot(String),
}

/// User and group of the programs, or none: this process is already that user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    ids: Option<(u32, u32)>,
}

impl Account {
    /// Asks `id`, which knows users of LDAP and sssd, too.
    pub(crate) fn resolve(name: &str) -> Result<Self, AccountError> {
        let unknown = || AccountError::Unknown(name.to_owned());
        let id = |which: &str| {
            let out = Command::new("id").args([which, "--", name]).output().ok()?;
            String::from_utf8(out.stdout).ok()?.trim().parse::<u32>().ok()
        };
        let (uid, gid) = id("-u").zip(id("-g")).ok_or_else(unknown)?;
        let own = rustix::process::geteuid().as_raw();
        match own {
            _ if own == uid => Ok(Self { ids: None }),
            0 => Ok(Self { ids: Some((uid, gid)) }),
            _ => Err(AccountError::NotRoot(name.to_owned())),
        }
    }

    pub(crate) fn ids(&self) -> Option<(u32, u32)> {
        self.ids
    }

    /// Makes a directory that belongs to the user. Its parent must belong to this process, so that nobody can put a
    /// link in its place in between.
    pub(crate) fn make_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let Some((uid, gid)) = self.ids else { return Ok(()) };
        unix::lchown(path, Some(uid), Some(gid))
    }
}
