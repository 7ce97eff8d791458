//! Tells systemd's watchdog that the controller makes progress; if nobody says so in time, systemd starts it again.
//!
//! Only where the unit sets `WatchdogSec=`. A ping is sent when the driver's loop has answered: it stands still when the
//! journal's disk does, and then nothing else that the controller says means much.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{sleep, timeout};

use crate::driver::Driver;

/// Runs until the process ends; at once over without a watchdog.
pub(crate) async fn keep_fed(driver: Driver) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    feed(driver, limit, || {
        // Without systemd there is nobody to tell.
        let _nobody = sd_notify::notify(&[NotifyState::Watchdog]);
    })
    .await;
}

async fn feed(driver: Driver, limit: Duration, ping: impl Fn()) {
    loop {
        if let Ok(true) = timeout(limit, driver.answers()).await {
            ping();
        } else {
            tracing::error!("the driver does not answer: the watchdog is not told that all is well");
        }
        // Three chances before the limit.
        sleep(limit / 3).await;
    }
}
