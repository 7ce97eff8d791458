//! Orders on hosts without systemd: a session of their own, adopted by the first process.

use std::{path::Path, process::Stdio};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::process::Command;

use super::{
    Launch, LaunchError, OrderId,
    launch::{ENVIRONMENT, NAME, SCRIPT},
};

/// Starts scripts with `setsid --fork`.
#[derive(Debug, Default)]
pub struct Detached;

impl Launch for Detached {
    fn launch<'a>(
        &'a self,
        _: &'a OrderId,
        directory: &'a Path,
        argv: &'a [String],
    ) -> BoxFuture<'a, Result<(), LaunchError>> {
        async move {
            let status = Command::new("setsid")
                .args(["--fork", "/bin/sh", "-c", SCRIPT, NAME])
                .arg(directory)
                .args(argv)
                .env_clear()
                .envs(ENVIRONMENT)
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .await;
            status.map(drop).map_err(LaunchError::Setsid)
        }
        .boxed()
    }

    /// There is nobody to ask. To say no is safe: a script that is started twice runs its command once.
    fn is_pending<'a>(&'a self, _: &'a OrderId) -> BoxFuture<'a, Result<bool, LaunchError>> {
        async { Ok(false) }.boxed()
    }

    fn forget<'a>(&'a self, _: &'a OrderId) -> BoxFuture<'a, Result<(), LaunchError>> {
        async { Ok(()) }.boxed()
    }
}
