//! `bunraku-agent run`.

use std::path::Path;

use bunraku_common::telemetry;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, read};
use crate::Agent;

pub(super) async fn run(config: &Path) -> Result<(), Failure> {
    telemetry::start("info", telemetry::Format::Text);
    let config = read(config)?;
    let agent = Agent::start(config).await.map_err(|error| Failure::failed(&error))?;
    tracing::info!(name = %agent.name(), "started");
    // Without systemd there is nobody to tell.
    let _not_under_systemd = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    match signal(SignalKind::terminate()) {
        Ok(mut term) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => return Err(Failure::failed(&error)),
    }
    agent.stop().await;
    Ok(())
}
