//! This compiler's Puppet certificate between the wire and the disk, what is copied from it for other programs, and every
//! certificate of this host that matters.

mod bundles;
mod config;
mod host;
mod list;
mod orders;
#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bunraku_common::Digest;
use bunraku_host_certificate::{Fallback, Files, Kept};
use bunraku_puppetserver::Settings;

pub use self::config::{BundleConfig, CertificatesConfig};
pub(crate) use self::{
    bundles::{Copies, keep, reload},
    host::seen,
    list::list,
    orders::{request, stage},
};
use crate::{
    config::Config,
    node::{AgentError, Node, group_id, user_id},
};

/// Of every order about the certificate.
pub(crate) const SUBJECT: &str = "certificate";

/// What this compiler keeps of its certificate.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// Held while files are read, written and synced: only [`on_kept`] takes it.
    kept: Mutex<Kept>,
    /// As it was read last.
    seen: Mutex<Option<host::Seen>>,
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

/// Reads, writes and syncs on a thread of its own. It goes on when the call is dropped. `None`: it panicked, which is in the
/// log.
pub(crate) async fn on_kept<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node, &mut Kept) -> T + Send + 'static,
) -> Option<T> {
    let node = node.clone();
    let worked = tokio::task::spawn_blocking(move || {
        let certificate = node.certificate.as_ref()?;
        let mut kept = certificate.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Some(work(&node, &mut kept))
    });
    worked.await.ok().flatten()
}

/// The files that Puppet Server reads. Asks for its user where there are none yet.
pub(crate) fn files(settings: &Settings) -> Files {
    let (certificate, key) = (settings.hostcert.clone(), settings.hostprivkey.clone());
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    let fallback = match is_there(&certificate) && is_there(&key) {
        true => Fallback::default(),
        false => Fallback { owner: user_id(&settings.user), group: group_id(&settings.group) },
    };
    Files { certificate, key, fallback }
}

fn fleet(node: &Node) -> Option<Digest> {
    node.memory().fleet()
}
