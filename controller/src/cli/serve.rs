//! `bunraku serve`.

use std::{
    io,
    path::{Path, PathBuf},
};

use bunraku_common::{
    Chain,
    config::{self, ConfigError},
    descriptors, telemetry,
};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{DEFAULT_CONFIG, Exit, Failure};
use crate::{
    config::Config,
    serve::{Controller, ServeError},
};

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Configuration file
    #[arg(long, env = "BUNRAKU_CONFIG", hide_env_values = true, default_value = DEFAULT_CONFIG, value_name = "FILE")]
    config: PathBuf,
    /// Log as JSON
    #[arg(long)]
    log_json: bool,
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let format = if self.log_json { telemetry::Format::Json } else { telemetry::Format::Text };
        telemetry::start("info", format);
        let config = read(&self.config)?;
        descriptors::raise_limit();
        let controller = Controller::start(config).await.map_err(failed)?;
        tracing::info!(address = %controller.address(), "serving");
        // Without systemd there is nobody to tell.
        let _not_under_systemd = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        controller.run_until(told_to_stop()).await.map_err(failed)
    }
}

fn read(path: &Path) -> Result<Config, Failure> {
    config::read(path).map_err(|error| {
        let failure = Failure::new(Exit::WrongUse, Chain(&error));
        match error {
            ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                failure.hint("bunraku init --address HOST:PORT makes one")
            }
            ConfigError::Read { .. } | ConfigError::Parse { .. } => failure,
        }
    })
}

/// Under systemd, the code of a wrong configuration keeps the service from being started again and again.
fn failed(error: ServeError) -> Failure {
    let exit = if error.is_configuration() { Exit::WrongUse } else { Exit::Failed };
    Failure::new(exit, Chain(&error))
}

async fn told_to_stop() {
    let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
