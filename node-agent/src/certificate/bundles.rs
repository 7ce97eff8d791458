//! Keeps the copies of the certificate like their source, and has those told who read them only at a reload.

use std::sync::{Arc, PoisonError};

use bunraku_common::Chain;
use bunraku_files::Reload;
use bunraku_host_certificate::{Bundles, Sources};

use super::copies::Copies;
use crate::{
    changes::{NET, Watched},
    node::Node,
    reload::How,
};

/// For ever: looks whenever a source or a copy has changed, and now and then.
pub(crate) async fn keep(node: Arc<Node>) {
    let Some(copies) = &node.copies else { return };
    let mut watched = Watched::new("the certificate");
    loop {
        if let Some(sources) = sources(&node, copies).await {
            let Sources { certificate, key, ca } = &sources;
            let all = [certificate, key, ca].into_iter().chain(&copies.paths);
            watched.watch(all.cloned());
            on_bundles(&node, move |bundles| bundles.look(&sources)).await;
            copies.debts.changed();
        }
        watched.changed(NET).await;
    }
}

/// For ever: services that have not read their copies.
pub(crate) async fn reload(node: Arc<Node>) {
    tokio::join!(pay(node.clone(), How::Reload), pay(node, How::Restart));
}

async fn pay(node: Arc<Node>, how: How) {
    let Some(copies) = &node.copies else { return };
    loop {
        let owed = on_bundles(&node, |bundles| bundles.reloads()).await.unwrap_or_default();
        let paid = |reload: Reload| {
            let node = node.clone();
            async move {
                let paid = on_bundles(&node, move |bundles| bundles.reloaded(&reload)).await;
                paid.and_then(Result::err).map(|error| Chain(&error).to_string())
            }
        };
        copies.debts.pay(how, &node.turns, owed, "its copy of the certificate", paid).await;
        if copies.debts.wait(how).await.is_none() {
            return;
        }
    }
}

async fn sources(node: &Node, copies: &Copies) -> Option<Sources> {
    let settings = node.puppet_settings().await;
    let now = settings.as_ref().err();
    let now = now.map(|error| format!("where the certificate is, is not known: {}", Chain(error)));
    let mut trouble = copies.trouble();
    if let Some(why) = now.as_ref().filter(|now| trouble.as_ref() != Some(now)) {
        tracing::warn!("{why}");
    }
    *trouble = now;
    let settings = settings.ok()?;
    Some(Sources { certificate: settings.hostcert, key: settings.hostprivkey, ca: settings.localcacert })
}

/// `None`: it panicked, which is in the log.
async fn on_bundles<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&mut Bundles) -> T + Send + 'static,
) -> Option<T> {
    let node = node.clone();
    let worked = tokio::task::spawn_blocking(move || {
        let copies = node.copies.as_ref()?;
        let mut bundles = copies.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut bundles);
        *copies.told() = (bundles.owed().clone(), bundles.reloads());
        Some(done)
    });
    worked.await.ok().flatten()
}
