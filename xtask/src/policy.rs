//! Debian asks `/usr/sbin/policy-rc.d` whether a package may start its service. Ours says no, and is seen only by the
//! apt-get that we start: it is bind-mounted in that process's own mount namespace.
//!
//! A bind mount needs a file to cover. Where there is none, an empty one is made and removed afterwards; a marker
//! in target/bunraku lets the next run remove it when this one is killed. (An empty file that cannot be executed
//! has no effect on Debian.)

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{apt::as_root, cargo, cargo::succeed};

/// The denial, ready to be mounted; dropping it removes the mount point that it made.
#[derive(Debug)]
pub(crate) struct Policy {
    denial: PathBuf,
}

impl Policy {
    /// Where Debian looks for it.
    pub(crate) const PATH: &str = "/usr/sbin/policy-rc.d";

    /// Writes the denial, and makes sure that there is a file to mount it on.
    pub(crate) fn prepare() -> Result<Self> {
        let denial = cargo::state().join("policy-rc.d");
        fs::create_dir_all(cargo::state()).context("could not make target/bunraku")?;
        fs::write(&denial, "#!/bin/sh\nexit 101\n").context("could not write a policy-rc.d")?;
        fs::set_permissions(&denial, fs::Permissions::from_mode(0o755))
            .context("could not make policy-rc.d executable")?;
        if !Path::new(Self::PATH).exists() {
            fs::write(marker(), "").context("could not note that a mount point is made")?;
            succeed(as_root("touch").arg(Self::PATH))?;
        }
        Ok(Self { denial })
    }

    /// Removes the mount point of a run that was killed.
    pub(crate) fn remove_leftover() -> Result<()> {
        if !marker().exists() {
            return Ok(());
        }
        if fs::metadata(Self::PATH).is_ok_and(|file| file.len() == 0) {
            succeed(as_root("rm").args(["-f", Self::PATH]))?;
        }
        fs::remove_file(marker()).context("could not remove the note about a mount point")
    }

    /// The file to mount on [`Policy::PATH`].
    pub(crate) fn denial(&self) -> &Path {
        &self.denial
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if let Err(error) = Self::remove_leftover() {
            eprintln!("xtask: {error:#}");
        }
    }
}

fn marker() -> PathBuf {
    cargo::state().join("policy-rc.d.mount-point-made")
}
