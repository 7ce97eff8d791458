//! What differs between package managers. Pure: commands are built and answers are read, nothing runs here.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Called, Plan};

/// One package that a transaction would change, as the manager names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub package: String,
    /// `None`: it is not installed.
    pub from: Option<String>,
    /// `None`: it is removed.
    pub to: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let package = &self.package;
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{package} from {from} to {to}"),
            (None, Some(to)) => write!(f, "{package} {to} comes newly"),
            (Some(from), None) => write!(f, "{package} {from} goes"),
            (None, None) => write!(f, "{package} stays away"),
        }
    }
}

/// What a transaction would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simulated {
    pub changes: Vec<Change>,
    /// Something would become older.
    pub downgrades: bool,
}

/// Why a manager would not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0} is held at its version\nhint: apt-mark unhold {0}, when it may change")]
    Held(String),
    #[error(
        "no repository of this host has {package} {version}\nhint: apt-get update, or dnf makecache; then look with apt-cache policy {package}, or dnf list --showduplicates {package}"
    )]
    Missing { package: String, version: String },
    #[error(
        "{0} is not set up completely since an earlier transaction was cut short\nhint: dpkg --configure -a"
    )]
    HalfConfigured(String),
    #[error("the package manager refuses: {0}")]
    Other(String),
}

/// The manager of this host; `None`: it has neither apt nor dnf.
pub fn of_this_host() -> Option<Box<dyn Manager>> {
    let has = |program: &str| Path::new("/usr/bin").join(program).exists();
    match (has("dpkg") && has("apt-get"), has("dnf")) {
        (true, _) => Some(Box::new(crate::Apt::default())),
        (false, true) => Some(Box::new(crate::Dnf::default())),
        (false, false) => None,
    }
}

/// A package manager.
pub trait Manager: fmt::Debug + Send + Sync {
    fn is_package(&self, text: &str) -> bool;

    fn is_version(&self, text: &str) -> bool;

    /// Prints which version is installed.
    fn installed(&self, package: &str) -> Vec<String>;

    fn read_installed(&self, called: &Called) -> Option<String>;

    /// Prints what stands in the way of any transaction; `None`: nothing ever does.
    fn audit(&self) -> Option<Vec<String>>;

    fn read_audit(&self, called: &Called) -> Result<(), Refusal>;

    /// Completes what was cut short; `None`: it needs nothing.
    fn finish(&self) -> Option<Vec<String>>;

    /// Prints the packages that must not change, one a line; `None`: the simulation knows them.
    fn held(&self) -> Option<Vec<String>>;

    /// Prints what would change.
    fn simulate(&self, package: &str, version: &str) -> Vec<String>;

    fn read_simulated(&self, package: &str, version: &str, called: &Called) -> Result<Simulated, Refusal>;

    /// Fetches one package's file into a directory.
    fn download(&self, package: &str, version: &str, into: &Path) -> Vec<String>;

    /// Prints where one package's file would be fetched from, and succeeds, if a repository has it. Nothing is fetched.
    fn locate(&self, package: &str, version: &str) -> Vec<String>;

    /// Makes the file of an installed package again, in a directory.
    fn rebuild(&self, package: &str, into: &Path) -> Option<Vec<String>>;

    /// Succeeds where [`Self::rebuild`] has its program.
    fn rebuilds(&self) -> Option<Vec<String>>;

    /// Where files of packages that were installed lie.
    fn cache(&self) -> PathBuf;

    /// How many directories below it they may lie.
    fn cache_depth(&self) -> usize;

    /// What the name of a package's file begins with.
    fn file_prefix(&self, package: &str, version: &str) -> String;

    /// Whether a transaction ended with this code, and nothing changed, because somebody else is at the package database.
    /// Only of a manager that does not wait itself.
    fn is_locked(&self, code: i32) -> bool;

    /// The transaction. A manager that can waits for other users of the package database for at most `lock`.
    fn act(&self, plan: &Plan, lock: Duration) -> Vec<String>;

    /// The transaction back to what was before.
    fn revert(&self, plan: &Plan, lock: Duration) -> Vec<String>;
}
