//! Services that have not read their file of CRLs since it changed.

use std::sync::Arc;

use bunraku_common::Chain;
use bunraku_crl::Reload;

use super::on_disk::on_keeper;
use crate::node::Node;

/// For ever.
pub(crate) async fn reload(node: Arc<Node>) {
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
        crl.debts.pay(&node.turns, owed, "its CRLs", paid).await;
        crl.debts.wait().await;
    }
}
