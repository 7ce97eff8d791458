//! What Puppet Server reads: one link per environment, replaced by rename.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use bunraku_common::{Digest, EnvironmentName};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{
    VersionsError,
    fail_point::fail_point,
    layout::{parse_version_name, sync_directory},
    versions::{Versions, locked},
};

/// What stood at the live path before a swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    Nothing,
    /// The same version: nothing changed.
    Same,
    Version(Digest),
    /// A link that was none of ours; its target was left alone.
    ForeignLink(PathBuf),
    /// A real directory, moved to this place with everything in it.
    Directory(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swapped {
    pub replaced: Replaced,
}

impl Versions {
    /// The sealed version to which a relative link leads that somebody made by hand. Puppet Server looks such a link
    /// up from its own working directory, so nothing is live.
    pub fn relative_link(&self, env: &EnvironmentName) -> Option<Digest> {
        let link = self.layout.link(env);
        let target = fs::read_link(&link).ok().filter(|target| target.is_relative())?;
        let digest = parse_version_name(env, target.file_name()?.to_str()?)?;
        let meant = fs::canonicalize(self.layout.version(env, &digest)).ok()?;
        let leads_there = fs::canonicalize(&link).is_ok_and(|found| found == meant);
        (leads_there && self.is_sealed(env, &digest)).then_some(digest)
    }

    /// Why nothing is live: what stands at the live path, and what to do about it.
    pub(crate) fn not_live(&self, env: &EnvironmentName) -> VersionsError {
        let link = self.layout.link(env);
        if let Some(digest) = self.relative_link(env) {
            return VersionsError::RelativeLink { version: self.layout.version(env, &digest), link };
        }
        if let Ok(target) = fs::read_link(&link) {
            return VersionsError::ForeignLink { environment: env.clone(), link, target };
        }
        if self.unmanaged(env) {
            return VersionsError::DirectoryInTheWay { environment: env.clone(), path: link };
        }
        VersionsError::NotLive { environment: env.clone() }
    }

    /// Rehearses a swap: the new link lies ready under a temporary name beside the live one.
    pub fn link_ready(&self, env: &EnvironmentName, digest: &Digest) -> Result<(), VersionsError> {
        let turn = self.turn(env);
        let _turn = locked(&turn);
        self.lay_link(env, digest)
    }

    /// Makes a sealed version the live one, by one rename; on disk when this returns. Repeated: changes nothing.
    ///
    /// A real directory in the way is exchanged for the link and moved to `adopted/` if `adopt` is set, else it is an
    /// error. `now` is monotonic, in milliseconds: retention counts from it when a version left.
    pub fn swap(
        &self,
        env: &EnvironmentName,
        digest: &Digest,
        adopt: bool,
        now: u64,
    ) -> Result<Swapped, VersionsError> {
        self.swap_if(env, digest, adopt, now, || Some(())).map(|(swapped, ())| swapped)
    }

    /// As [`swap`](Self::swap), asking once more when it is this order's turn: work on the environment that went
    /// before may have taken minutes, and a newer order may have come. What `still` answers is given back, so that a
    /// lock taken there is held on; `None` changes nothing.
    pub fn swap_if<T>(
        &self,
        env: &EnvironmentName,
        digest: &Digest,
        adopt: bool,
        now: u64,
        still: impl FnOnce() -> Option<T>,
    ) -> Result<(Swapped, T), VersionsError> {
        let turn = self.turn(env);
        let _turn = locked(&turn);
        if !self.is_sealed(env, digest) {
            return Err(VersionsError::NotSealed { environment: env.clone(), digest: *digest });
        }
        let asked = still().ok_or_else(|| VersionsError::Overtaken { environment: env.clone() })?;
        Ok((self.swap_now(env, digest, adopt, now)?, asked))
    }

    fn swap_now(
        &self,
        env: &EnvironmentName,
        digest: &Digest,
        adopt: bool,
        now: u64,
    ) -> Result<Swapped, VersionsError> {
        let link = self.layout.link(env);
        let directory = &self.layout.environments_dir;
        let before = self.live(env);
        if before == Some(*digest) {
            sync_directory(directory).map_err(VersionsError::io("sync", directory))?;
            return Ok(Swapped { replaced: Replaced::Same });
        }
        let found = match fs::symlink_metadata(&link) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(VersionsError::io("look at", &link)(error)),
        };
        let is_directory = found.as_ref().is_some_and(fs::Metadata::is_dir);
        if is_directory && !adopt {
            return Err(VersionsError::DirectoryInTheWay { environment: env.clone(), path: link });
        }
        if found.is_some_and(|found| !found.is_dir() && !found.is_symlink()) {
            return Err(VersionsError::InTheWay { path: link });
        }
        let foreign = if before.is_none() { fs::read_link(&link).ok() } else { None };
        self.lay_link(env, digest)?;
        fail_point("swap-before").map_err(VersionsError::io("swap", &link))?;
        let ready = self.layout.ready_link(env);
        let adopted = if is_directory {
            renameat_with(CWD, &ready, CWD, &link, RenameFlags::EXCHANGE).map_err(|error| {
                VersionsError::io("exchange the directory for a link at", &link)(error.into())
            })?;
            fail_point("swap-exchanged").map_err(VersionsError::io("move away", &ready))?;
            Some(self.move_to_adopted(env, &ready)?)
        } else {
            fs::rename(&ready, &link).map_err(VersionsError::io("replace", &link))?;
            None
        };
        fail_point("swap-after").map_err(VersionsError::io("swap", &link))?;
        sync_directory(directory).map_err(VersionsError::io("sync", directory))?;
        locked(&self.drift).remove(env);
        if let Some(before) = before {
            locked(&self.ages).left_live(env, before, now);
        }
        let replaced = match (adopted, foreign, before) {
            (Some(path), _, _) => Replaced::Directory(path),
            (None, Some(target), _) => Replaced::ForeignLink(target),
            (None, None, Some(version)) => Replaced::Version(version),
            (None, None, None) => Replaced::Nothing,
        };
        Ok(Swapped { replaced })
    }

    fn lay_link(&self, env: &EnvironmentName, digest: &Digest) -> Result<(), VersionsError> {
        if !self.is_sealed(env, digest) {
            return Err(VersionsError::NotSealed { environment: env.clone(), digest: *digest });
        }
        let (target, ready) = (self.layout.version(env, digest), self.layout.ready_link(env));
        if fs::read_link(&ready).is_ok_and(|known| known == target) {
            return Ok(());
        }
        match fs::symlink_metadata(&ready) {
            // A directory whose adoption was interrupted.
            Ok(found) if found.is_dir() => drop(self.move_to_adopted(env, &ready)?),
            Ok(_) => fs::remove_file(&ready).map_err(VersionsError::io("remove", &ready))?,
            Err(_) => {}
        }
        let laid = match symlink(&target, &ready) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_environments_dir()?;
                symlink(&target, &ready)
            }
            laid => laid,
        };
        laid.map_err(VersionsError::io("make the link", &ready))
    }

    /// Debian's packages make the code directory without one for environments in it.
    fn make_environments_dir(&self) -> Result<(), VersionsError> {
        let directory = &self.layout.environments_dir;
        let made = match fs::create_dir(directory) {
            // Another environment's stage was there first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => Err(error),
            Ok(()) => fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
                .and_then(|()| directory.parent().map_or(Ok(()), sync_directory)),
        };
        made.map_err(VersionsError::io("make", directory))
    }

    /// Moves a directory that an operator or another tool made to where it is in nobody's way, whole.
    pub(crate) fn move_to_adopted(
        &self,
        env: &EnvironmentName,
        from: &Path,
    ) -> Result<PathBuf, VersionsError> {
        let adopted = self.layout.adopted();
        // Another file system: a rename within its own directory keeps every file, too.
        let beside = &self.layout.environments_dir;
        for number in 1_u32.. {
            let places =
                [adopted.join(format!("{env}-{number}")), beside.join(format!(".{env}.adopted-{number}"))];
            for place in places {
                match renameat_with(CWD, from, CWD, &place, RenameFlags::NOREPLACE) {
                    Ok(()) => return Ok(place),
                    Err(rustix::io::Errno::XDEV) => {}
                    Err(rustix::io::Errno::EXIST) => break,
                    Err(error) => return Err(VersionsError::io("move away", from)(error.into())),
                }
            }
        }
        Err(VersionsError::io("move away", from)(io::ErrorKind::AlreadyExists.into()))
    }
}
