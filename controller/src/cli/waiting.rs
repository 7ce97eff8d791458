//! Waits for one thing after the other, and always says for what and until when. A controller that restarts meanwhile is
//! asked on.

use std::time::{Duration, Instant};

use bunraku_common::hint;
use tonic::Status;

use super::{
    Exit, Failure, Output,
    client::{Control, is_passing},
    output::{hinted, span},
    progress::{ATTEMPTS, BETWEEN_ATTEMPTS, View},
    tokens::clock_time,
};
use crate::clock::wall_ms;

/// What a look says.
pub(super) enum Look<T> {
    Is(T),
    /// What is waited for.
    Not(String),
    /// It will not come.
    Never(Failure),
}

/// The controller, the node, and how long anything may take.
pub(super) struct Waiting {
    pub(super) client: Control,
    pub(super) node: String,
    /// The command that goes on from here, or looks again.
    again: String,
    /// What happens when the time is over.
    then: &'static str,
    timeout: Duration,
    view: View,
}

impl Waiting {
    pub(super) fn new(client: Control, node: &str, again: String, timeout: Duration, output: Output) -> Self {
        let then = "then this command ends, and run again it goes on from here";
        Self { client, node: node.to_owned(), again, then, timeout, view: View::new(output) }
    }

    /// With other words for what happens when the time is over.
    pub(super) fn and_then(self, then: &'static str) -> Self {
        Self { then, ..self }
    }

    pub(super) async fn until<T>(
        &mut self,
        look: impl AsyncFnMut(&mut Control, &str) -> Result<Look<T>, Status>,
    ) -> Result<T, Failure> {
        let found = self.looking(look).await;
        self.view.clear();
        found
    }

    async fn looking<T>(
        &mut self,
        mut look: impl AsyncFnMut(&mut Control, &str) -> Result<Look<T>, Status>,
    ) -> Result<T, Failure> {
        let (ends, ends_ms) = (Instant::now() + self.timeout, wall_ms() + self.timeout.as_millis() as u64);
        let mut lost = 0;
        loop {
            let waits_for = match look(&mut self.client, &self.node).await {
                Ok(Look::Is(found)) => return Ok(found),
                Ok(Look::Never(why)) => return Err(why),
                Ok(Look::Not(what)) => {
                    lost = 0;
                    what
                }
                // The controller restarts: its journal remembers what was decided.
                Err(status) if is_passing(&status) && lost < ATTEMPTS => {
                    lost += 1;
                    "the controller to answer again".to_owned()
                }
                Err(status) if is_passing(&status) => {
                    let why = format!("the controller does not answer: {}", status.message());
                    return Err(Failure::new(Exit::Unknown, why).hint(&self.again));
                }
                Err(status) => return Err(status.into()),
            };
            let left = span(ends_ms.saturating_sub(wall_ms()).div_ceil(1000));
            let then = self.then;
            let until = clock_time(ends_ms.saturating_add(500) / 1000);
            self.view.show(
                || vec![format!("waits for {waits_for}"), format!("  at most {left}; {then}")],
                || format!("waits for {waits_for}, until {until}; {then}"),
            );
            if Instant::now() >= ends {
                let why = format!("after {} it still waits for {waits_for}", span(self.timeout.as_secs()));
                return Err(Failure::new(Exit::Failed, why).hint(&self.again));
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
    }
}

/// Does `work` until Ctrl-C, which ends only this command; `goes_on`: what does not end with it.
pub(super) async fn interruptible<T>(
    goes_on: &str,
    again: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => {
            let told = format!("no longer waiting; {goes_on}");
            eprint!("\r{}", hinted("", &hint::join(&told, again)));
            Err(Failure::silent(Exit::Interrupted))
        }
    }
}
