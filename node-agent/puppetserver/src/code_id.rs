//! `bunraku-agent code-id ENV`: the name of the code that an environment serves, asked by Puppet Server before every
//! compile (setting `versioned-code.code-id-command`).
//!
//! Plain system calls, no runtime: a lock and a readlink. It never writes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bunraku_common::{Digest, EnvironmentName};

use crate::{SwapLock, lock::LockError};

/// How long a compile waits for a commit. A commit holds the lock for a few hundred milliseconds; what takes longer is a
/// Puppet Server in trouble, and compiles must not queue up behind it.
pub const PATIENCE: Duration = Duration::from_millis(900);

#[derive(Debug, thiserror::Error)]
pub enum CodeIdError {
    #[error("could not read the link of environment {environment} at {path}")]
    Read {
        environment: EnvironmentName,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// The digest of the version that `environmentpath/environment` points to.
///
/// `None`: print nothing and exit 0, and Puppet compiles a normal catalog instead of a static one. That is so for an
/// environment that is not ours, and while a commit takes longer than `patience`: a catalog without a code id is right
/// with either code, one with the wrong id is not.
pub fn code_id(
    environmentpath: &Path,
    environment: &EnvironmentName,
    lock: &Path,
    patience: Duration,
) -> Result<Option<Digest>, CodeIdError> {
    let _held = match SwapLock::shared(lock, patience) {
        Ok(held) => held,
        Err(LockError::Busy { .. }) => return Ok(None),
        Err(error @ (LockError::Open { .. } | LockError::Take { .. })) => return Err(error.into()),
    };
    let path = environmentpath.join(environment.as_str());
    match fs::read_link(&path) {
        Ok(target) => Ok(version_of(environment, &target)),
        // A real directory, or nothing: an environment that Bunraku does not manage.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
            Ok(None)
        }
        Err(source) => Err(CodeIdError::Read { environment: environment.clone(), path, source }),
    }
}

/// The digest in a link's target `/…/<environment>_<digest>`; `None` when the link is not one of ours.
pub fn version_of(environment: &EnvironmentName, target: &Path) -> Option<Digest> {
    let name = target.is_absolute().then(|| target.file_name()?.to_str())??;
    name.strip_prefix(environment.as_str())?.strip_prefix('_')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn production() -> EnvironmentName {
        EnvironmentName::parse("production").unwrap()
    }

    fn ask(root: &Path) -> Option<Digest> {
        code_id(root, &production(), &root.join("production.lock"), Duration::from_millis(20)).unwrap()
    }

    #[test]
    fn a_managed_link_answers_its_digest_and_anything_else_answers_nothing() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("production");
        let digest = Digest::of(b"code");
        assert_eq!(ask(root.path()), None, "no such environment");
        for (target, expected) in [
            (format!("/srv/versions/production/production_{digest}"), Some(digest)),
            (format!("versions/production_{digest}"), None),
            (format!("/srv/versions/testing_{digest}"), None),
            ("/srv/code/production".into(), None),
        ] {
            symlink(&target, &link).unwrap();
            assert_eq!(ask(root.path()), expected, "{target}");
            fs::remove_file(&link).unwrap();
        }
        fs::create_dir(link).unwrap();
        assert_eq!(ask(root.path()), None, "a real directory");
    }

    #[test]
    fn a_compile_during_a_commit_that_hangs_gets_a_normal_catalog() {
        let root = tempfile::tempdir().unwrap();
        symlink(format!("/v/production_{}", Digest::of(b"code")), root.path().join("production")).unwrap();
        let lock = root.path().join("production.lock");
        let commit = SwapLock::exclusive(&lock, None, Duration::ZERO).unwrap();
        assert_eq!(ask(root.path()), None);
        drop(commit);
        assert!(ask(root.path()).is_some());
    }
}
