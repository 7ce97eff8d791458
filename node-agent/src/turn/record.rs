//! The newest order that changes this host: on disk before it begins, and again with its result. After a crash it is
//! known what was begun, and nothing is done twice.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use bunraku_common::{Digest, Fence, whole};
use bunraku_services::Mark;
use serde::{Deserialize, Serialize};

use super::{action::Action, step::Answer};

#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    newest: Option<Begun>,
}

/// An order that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Begun {
    /// Whose order it is: another fleet's numbers begin anew.
    pub fleet: Option<Digest>,
    pub fence: Fence,
    pub action: Action,
    /// Not the action, but back to what was before it.
    #[serde(default)]
    pub back: bool,
    /// Where the service stood before.
    pub mark: Mark,
    /// Puppet's version before; `None`: not known, or not asked for.
    #[serde(default)]
    pub puppet: Option<String>,
    /// `None`: it goes on, or was cut short.
    pub answer: Option<Answer>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is damaged: {reason}\nhint: move it away while no rollout is under way on this node")]
    Damaged { path: PathBuf, reason: String },
    #[error("could not write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Record {
    pub(super) fn open(directory: &Path) -> Result<Self, RecordError> {
        let path = directory.join("acting.json");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory.join("orders"));
        made.map_err(|source| RecordError::Write { path: directory.into(), source })?;
        let newest = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| RecordError::Damaged { path: path.clone(), reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(RecordError::Read { path, source }),
        };
        Ok(Self { path, newest })
    }

    pub(super) fn newest(&self) -> Option<&Begun> {
        self.newest.as_ref()
    }

    /// Saves first.
    pub(super) fn keep(&mut self, begun: Begun) -> Result<(), RecordError> {
        save(&self.path, &begun).map_err(|source| RecordError::Write { path: self.path.clone(), source })?;
        self.newest = Some(begun);
        Ok(())
    }
}

fn save(path: &Path, begun: &Begun) -> io::Result<()> {
    whole::replace_past(path, &serde_json::to_vec(begun)?, "turn-written")
}
