//! Looks at the files whenever somebody changes one, and now and then.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bunraku_common::Chain;
use bunraku_crl::Place;
use tokio::time::{sleep, timeout};

use super::{inotify::Inotify, on_keeper};
use crate::{commit::wall_ms, node::Node};

/// What no event told of: a directory that came later, an event that was lost, settings that changed.
const NET: Duration = Duration::from_secs(30);
/// Whoever writes a file in place is done when it was quiet for so long, …
const QUIET: Duration = Duration::from_millis(200);
/// … or is not waited for any longer.
const QUIET_COMES_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks: who puts back what somebody else's program puts back, too, must not do it all the time.
const REST: Duration = Duration::from_millis(500);
/// A file that seemed to be under its writer's hand is looked at again after this and the rest.
const SOON: Duration = Duration::from_millis(100);

/// For ever.
pub(crate) async fn watch(node: Arc<Node>) {
    let mut inotify = match Inotify::new() {
        Ok(inotify) => Some(inotify),
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "changes of CRLs are seen only every 30 s");
            None
        }
    };
    loop {
        let places = on_look(&node, &mut inotify).await;
        let soon = on_keeper(&node, move |_, keeper| {
            // Where they are not known at the moment, those that were known are kept.
            if let Some(places) = places {
                keeper.keep(places);
            }
            keeper.look(wall_ms())
        });
        let soon = soon.await.unwrap_or(false);
        if let Some(crl) = &node.crl {
            crl.changed.notify_one();
        }
        sleep(REST).await;
        let until = if soon { SOON } else { NET };
        match &mut inotify {
            Some(inotify) => {
                if timeout(until, inotify.changed()).await.is_ok() {
                    let quiet = async { while timeout(QUIET, inotify.changed()).await.is_ok() {} };
                    let _looked_at_in_any_case = timeout(QUIET_COMES_WITHIN, quiet).await;
                }
            }
            None => sleep(until).await,
        }
    }
}

/// Where the files are now. Their directories are watched before anybody looks, so that no change falls in between.
async fn on_look(node: &Node, inotify: &mut Option<Inotify>) -> Option<Vec<Place>> {
    let places = node.crl.as_ref()?.known_places(node).await.ok()?;
    if let Some(inotify) = inotify {
        let paths: BTreeSet<_> = places.iter().map(|place| place.path.clone()).collect();
        inotify.watch(paths);
    }
    Some(places)
}
