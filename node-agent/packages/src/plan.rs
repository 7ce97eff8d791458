//! A transaction as it was prepared: every package that changes, with its files for both ways.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{Manager, Target};

/// Lies in its directory as `plan.json`, beside the packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub target: Target,
    /// Empty: the wanted version was installed when it was prepared.
    pub changes: Vec<Planned>,
    pub downgrades: bool,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    pub package: String,
    pub from: Option<String>,
    pub to: Option<String>,
    /// The file of the present version; missing although there is one: there is no way back.
    pub old: Option<PathBuf>,
    /// The file of the wanted version.
    pub new: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("could not write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Plan {
    /// The packages that cannot be brought back to their present version.
    pub fn no_way_back(&self) -> Vec<&str> {
        let lost = self.changes.iter().filter(|change| change.from.is_some() && change.old.is_none());
        lost.map(|change| change.package.as_str()).collect()
    }

    /// The words of the transaction.
    pub fn act(&self, manager: &dyn Manager, lock: Duration) -> Vec<String> {
        manager.act(self, lock)
    }

    /// The words of the way back; `None`: there is none.
    pub fn revert(&self, manager: &dyn Manager, lock: Duration) -> Option<Vec<String>> {
        (self.no_way_back().is_empty() && !self.changes.is_empty()).then(|| manager.revert(self, lock))
    }

    /// The plan that was saved in a directory.
    pub fn open(directory: &Path) -> Result<Option<Self>, PlanError> {
        let path = directory.join("plan.json");
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(plan) => Ok(Some(plan)),
                Err(error) => Err(PlanError::Damaged { path, reason: error.to_string() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PlanError::Read { path, source }),
        }
    }

    /// Removes the plan of a directory and its packages, if there is one. The plan goes first: it must never name files of
    /// another one.
    pub fn forget(directory: &Path) -> io::Result<()> {
        for name in ["plan.json", "old", "new"] {
            let path = directory.join(name);
            let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            removed
                .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    }

    /// On disk, with the packages that it names, when this returns.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), PlanError> {
        let path = directory.join("plan.json");
        self.write(directory, &path).map_err(|source| PlanError::Write { path, source })
    }

    fn write(&self, directory: &Path, path: &Path) -> io::Result<()> {
        for file in self.changes.iter().flat_map(|change| [&change.old, &change.new]).flatten() {
            File::open(file)?.sync_all()?;
        }
        for sub in ["old", "new"] {
            File::open(directory.join(sub))?.sync_all()?;
        }
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    }
}
