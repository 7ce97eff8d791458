//! Where the files are, and work on them.

use std::sync::{Arc, PoisonError};

use bunraku_common::Chain;
use bunraku_crl::{Keeper, Place};

use super::{grants::Granted, kept::Crl};
use crate::node::Node;

impl Crl {
    /// Where the files are, as Puppet's settings are now.
    async fn places(&self, node: &Node) -> Result<Vec<Place>, String> {
        let asks = self.puppetserver || self.files.iter().any(|granted| granted.file.ca.is_none());
        let settings = match asks {
            true => Some(node.puppet_settings().await.map_err(|error| Chain(&error).to_string())?),
            false => None,
        };
        let mut places = Vec::new();
        if let Some(settings) = settings.as_ref().filter(|_| self.puppetserver) {
            let (path, ca) = (settings.hostcrl.clone(), settings.localcacert.clone());
            // A table for it says more.
            if self.files.iter().all(|granted| granted.file.path != path) {
                places.push(Place { path, owner: None, group: None, mode: None, ca, reload: None });
            }
        }
        for Granted { file, owner, group, reader } in &self.files {
            let Some(ca) = file.ca.as_ref().or(settings.as_ref().map(|settings| &settings.localcacert))
            else {
                continue;
            };
            places.push(Place {
                path: file.path.clone(),
                owner: *owner,
                group: *group,
                mode: file.mode.map(|mode| mode.0),
                ca: ca.clone(),
                reload: reader.clone(),
            });
        }
        Ok(places)
    }

    /// The same, kept as the reason why nothing can be done where it fails.
    pub(super) async fn known_places(&self, node: &Node) -> Result<Vec<Place>, String> {
        let places = self.places(node).await;
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let now = places.as_ref().err().map(|why| format!("where the CRLs belong is not known: {why}"));
        if let Some(why) = now.as_ref().filter(|now| trouble.as_ref() != Some(now)) {
            tracing::warn!("{why}");
        }
        *trouble = now;
        places
    }
}

/// The keeper works on a thread of its own: it reads and writes files, and syncs them. `None`: it panicked, which is in
/// the log.
pub(super) async fn on_keeper<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node, &mut Keeper) -> T + Send + 'static,
) -> Option<T> {
    let node = node.clone();
    let worked = tokio::task::spawn_blocking(move || {
        let crl = node.crl.as_ref()?;
        let mut keeper = crl.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&node, &mut keeper);
        *crl.told() = (keeper.seen(), keeper.reloads());
        Some(done)
    });
    worked.await.ok().flatten()
}
