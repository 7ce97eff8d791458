//! A runtime of its own for each program, as near to a process as one process allows: it can be ended with every task
//! in it, and held still.

use std::{future::Future, sync::mpsc, time::Duration};

use tokio::runtime::{Builder, Runtime};

/// How long blocking work (a stage, a build) may go on after its program was told to end.
const ENDING: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Host {
    runtime: Option<Runtime>,
}

/// The host stands still until this is dropped.
#[derive(Debug)]
pub struct Pause {
    _goes_on_when_dropped: mpsc::Sender<()>,
}

impl Host {
    pub(super) fn new(name: &str, workers: usize) -> Self {
        let runtime =
            Builder::new_multi_thread().worker_threads(workers).thread_name(name).enable_all().build();
        Self { runtime: Some(runtime.unwrap()) }
    }

    /// Runs something inside.
    pub(super) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.as_ref().unwrap().spawn(future).await.unwrap()
    }

    /// As SIGSTOP does: no task of the (one worker's) host moves until the pause is dropped.
    pub(super) async fn pause(&self) -> Pause {
        let (resume, resumed) = mpsc::channel::<()>();
        let (stands, standing) = tokio::sync::oneshot::channel();
        self.runtime.as_ref().unwrap().spawn(async move {
            let _test_waits = stands.send(());
            let _sender_dropped = resumed.recv();
        });
        standing.await.unwrap();
        Pause { _goes_on_when_dropped: resume }
    }

    /// Ends every task at its next await, as the end of a process would.
    pub(super) async fn end(mut self) {
        let runtime = self.runtime.take();
        tokio::task::spawn_blocking(move || runtime.map(|runtime| runtime.shutdown_timeout(ENDING)))
            .await
            .unwrap();
    }
}

impl Drop for Host {
    /// A test that failed: a runtime must not be dropped within another one.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
