//! Services that have not read their file of CRLs since it changed.

use std::sync::Arc;

use bunraku_common::Chain;
use bunraku_crl::Reload;

use super::on_disk::on_keeper;
use crate::{node::Node, reload::How};

/// For ever.
pub(crate) async fn reload(node: Arc<Node>) {
    tokio::join!(pay(node.clone(), How::Reload), pay(node, How::Restart));
}

async fn pay(node: Arc<Node>, how: How) {
    let Some(crl) = &node.crl else { return };
    loop {
        let owed = on_keeper(&node, |_, keeper| keeper.reloads()).await.unwrap_or_default();
        let paid = |reload: Reload| {
            let node = node.clone();
            async move {
                let paid = on_keeper(&node, move |_, keeper| keeper.reloaded(&reload)).await;
                paid.and_then(Result::err).map(|error| Chain(&error).to_string())
            }
        };
        crl.debts.pay(how, &node.turns, owed, "its CRLs", paid).await;
        if crl.debts.wait(how).await.is_none() {
            return;
        }
    }
}
