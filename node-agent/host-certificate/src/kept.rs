//! What is kept in this agent's own directory: the request with its key, what was signed, and what was there before.
//!
//! `state.json` names the directories that count; every other one is what a crash has left, or is not needed any more,
//! and is removed with its keys.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use bunraku_certificates::AltName;
use bunraku_common::{Digest, Fence, NodeName, crash, whole};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const STATE: &str = "state.json";
pub(crate) const KEY: &str = "key.pem";
pub(crate) const CERTIFICATE: &str = "certificate.pem";

/// The directory, opened.
#[derive(Debug)]
pub struct Kept {
    dir: PathBuf,
    state: State,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) asked: Option<Asked>,
    pub(crate) placing: Option<Placing>,
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    pub(crate) dir: String,
    /// Whose order it was: another fleet's numbers begin anew.
    pub(crate) fleet: Option<Digest>,
    pub(crate) fence: Fence,
    pub(crate) certname: NodeName,
    /// All of them, the certname too.
    pub(crate) alt_names: BTreeSet<AltName>,
    /// Of the certificate that was signed for it: SHA-256, hex.
    pub(crate) staged: Option<String>,
}

/// A certificate that takes the place of another, or has taken it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Placing {
    pub(crate) dir: String,
    pub(crate) fingerprint: String,
    pub(crate) alt_names: BTreeSet<AltName>,
    /// Whether there were files before: only then there are copies of them.
    pub(crate) before: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("could not {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is damaged: {reason}\nhint: move its directory away while no certificate is being replaced here", path.display()
    )]
    Damaged { path: PathBuf, reason: String },
}

impl Kept {
    pub fn open(dir: &Path) -> Result<Self, KeptError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| KeptError::Io { doing: "make", path: dir.into(), source })?;
        let path = dir.join(STATE);
        let state = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| KeptError::Damaged { path, reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(source) => return Err(KeptError::Io { doing: "read", path, source }),
        };
        let kept = Self { dir: dir.into(), state };
        kept.sweep();
        Ok(kept)
    }

    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    /// A directory with these files, whole on disk; nothing names it yet.
    pub(crate) fn make(&self, name: &str, files: &[(&str, &[u8])]) -> Result<(), KeptError> {
        let dir = self.dir.join(name);
        let made = || {
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            DirBuilder::new().mode(0o700).create(&dir)?;
            for (file, bytes) in files {
                whole::write_new(&dir.join(file), bytes)?;
            }
            whole::sync_dir(&dir)?;
            whole::sync_dir(&self.dir)
        };
        made().map_err(|source| KeptError::Io { doing: "write", path: dir.clone(), source })
    }

    /// Adds a file to such a directory, or replaces it.
    pub(crate) fn put(&self, dir: &str, file: &str, bytes: &[u8]) -> Result<(), KeptError> {
        let path = self.dir.join(dir).join(file);
        whole::replace(&path, bytes).map_err(|source| KeptError::Io { doing: "write", path, source })
    }

    pub(crate) fn get(&self, dir: &str, file: &str) -> Result<Zeroizing<Vec<u8>>, KeptError> {
        let path = self.dir.join(dir).join(file);
        let read = bunraku_files::read(&path, bunraku_certificates::DOCUMENT_BYTES);
        read.map_err(|source| KeptError::Io { doing: "read", path, source })
    }

    /// Saves first; what is in memory changes only when the disk has it.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut State)) -> Result<(), KeptError> {
        let mut state = self.state.clone();
        change(&mut state);
        if state == self.state {
            return Ok(());
        }
        let path = self.dir.join(STATE);
        let saved = serde_json::to_vec(&state).map_err(io::Error::from);
        saved.and_then(|json| whole::replace(&path, &json)).map_err(|source| KeptError::Io {
            doing: "write",
            path,
            source,
        })?;
        self.state = state;
        crash::point("certificate-noted");
        self.sweep();
        Ok(())
    }

    /// What stays behind is tried again at the next change, and at the next start.
    fn sweep(&self) {
        let State { asked, placing } = &self.state;
        let named = |name: &str| {
            asked.as_ref().is_some_and(|asked| asked.dir == name)
                || placing.as_ref().is_some_and(|placing| placing.dir == name)
        };
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let unneeded = entry.file_name().to_str().is_none_or(|name| name != STATE && !named(name));
            if unneeded && let Err(error) = remove(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "a key that is not needed could not be removed");
            }
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}
