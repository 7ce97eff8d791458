//! Ends a connection for certain. hyper spawns the tasks of a connection itself, so that dropping what it returns
//! neither closes the socket nor says when it was closed (measured with hyper 1.12). This executor knows every task.

use std::{
    future::{Future, pending},
    sync::Arc,
};

use tokio::sync::watch;

/// The handle to one connection's tasks. Dropping it ends nothing.
#[derive(Clone, Debug)]
pub struct Cut(Arc<watch::Sender<bool>>);

impl Cut {
    pub(crate) fn new() -> (Self, Tasks) {
        let (sender, receiver) = watch::channel(false);
        (Self(Arc::new(sender)), Tasks(receiver))
    }

    /// Ends every task of the connection at once; running calls fail.
    pub fn cut(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the last task of the connection has ended, cut or not.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// hyper's executor for one connection.
#[derive(Clone, Debug)]
pub(crate) struct Tasks(watch::Receiver<bool>);

impl Tasks {
    /// Waits until somebody cuts the connection; for ever, when nobody can any more.
    pub(crate) async fn cut(&mut self) {
        if self.0.wait_for(|cut| *cut).await.is_err() {
            pending::<()>().await;
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                () = tasks.cut() => {}
            }
        });
    }
}
