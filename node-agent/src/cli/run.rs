//! `bunraku-agent run`.

use std::path::Path;

use bunraku_common::{Chain, descriptors, telemetry};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, read};
use crate::{Agent, AgentError};

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Log as JSON
    #[arg(long)]
    log_json: bool,
}

impl Run {
    pub(super) async fn run(&self, config: &Path) -> Result<(), Failure> {
        let format = if self.log_json { telemetry::Format::Json } else { telemetry::Format::Text };
        telemetry::start("info", format);
        let config = read(config)?;
        descriptors::raise_limit();
        let agent = Agent::start(config).await.map_err(|error| failed(&error))?;
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
}

/// Under systemd, the code of a wrong configuration keeps the service from being started again and again.
fn failed(error: &AgentError) -> Failure {
    let told = Chain(error).to_string();
    if error.is_configuration() { Failure::WrongUse(told) } else { Failure::Failed(told) }
}
