//! What this compiler keeps of its certificate.

use std::sync::Mutex;

use bunraku_host_certificate::Kept;
use bunraku_proto::v1;

use crate::{config::Config, error::AgentError};

/// What this compiler keeps of its certificate.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// Held while files are read, written and synced: only [`on_kept`](super::on_disk::on_kept) takes it.
    pub(super) kept: Mutex<Kept>,
    /// As it was read last.
    pub(super) seen: Mutex<Option<Seen>>,
}

impl Certificate {
    /// `None`: only a compiler has one that is replaced.
    pub(crate) fn open(config: &Config) -> Result<Option<Self>, AgentError> {
        if config.code.is_none() {
            return Ok(None);
        }
        let kept = Kept::open(&config.data_dir.join("certificate"))?;
        Ok(Some(Self { kept: Mutex::new(kept), seen: Mutex::default() }))
    }
}

/// What was read from which file.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) stamp: Stamp,
    pub(super) certificate: Option<v1::HostCertificate>,
}

/// Device, inode, size, and when it last changed.
pub(super) type Stamp = (u64, u64, u64, i64, i64);
