//! What can go wrong, told so that the controller knows whose fault it is and the operator what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use bunraku_common::{Digest, EnvironmentName, snapshot::TreeError};

use crate::apply::ApplyError;

/// A failure of anything but a stage.
#[derive(Debug, thiserror::Error)]
pub enum VersionsError {
    #[error("could not {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{environment} has no sealed version {}", digest.short())]
    NotSealed { environment: EnvironmentName, digest: Digest },
    #[error("{environment} has no live version here")]
    NotLive { environment: EnvironmentName },
    #[error(
        "{} is a relative link, which Puppet Server looks up from another directory\nhint: ln -sfn {} {0}",
        link.display(), version.display()
    )]
    RelativeLink { link: PathBuf, version: PathBuf },
    #[error(
        "{} is a link to {}, which is no version of {environment} here\nhint: bunraku deploy {environment}",
        link.display(), target.display()
    )]
    ForeignLink { environment: EnvironmentName, link: PathBuf, target: PathBuf },
    #[error("{environment} went to another version meanwhile\nhint: bunraku heal NODE, on the controller")]
    MovedOn { environment: EnvironmentName },
    #[error("version {} of {environment} is live", digest.short())]
    Live { environment: EnvironmentName, digest: Digest },
    #[error(
        "{} is a directory, not a link (hint: bunraku deploy {environment} takes it over and keeps what it holds)",
        path.display()
    )]
    DirectoryInTheWay { environment: EnvironmentName, path: PathBuf },
    #[error("{} is neither a directory nor a link (hint: move it away: `mv {0} {0}.old`)", path.display())]
    InTheWay { path: PathBuf },
    #[error("{} must be an absolute path", path.display())]
    NotAbsolute { path: PathBuf },
    #[error("could not {what} {}", root.display())]
    Apply {
        what: String,
        root: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("version {} of {environment} was changed by hand: {reason}", digest.short())]
    ChangedByHand { environment: EnvironmentName, digest: Digest, reason: String },
    #[error("what a version of {environment} holds is not known here")]
    Tree {
        environment: EnvironmentName,
        #[source]
        source: TreeError,
    },
    #[error("a generated file is not acceptable: {0}")]
    Generated(String),
    #[error("could not get what is needed to mend {environment}")]
    Fetch {
        environment: EnvironmentName,
        #[source]
        source: Box<StageError>,
    },
    #[error("stopped before the end, as asked")]
    Cancelled,
    #[error("a newer order for {environment} came while this one waited for its turn")]
    Overtaken { environment: EnvironmentName },
}

impl VersionsError {
    pub(crate) fn apply(environment: &EnvironmentName, root: &Path, error: ApplyError) -> Self {
        match error {
            ApplyError::Trees(source) => Self::Tree { environment: environment.clone(), source },
            ApplyError::NotAsSealed(digest, reason) => {
                Self::ChangedByHand { environment: environment.clone(), digest, reason }
            }
            ApplyError::Io(what, source) => Self::Apply { what, root: root.into(), source },
            ApplyError::Cancelled => Self::Cancelled,
        }
    }

    pub(crate) fn io<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { doing, path: path.into(), source }
    }
}

/// Whether the same stage would fail on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The content is bad: bad everywhere.
    Content,
    /// This node cannot: disk full, content that cannot be fetched, …
    Node,
}

/// A stage that failed; what is served did not change, and nothing is left that counts.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct StageError {
    pub fault: Fault,
    pub reason: String,
    /// The exact thing to do, where the user can do something.
    pub hint: Option<String>,
    #[source]
    pub source: Option<io::Error>,
}

impl StageError {
    pub(crate) fn content(reason: impl Into<String>) -> Self {
        Self { fault: Fault::Content, reason: reason.into(), hint: None, source: None }
    }

    pub(crate) fn node(reason: impl Into<String>) -> Self {
        Self { fault: Fault::Node, reason: reason.into(), hint: None, source: None }
    }

    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    #[must_use]
    pub(crate) fn with(self, source: io::Error) -> Self {
        Self { source: Some(source), ..self }
    }

    /// A failed call of the operating system; a full disk is named as such.
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        let shown = path.display();
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let error = if full {
            Self::node(format!("disk full: could not {doing} {shown}"))
                .hint(format!("free space or inodes on its file system: `df -h {shown}; df -i {shown}`"))
        } else {
            Self::node(format!("could not {doing} {shown}"))
        };
        Self { source: Some(source), ..error }
    }

    pub(crate) fn cancelled() -> Self {
        Self::node("the stage was cancelled")
    }
}
