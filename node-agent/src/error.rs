//! Why the agent cannot start.

use std::{io, path::PathBuf};

use bunraku_balancer::KeeperError;
use bunraku_common::names::BadName;
use bunraku_crl::CopyError;
use bunraku_host_certificate::KeptError;
use bunraku_puppetserver::SettingsError;
use bunraku_versions::VersionsError;

use crate::memory::MemoryError;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("could not {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another bunraku-agent uses {}\nhint: systemctl stop bunraku-agent", path.display())]
    Running { path: PathBuf },
    #[error(
        "could not ask Puppet where its files are\nhint: set [puppet] program in the agent's configuration"
    )]
    Settings(#[from] SettingsError),
    #[error("Puppet's certname is not usable as a node name\nhint: set name in the agent's configuration")]
    Name(#[from] BadName),
    #[error("`{0}` is not the address of Puppet Server: HOST:PORT is expected")]
    Server(String),
    #[error(
        "group {0} does not exist\nhint: name Puppet Server's group in the [code] table, or group = \"\" lets everybody read"
    )]
    Group(String),
    #[error(transparent)]
    Balancer(#[from] KeeperError),
    #[error("[crl] of the agent's configuration: {0}")]
    Crl(String),
    #[error("[certificates] and [[bundles]] of the agent's configuration: {0}")]
    Certificates(String),
    #[error("the certificate cannot be kept")]
    Certificate(#[from] KeptError),
    #[error("the CRLs cannot be kept")]
    Crls(#[from] CopyError),
    #[error("versions cannot be kept")]
    Versions(#[from] VersionsError),
    #[error("the node's memory cannot be read")]
    Memory(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AgentError {
    /// Whether only a change of the configuration helps: then starting again is of no use.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Name(_)
            | Self::Server(_)
            | Self::Group(_)
            | Self::Crl(_)
            | Self::Certificates(_)
            | Self::Balancer(KeeperError::Config(_)) => true,
            Self::Io { .. }
            | Self::Running { .. }
            | Self::Settings(_)
            | Self::Balancer(KeeperError::Wishes(_))
            | Self::Crls(_)
            | Self::Certificate(_)
            | Self::Versions(_)
            | Self::Memory(_) => false,
        }
    }
}

impl From<MemoryError> for AgentError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(Box::new(error))
    }
}
