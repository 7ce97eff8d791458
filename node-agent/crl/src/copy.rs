//! The node's own copy of the newest CRLs, on disk before any file is touched: what is put back when somebody damages a
//! file, and what nothing older may follow. Beside it stands what is still to be done.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bunraku_certificates::{CrlError, Crls};
use bunraku_common::{Digest, Fence, crash, whole};
use serde::{Deserialize, Serialize};

const STATE: &str = "state.json";

#[derive(Debug)]
pub(crate) struct OwnCopy {
    dir: PathBuf,
    state: State,
    crls: Option<Arc<Crls>>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Names the file of the newest CRLs.
    pub(crate) newest: Option<Digest>,
    /// What the last order brought. Others may have brought newer ones since.
    pub(crate) given: Option<Digest>,
    /// Of the last order.
    pub(crate) fence: Option<Fence>,
    /// When a file last got its CRLs, Unix milliseconds.
    pub(crate) written_ms: u64,
    /// Files that may still hold what counted before the CA counted anew: nothing in them is newer.
    pub(crate) before_reset: BTreeSet<PathBuf>,
    /// Services that have not read their file since it changed, with the number of the change.
    pub(crate) reloads: BTreeMap<String, u64>,
    pub(crate) changes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("could not {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is damaged: {reason}\nhint: move its directory away; the controller sends the CRLs again", path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("the kept CRLs {} are damaged\nhint: move their directory away; the controller sends them again", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: CrlError,
    },
}

impl OwnCopy {
    pub(crate) fn open(dir: &Path) -> Result<Self, CopyError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| CopyError::Io { doing, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make", dir))?;
        let path = dir.join(STATE);
        let state: State = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| CopyError::Damaged { path: path.clone(), reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(source) => return Err(io("read", &path)(source)),
        };
        let mut copy = Self { dir: dir.into(), state, crls: None };
        if let Some(newest) = copy.state.newest {
            copy.crls = Some(Arc::new(copy.read(newest)?));
        }
        Ok(copy)
    }

    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    pub(crate) const fn crls(&self) -> Option<&Arc<Crls>> {
        self.crls.as_ref()
    }

    /// CRLs first, then what names them: at every moment the state names a whole file.
    pub(crate) fn remember(&mut self, crls: Crls, change: impl FnOnce(&mut State)) -> Result<(), CopyError> {
        let newest = crls.digest();
        if self.state.newest != Some(newest) {
            let path = self.path_of(newest);
            whole::replace(&path, crls.pem()).map_err(|source| CopyError::Io {
                doing: "write",
                path,
                source,
            })?;
        }
        crash::point("crl-copied");
        self.change(|state| {
            state.newest = Some(newest);
            change(state);
        })?;
        self.crls = Some(Arc::new(crls));
        self.forget_others(newest);
        Ok(())
    }

    /// Saves first; what is in memory changes only when the disk has it.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut State)) -> Result<(), CopyError> {
        let mut state = self.state.clone();
        change(&mut state);
        if state == self.state {
            return Ok(());
        }
        let path = self.dir.join(STATE);
        let saved =
            serde_json::to_vec(&state).map_err(io::Error::from).and_then(|json| whole::replace(&path, &json));
        saved.map_err(|source| CopyError::Io { doing: "write", path, source })?;
        self.state = state;
        Ok(())
    }

    fn read(&self, newest: Digest) -> Result<Crls, CopyError> {
        let path = self.path_of(newest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(CopyError::Io { doing: "read", path, source }),
        };
        if Digest::of(&bytes) != newest {
            return Err(CopyError::Damaged { path, reason: "it is not what its name says".into() });
        }
        Crls::parse(&bytes).map_err(|source| CopyError::Unreadable { path, source })
    }

    fn path_of(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{digest}.pem"))
    }

    /// Older copies, and what was half written; what stays behind is no harm.
    fn forget_others(&self, newest: Digest) {
        let kept = [self.path_of(newest), self.dir.join(STATE)];
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if !kept.contains(&entry.path()) {
                let _harmless = fs::remove_file(entry.path());
            }
        }
    }
}

impl State {
    pub(crate) fn owe_reload(&mut self, service: &str) {
        self.changes += 1;
        self.reloads.insert(service.to_owned(), self.changes);
    }
}
