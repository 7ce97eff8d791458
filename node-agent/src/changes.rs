//! Waits until one of some files may have changed.

use std::{path::PathBuf, time::Duration};

use bunraku_common::{Chain, Changes};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{sleep, timeout},
};

/// What no event told of: a directory that came later, an event that was lost, settings that changed.
pub(crate) const NET: Duration = Duration::from_secs(30);
/// Whoever writes a file in place is done when it was quiet for so long, …
const QUIET: Duration = Duration::from_millis(200);
/// … or is not waited for any longer.
const QUIET_COMES_WITHIN: Duration = Duration::from_secs(2);

/// Files whose changes are waited for; where the kernel does not tell of them, time alone is.
#[derive(Debug)]
pub(crate) struct Watched(Option<AsyncFd<Changes>>);

impl Watched {
    /// `what`: for the log.
    pub(crate) fn new(what: &str) -> Self {
        let made = Changes::of([]).and_then(|changes| {
            #[expect(
                deprecated,
                reason = "it is unsound for what is no descriptor; `Changes` holds one as long as it lives"
            )]
            AsyncFd::with_interest(changes, Interest::READABLE)
        });
        match made {
            Ok(fd) => Self(Some(fd)),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "changes of {what} are seen only every 30 s");
                Self(None)
            }
        }
    }

    /// Also again: a directory may have been replaced, and the kernel knows those it watches already.
    pub(crate) fn watch(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let Some(fd) = &mut self.0 else { return };
        if let Err(error) = fd.get_mut().watch(files) {
            tracing::debug!(%error, "not watched");
        }
    }

    /// Until one of them may have changed and it was quiet since, but not longer than `limit` for the first change.
    pub(crate) async fn changed(&self, limit: Duration) {
        let Some(fd) = &self.0 else { return sleep(limit).await };
        if timeout(limit, one(fd)).await.is_ok() {
            let quiet = async { while timeout(QUIET, one(fd)).await.is_ok() {} };
            let _looked_at_in_any_case = timeout(QUIET_COMES_WITHIN, quiet).await;
        }
    }
}

async fn one(fd: &AsyncFd<Changes>) {
    loop {
        let Ok(mut ready) = fd.readable().await else { return std::future::pending().await };
        match fd.get_ref().any() {
            Ok(true) => return,
            Ok(false) => ready.clear_ready(),
            // It cannot be read any more: whoever waits looks now and then all the same.
            Err(_) => return std::future::pending().await,
        }
    }
}
