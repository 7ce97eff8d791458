//! Which steps are under way, and when one that ended without an answer may be tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bunraku_common::NodeName;
use bunraku_engine::StepId;
use bunraku_proto::backoff;
use tokio::task::AbortHandle;

#[derive(Debug, Default)]
pub(crate) struct Flight {
    under_way: BTreeMap<StepId, Task>,
    /// How many have been started.
    started: u64,
    /// Ended, but (as the state says) still to do: unknown outcomes, and commits that are not proven yet.
    again: BTreeMap<StepId, Again>,
}

/// Tells one flight of a step from another: the end of one that was aborted may be told when the step is under way
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlightId(u64);

#[derive(Debug)]
struct Task {
    id: FlightId,
    handle: AbortHandle,
}

#[derive(Debug)]
struct Again {
    attempt: u32,
    not_before: Instant,
}

impl Flight {
    pub(crate) fn may_start(&self, step: &StepId) -> bool {
        !self.under_way.contains_key(step)
            && self.again.get(step).is_none_or(|again| again.not_before <= Instant::now())
    }

    /// Starts a step's task, which knows its flight's number.
    pub(crate) fn start(&mut self, step: StepId, task: impl FnOnce(FlightId) -> AbortHandle) {
        self.started += 1;
        let id = FlightId(self.started);
        self.under_way.insert(step, Task { id, handle: task(id) });
    }

    /// The step's task has ended. Whether it is done is for the state to say; if it is asked for again, it waits.
    pub(crate) fn landed(&mut self, step: &StepId, id: FlightId, answered: bool) {
        if self.under_way.get(step).is_none_or(|task| task.id != id) {
            return;
        }
        self.under_way.remove(step);
        let attempt = self.again.get(step).map_or(0, |again| again.attempt + 1);
        // An answer that left something owed (Puppet Server starting) is asked again soon, and evenly.
        let attempt = if answered { attempt.min(3) } else { attempt };
        let wait = backoff::wait(attempt, answered.then_some(ASK_AGAIN), random());
        self.again.insert(step.clone(), Again { attempt, not_before: Instant::now() + wait });
    }

    /// The node came back: what waited for it need not wait any longer.
    pub(crate) fn retry_now(&mut self, node: &NodeName) {
        self.again.retain(|step, _| node_of(step) != Some(node));
    }

    /// Ends what the state no longer asks for. A late order does no harm: nodes refuse older generations.
    pub(crate) fn abort_others(&mut self, wanted: &BTreeSet<StepId>) {
        self.under_way.retain(|step, task| {
            wanted.contains(step) || {
                task.handle.abort();
                false
            }
        });
        self.again.retain(|step, _| wanted.contains(step));
    }

    pub(crate) fn abort_all(&mut self) {
        self.abort_others(&BTreeSet::new());
    }

    pub(crate) fn until_next_retry(&self) -> Option<Duration> {
        let waiting = self.again.iter().filter(|(step, _)| !self.under_way.contains_key(step));
        let next = waiting.map(|(_, again)| again.not_before).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }
}

/// Least pause between two questions about something that is owed.
const ASK_AGAIN: Duration = Duration::from_millis(100);

fn node_of(step: &StepId) -> Option<&NodeName> {
    match step {
        StepId::Build(_)
        | StepId::MakeCanary
        | StepId::RevokeCanary(_)
        | StepId::ForgetCanary(_)
        | StepId::SignCertificate(..) => None,
        StepId::Stage(_, node)
        | StepId::Commit(_, node, _)
        | StepId::Discard(_, node, _)
        | StepId::Bring(_, node, _)
        | StepId::Retain(_, node, _)
        | StepId::Balance(node, ..)
        | StepId::Prepare(node, _)
        | StepId::Settle(node, _)
        | StepId::Act(node, _)
        | StepId::Verify(node, _)
        | StepId::InstallCrl(node, _)
        | StepId::ProveCrl(node, _)
        | StepId::RequestCertificate(node, _)
        | StepId::StageCertificate(node, _) => Some(node),
    }
}

fn random() -> u64 {
    getrandom::u64().expect("the kernel gives random numbers")
}

#[cfg(test)]
mod tests {
    use bunraku_engine::DeployId;

    use super::*;

    fn step() -> StepId {
        StepId::Stage(DeployId(1), NodeName::parse("c1").unwrap())
    }

    /// Starts the step with a task that does not end by itself.
    fn start(flight: &mut Flight) -> (FlightId, tokio::task::JoinHandle<()>) {
        let task = tokio::spawn(std::future::pending());
        let mut number = None;
        flight.start(step(), |id| {
            number = Some(id);
            task.abort_handle()
        });
        (number.unwrap(), task)
    }

    #[tokio::test]
    async fn a_step_without_an_answer_waits_and_a_node_that_comes_back_ends_the_wait() {
        let mut flight = Flight::default();
        for _ in 0..20 {
            let (id, _task) = start(&mut flight);
            flight.landed(&step(), id, false);
        }
        assert!(flight.until_next_retry().is_some());
        flight.retry_now(&NodeName::parse("c1").unwrap());
        assert!(flight.may_start(&step()));
    }

    #[tokio::test]
    async fn the_end_of_an_aborted_flight_does_not_end_the_newer_one_of_the_same_step() {
        let mut flight = Flight::default();
        let (aborted, _task) = start(&mut flight);
        flight.abort_others(&BTreeSet::new());
        let (_, task) = start(&mut flight);
        flight.landed(&step(), aborted, true);
        flight.retry_now(&NodeName::parse("c1").unwrap());
        assert!(!flight.may_start(&step()), "the order would be sent twice");
        flight.abort_all();
        assert!(task.await.unwrap_err().is_cancelled(), "the newer task can still be ended");
    }

    #[tokio::test]
    async fn what_is_no_longer_wanted_is_forgotten() {
        let mut flight = Flight::default();
        let (id, _task) = start(&mut flight);
        flight.landed(&step(), id, true);
        assert!(!flight.may_start(&step()), "the pause between two questions");
        flight.abort_others(&BTreeSet::new());
        assert!(flight.may_start(&step()));
    }
}
