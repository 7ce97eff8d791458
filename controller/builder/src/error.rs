//! Why a build did not end with a snapshot.

use std::{error::Error, io, path::PathBuf};

use bunraku_common::{EnvironmentName, snapshot::TreeError};

use crate::{
    account::AccountError,
    remotes::Forbidden,
    run::RunError,
    snapshot::{BadPattern, SnapshotError},
};

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("no control repository is configured (hint: set `remote` in the [build] table)")]
    NoRemote,
    #[error(
        "`remote` carries a password, and everybody on this host could read it in the list of processes (hint: leave it \
         out of `remote`, write it as a line https://USER:PASSWORD@HOST into a file of root with mode 600, and name that \
         file as `git_credentials` in the [build] table)"
    )]
    PasswordInRemote,
    #[error("the file of `git_credentials` {path} cannot be used: {what} (hint: {hint})")]
    Credentials { path: PathBuf, what: String, hint: String },
    #[error(transparent)]
    Exclude(#[from] BadPattern),
    #[error("could not prepare {path}")]
    Prepare {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("the control repository has no branch `{branch}`")]
    NoBranch { branch: String },
    #[error("branch `{branch}` cannot become an environment: {reason}")]
    BranchRefused { branch: String, reason: String },
    #[error("branch `{branch}` becomes environment {is}, and {asked} was asked for")]
    OtherEnvironment { branch: String, is: EnvironmentName, asked: EnvironmentName },
    #[error("`{0}` is not a full commit id: 40 or 64 lower-case hex digits are expected")]
    NotACommit(String),
    #[error("commit {commit} is not in the control repository (hint: is it pushed to a branch?)")]
    NoCommit { commit: String },
    #[error("{builder} says that it succeeded, and its {file} in {environment} says otherwise: {reason}")]
    NotDeployed { builder: &'static str, file: &'static str, environment: EnvironmentName, reason: String },
    #[error("module remotes use transports that are not allowed: {}", crate::remotes::list(.forbidden))]
    Transport { forbidden: Vec<Forbidden> },
    #[error("could not take a snapshot of {environment}")]
    Snapshot {
        environment: EnvironmentName,
        #[source]
        source: SnapshotError,
    },
    #[error("could not read back the snapshot of {environment}")]
    ReadBack {
        environment: EnvironmentName,
        #[source]
        source: TreeError,
    },
    #[error("the build of {0} was cancelled")]
    Cancelled(EnvironmentName),
}

impl BuildError {
    /// What git or the builder printed (its end), for people. Empty where no program failed.
    pub fn output(&self) -> &str {
        match self {
            Self::Run(error) => error.output(),
            Self::Account(_)
            | Self::NoRemote
            | Self::PasswordInRemote
            | Self::Credentials { .. }
            | Self::Exclude(_)
            | Self::Prepare { .. }
            | Self::NoBranch { .. }
            | Self::BranchRefused { .. }
            | Self::OtherEnvironment { .. }
            | Self::NotACommit(_)
            | Self::NoCommit { .. }
            | Self::NotDeployed { .. }
            | Self::Transport { .. }
            | Self::Snapshot { .. }
            | Self::ReadBack { .. }
            | Self::Cancelled(_) => "",
        }
    }

    /// Whether only another configuration helps.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Account(_)
                | Self::NoRemote
                | Self::PasswordInRemote
                | Self::Credentials { .. }
                | Self::Exclude(_)
        )
    }

    /// Whether the disk has no room, so that neither git nor its configuration is to blame.
    pub(crate) fn is_full_disk(&self) -> bool {
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
                return true;
            }
            next = error.source();
        }
        self.output().contains("No space left on device")
    }

    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled(_) | Self::Run(RunError::Cancelled { .. }))
    }
}
