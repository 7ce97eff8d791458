//! Services that read their file of CRLs only at a reload: each is told until it has done so, also after a restart of
//! this agent. Only what `[services]` grants can be told.

use std::sync::{Arc, PoisonError};

use bunraku_common::Chain;
use tokio::time::timeout;

use super::on_keeper;
use crate::{node::Node, reload};

/// For ever.
pub(crate) async fn reload(node: Arc<Node>) {
    let Some(crl) = &node.crl else { return };
    loop {
        let owed = on_keeper(&node, |_, keeper| keeper.reloads()).await.unwrap_or_default();
        for reload in owed {
            let trouble = match reload::tell(&node, &reload.service).await {
                Ok(()) => {
                    tracing::info!(service = reload.service, "it was told to read its CRLs again");
                    let paid = reload.clone();
                    let paid = on_keeper(&node, move |_, keeper| keeper.reloaded(&paid)).await;
                    paid.and_then(Result::err).map(|error| Chain(&error).to_string())
                }
                Err(why) => Some(why),
            };
            let mut known = crl.not_reloaded.lock().unwrap_or_else(PoisonError::into_inner);
            match trouble {
                Some(why) => {
                    if known.insert(reload.service.clone(), why.clone()).as_ref() != Some(&why) {
                        tracing::warn!(service = reload.service, why, "it has not read its CRLs again");
                    }
                }
                None => drop(known.remove(&reload.service)),
            }
        }
        let _or_again = timeout(reload::AGAIN, crl.changed.notified()).await;
    }
}
