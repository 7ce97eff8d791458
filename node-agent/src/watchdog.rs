//! Tells systemd's watchdog that the agent makes progress; if nobody says so in time, systemd starts it again. Puppet
//! Server does not notice: it goes on serving what is live.
//!
//! Only where the unit sets `WatchdogSec=`. A ping is sent when the runtime ran this task, blocking work found a thread,
//! the node's memory could be had, and the task that keeps the connection has not ended. Whether the controller answers
//! does not matter: a restart would not bring it back.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    task::{AbortHandle, spawn_blocking},
    time::{sleep, timeout},
};

use crate::node::Node;

/// Runs as long as the agent; at once over without a watchdog.
pub(crate) async fn keep_fed(node: Arc<Node>, connection: AbortHandle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        if is_well(&node, &connection, limit).await {
            // Without systemd there is nobody to tell.
            let _nobody = sd_notify::notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the agent is stuck: the watchdog is not told that all is well");
        }
        // Three chances before the limit.
        sleep(limit / 3).await;
    }
}

async fn is_well(node: &Arc<Node>, connection: &AbortHandle, limit: Duration) -> bool {
    let node = node.clone();
    let memory = timeout(limit, spawn_blocking(move || drop(node.memory())));
    matches!(memory.await, Ok(Ok(()))) && !connection.is_finished()
}
