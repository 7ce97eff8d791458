//! Looks at the files whenever somebody changes one, and now and then.

use std::{sync::Arc, time::Duration};

use bunraku_crl::Place;
use tokio::time::sleep;

use super::on_disk::on_keeper;
use crate::{
    changes::{NET, Watched},
    commit::wall_ms,
    node::Node,
};

/// Between two looks: who puts back what somebody else's program puts back, too, must not do it all the time.
const REST: Duration = Duration::from_millis(500);
/// A file that seemed to be under its writer's hand is looked at again after this and the rest.
const SOON: Duration = Duration::from_millis(100);

/// For ever.
pub(crate) async fn watch(node: Arc<Node>) {
    let mut watched = Watched::new("CRLs");
    loop {
        let places = on_look(&node, &mut watched).await;
        let soon = on_keeper(&node, move |_, keeper| {
            // Where they are not known at the moment, those that were known are kept.
            if let Some(places) = places {
                keeper.keep(places);
            }
            keeper.look(wall_ms())
        });
        let soon = soon.await.unwrap_or(false);
        if let Some(crl) = &node.crl {
            crl.debts.changed();
        }
        sleep(REST).await;
        watched.changed(if soon { SOON } else { NET }).await;
    }
}

/// Where the files are now. Their directories are watched before anybody looks, so that no change falls in between.
async fn on_look(node: &Node, watched: &mut Watched) -> Option<Vec<Place>> {
    let places = node.crl.as_ref()?.known_places(node).await.ok()?;
    watched.watch(places.iter().map(|place| place.path.clone()));
    Some(places)
}
