//! `bunraku-agent code-id ENV`: the name of the code that an environment serves, asked by Puppet Server before every
//! compile (setting `versioned-code.code-id-command`).
//!
//! Plain system calls, no runtime: a lock and a readlink. It never writes.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use bunraku_common::{Digest, EnvironmentName, digest::NotADigest};

use crate::{SwapLock, lock::LockError};

/// How long a compile waits for a commit. A commit holds the lock for a few hundred milliseconds; what takes longer is a
/// Puppet Server in trouble, and compiles must not queue up behind it.
pub const PATIENCE: Duration = Duration::from_millis(900);

/// What a catalog is labelled with, and what its files are fetched by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeId {
    /// One version, whatever else is live when a file is fetched.
    Version(Digest),
    /// Whatever is live when a file is fetched, as in a catalog that is not static.
    ///
    /// There must be such a name: Puppet Server takes an empty answer for an id all the same, inlines the metadata of files,
    /// and then refuses to serve them (measured on 7.9.5; `static_file_content` wants a `code_id` that is not empty).
    Live,
}

#[derive(Debug, thiserror::Error)]
pub enum CodeIdError {
    #[error("`{0}` is not the name of an environment")]
    Environment(String),
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

/// What `environmentpath/environment` points to.
///
/// `Live` for an environment that Bunraku does not manage, and while a commit takes longer than `patience`: which code such
/// a compile will see cannot be told, and a catalog without a version is right with either.
///
/// On an error the caller prints it on stderr, `live` on stdout, and exits 0: Puppet Server logs what came on stderr and
/// compiles all the same, where any other exit would fail every compile on this host.
pub fn code_id(
    environmentpath: &Path,
    environment: &str,
    locks: &Path,
    patience: Duration,
) -> Result<CodeId, CodeIdError> {
    if !is_environment(environment) {
        return Err(CodeIdError::Environment(
            environment.chars().take(80).flat_map(char::escape_debug).collect(),
        ));
    }
    let Ok(environment) = EnvironmentName::parse(environment) else { return Ok(CodeId::Live) };
    let _held = match SwapLock::shared(&SwapLock::path(locks, &environment), patience) {
        Ok(held) => held,
        Err(LockError::Busy { .. }) => return Ok(CodeId::Live),
        Err(error @ (LockError::Open { .. } | LockError::Take { .. })) => return Err(error.into()),
    };
    let path = environmentpath.join(environment.as_str());
    match fs::read_link(&path) {
        Ok(target) => Ok(version_of(&environment, &target).map_or(CodeId::Live, CodeId::Version)),
        // A real directory, or nothing: an environment that Bunraku does not manage.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
            Ok(CodeId::Live)
        }
        Err(source) => Err(CodeIdError::Read { environment, path, source }),
    }
}

/// The digest in a link's target `/…/<environment>_<digest>`; `None` when the link is not one of ours.
pub fn version_of(environment: &EnvironmentName, target: &Path) -> Option<Digest> {
    let name = target.is_absolute().then(|| target.file_name()?.to_str())??;
    name.strip_prefix(environment.as_str())?.strip_prefix('_')?.parse().ok()
}

/// Puppet's own rule for names (`\w+`), which is wider than Bunraku's: compiles of other environments come here too.
pub(crate) fn is_environment(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl fmt::Display for CodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(digest) => digest.fmt(f),
            Self::Live => f.write_str("live"),
        }
    }
}

impl FromStr for CodeId {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "live" { Ok(Self::Live) } else { text.parse().map(Self::Version) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn ask(root: &Path, environment: &str) -> Result<CodeId, CodeIdError> {
        code_id(root, environment, root, Duration::from_millis(20))
    }

    #[test]
    fn a_managed_link_answers_its_digest_and_any_other_environment_answers_live() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("production");
        let digest = Digest::of(b"code");
        assert_eq!(ask(root.path(), "production").unwrap(), CodeId::Live, "no such environment");
        for (target, expected) in [
            (format!("/srv/versions/production/production_{digest}"), CodeId::Version(digest)),
            (format!("versions/production_{digest}"), CodeId::Live),
            (format!("/srv/versions/testing_{digest}"), CodeId::Live),
            ("/srv/code/production".into(), CodeId::Live),
        ] {
            symlink(&target, &link).unwrap();
            assert_eq!(ask(root.path(), "production").unwrap(), expected, "{target}");
            fs::remove_file(&link).unwrap();
        }
        fs::create_dir(link).unwrap();
        assert_eq!(ask(root.path(), "production").unwrap(), CodeId::Live, "a real directory");
        assert_eq!(ask(root.path(), "Own_Test").unwrap(), CodeId::Live, "a name that Bunraku never uses");
        assert!(ask(root.path(), "../production").is_err());
    }

    #[test]
    fn a_compile_during_a_commit_that_hangs_is_labelled_with_no_version() {
        let root = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"code");
        symlink(format!("/v/production_{digest}"), root.path().join("production")).unwrap();
        let lock = SwapLock::path(root.path(), &"production".parse().unwrap());
        let commit = SwapLock::exclusive(&lock, None, Duration::ZERO).unwrap();
        assert_eq!(ask(root.path(), "production").unwrap(), CodeId::Live);
        drop(commit);
        assert_eq!(ask(root.path(), "production").unwrap(), CodeId::Version(digest));
    }

    #[test]
    fn a_code_id_survives_its_own_text() {
        for id in [CodeId::Live, CodeId::Version(Digest::of(b"x"))] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert!("".parse::<CodeId>().is_err());
    }
}
