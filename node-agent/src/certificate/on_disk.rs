//! Work on what is kept, and on the files that Puppet Server reads.

use std::{
    path::Path,
    sync::{Arc, PoisonError},
};

use bunraku_common::Digest;
use bunraku_host_certificate::{Fallback, Files, Kept};
use bunraku_puppetserver::Settings;

use crate::{
    accounts::{group_id, user_id},
    node::Node,
};

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

pub(super) fn fleet(node: &Node) -> Option<Digest> {
    node.memory().fleet()
}
