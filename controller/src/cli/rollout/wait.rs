//! Looks on while a rollout goes on. Ctrl-C ends only the looking.

use bunraku_common::hint;
use bunraku_proto::v1::{RolloutInfo, ShowRolloutRequest};

use super::{
    super::{
        Exit, Failure, Output,
        client::{Control, is_passing},
        output::hinted,
        progress::{ATTEMPTS, BETWEEN_ATTEMPTS, View},
    },
    shown::{lines, one_line},
};

/// When the looking ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Ended,
    /// Also when a failed compiler waits for a decision and nothing else goes on: that may take days.
    EndedOrHalted,
}

impl Until {
    fn is_reached(self, now: &RolloutInfo) -> bool {
        let ended = matches!(now.phase.as_str(), "done" | "incomplete" | "aborted");
        ended || (self == Self::EndedOrHalted && has_halted(now))
    }
}

/// Paused over a failed turn, and no turn goes on.
fn has_halted(now: &RolloutInfo) -> bool {
    let at_rest = |phase: &str| matches!(phase, "waiting" | "done" | "failed" | "skipped");
    now.phase == "paused"
        && now.turns.iter().any(|turn| turn.phase == "failed")
        && now.turns.iter().all(|turn| at_rest(&turn.phase))
}

pub(super) async fn follow(
    client: Control,
    rollout: RolloutInfo,
    until: Until,
    output: Output,
) -> Result<RolloutInfo, Failure> {
    let id = rollout.id;
    let mut view = View::new(output);
    let outcome = tokio::select! {
        outcome = watch(client, rollout, until, &mut view) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
    };
    view.clear();
    if outcome.as_ref().is_err_and(|failure| failure.exit() == Exit::Interrupted) {
        let told = format!("no longer looking; rollout {id} goes on");
        let look = format!("bunraku rollout show {id} --watch; to end it: bunraku rollout abort {id}");
        eprint!("\r{}", hinted("", &hint::join(&told, &look)));
    }
    outcome
}

async fn watch(
    mut client: Control,
    mut now: RolloutInfo,
    until: Until,
    view: &mut View,
) -> Result<RolloutInfo, Failure> {
    let mut lost = 0;
    loop {
        view.show(|| lines(&now), || one_line(&now));
        if until.is_reached(&now) {
            return Ok(now);
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        match client.show_rollout(ShowRolloutRequest { id: now.id }).await {
            Ok(reply) => (lost, now) = (0, reply.into_inner()),
            // The controller restarts: its journal remembers the rollout.
            Err(status) if lost < ATTEMPTS && is_passing(&status) => lost += 1,
            Err(status) if is_passing(&status) => {
                let why = format!("the controller does not answer: {}", status.message());
                let look = format!("bunraku rollout show {}", now.id);
                return Err(Failure::new(Exit::Unknown, why).hint(look));
            }
            Err(status) => return Err(status.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bunraku_proto::v1::TurnInfo;

    use super::*;

    fn rollout(phase: &str, turns: &[&str]) -> RolloutInfo {
        let turn = |phase: &&str| TurnInfo { phase: (*phase).to_owned(), ..TurnInfo::default() };
        RolloutInfo { phase: phase.into(), turns: turns.iter().map(turn).collect(), ..RolloutInfo::default() }
    }

    #[test]
    fn a_command_waits_for_people_only_where_they_said_so() {
        let halted = rollout("paused", &["done", "failed", "waiting"]);
        assert!(Until::EndedOrHalted.is_reached(&halted) && !Until::Ended.is_reached(&halted));
        for goes_on in [
            rollout("paused", &["failed", "baking"]),
            rollout("paused", &["done", "waiting"]),
            rollout("running", &["failed", "waiting"]),
        ] {
            assert!(!Until::EndedOrHalted.is_reached(&goes_on), "{goes_on:?}");
        }
        for phase in ["done", "incomplete", "aborted"] {
            assert!(Until::Ended.is_reached(&rollout(phase, &["failed"])));
        }
    }
}
