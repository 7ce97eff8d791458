//! The lock between a commit and new compiles: the agent holds it alone while it settles, swaps the link and flushes,
//! and `code-id`, which Puppet Server runs at the start of every compile, waits for it.
//!
//! One file per environment, readable by Puppet Server's group only where one is configured: whoever may open it may
//! also hold it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use bunraku_common::EnvironmentName;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// flock has no deadline of its own, so it is asked again in steps that cost little and are not felt by a compile.
const STEP: Duration = Duration::from_millis(1);

/// The lock, held until dropped.
#[derive(Debug)]
pub struct SwapLock {
    _held: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("could not open the lock {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not take the lock {path}")]
    Take {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the lock {path} was held by others for {waited:?}")]
    Busy { path: PathBuf, waited: Duration },
}

impl SwapLock {
    /// Where the lock of an environment stands below the agent's directory of locks.
    pub fn path(locks: &Path, environment: &EnvironmentName) -> PathBuf {
        locks.join(format!("{environment}.lock"))
    }

    /// For the agent: no compile learns its code id while this is held. Blocks, at most `deadline`.
    ///
    /// Makes the file when it is not there, readable by `group` (Puppet Server's), or by everybody without one.
    pub fn exclusive(path: &Path, group: Option<u32>, deadline: Duration) -> Result<Self, LockError> {
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path);
        let file = opened
            .and_then(|file| {
                chown(path, None, group)?;
                // The umask may have taken a bit away, and the group may have been configured anew.
                let mode = if group.is_some() { 0o640 } else { 0o644 };
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
                Ok(file)
            })
            .map_err(|source| LockError::Open { path: path.into(), source })?;
        take(file, path, FlockOperation::NonBlockingLockExclusive, deadline)
    }

    /// For `code-id`: waits at most `deadline` for a commit to end. `None`: no agent has ever made the file.
    pub fn shared(path: &Path, deadline: Duration) -> Result<Option<Self>, LockError> {
        match File::open(path) {
            Ok(file) => take(file, path, FlockOperation::NonBlockingLockShared, deadline).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LockError::Open { path: path.into(), source }),
        }
    }
}

fn take(file: File, path: &Path, how: FlockOperation, deadline: Duration) -> Result<SwapLock, LockError> {
    let began = Instant::now();
    loop {
        match flock(&file, how) {
            Ok(()) => return Ok(SwapLock { _held: file }),
            Err(Errno::WOULDBLOCK) if began.elapsed() >= deadline => {
                return Err(LockError::Busy { path: path.into(), waited: deadline });
            }
            Err(Errno::WOULDBLOCK) => thread::sleep(STEP),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(LockError::Take { path: path.into(), source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn many_compiles_share_the_lock_and_a_commit_holds_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("production.lock");
        assert!(SwapLock::shared(&path, SHORT).unwrap().is_none(), "no agent was here yet");
        let commit = SwapLock::exclusive(&path, None, SHORT).unwrap();
        assert!(matches!(SwapLock::shared(&path, SHORT), Err(LockError::Busy { .. })));
        drop(commit);
        let one = SwapLock::shared(&path, SHORT).unwrap();
        let two = SwapLock::shared(&path, SHORT).unwrap();
        assert!(one.is_some() && two.is_some());
        assert!(matches!(SwapLock::exclusive(&path, None, SHORT), Err(LockError::Busy { .. })));
    }

    #[test]
    fn a_compile_that_waits_goes_on_as_soon_as_the_commit_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("production.lock");
        let commit = SwapLock::exclusive(&path, None, SHORT).unwrap();
        let waiting = thread::spawn(move || SwapLock::shared(&path, Duration::from_secs(60)));
        drop(commit);
        assert!(waiting.join().unwrap().unwrap().is_some());
    }
}
