//! Waits until a compiler is seen to be what it was asked to be. Ctrl-C ends only the waiting.

use std::time::{Duration, Instant};

use bunraku_common::hint;
use bunraku_proto::v1::{BalanceStatusRequest, CompilerBalance};

use super::super::{
    Exit, Failure, Output,
    client::{Control, is_passing},
    output::{count, hinted, span},
    progress::{ATTEMPTS, BETWEEN_ATTEMPTS, View},
    tokens::clock_time,
};
use crate::clock::wall_ms;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    Drained,
    InService,
}

/// What a look says about the goal.
enum Verdict {
    Reached,
    Wait,
    /// It will not come.
    Never(Failure),
}

impl Goal {
    fn name(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::InService => "in service",
        }
    }

    /// What becomes of it when nobody waits any more.
    fn without_us(self, compiler: &str) -> String {
        match self {
            Self::Drained => format!("{compiler} stays out of service"),
            Self::InService => format!("{compiler} still comes back into service as soon as it can"),
        }
    }

    pub(super) fn decided(self, compiler: &CompilerBalance) -> String {
        let name = &compiler.compiler;
        let told = match self {
            Self::Drained => format!("{name} is being drained for {}: {}", compiler.owner, compiler.reason),
            Self::InService => format!("{name} is being brought back into service"),
        };
        format!("{told}\nnext: bunraku lb status\n")
    }

    pub(super) fn reached(self, compiler: &CompilerBalance) -> String {
        let name = &compiler.compiler;
        match self {
            Self::InService => format!("{name} is in service at every balancer that carries it\n"),
            Self::Drained if compiler.sessions_known => format!(
                "{name} is drained: out of service at every balancer, and no session is left\nnext: bunraku lb enable \
                 {name}, when it may come back\n"
            ),
            Self::Drained => format!(
                "{name} is out of service at every balancer; whether sessions are left, a balancer cannot tell\nhint: on \
                 {name}: ss -tn state established '( sport = :8140 )'\nnext: bunraku lb enable {name}, when it may come \
                 back\n"
            ),
        }
    }
}

pub(super) async fn follow(
    client: Control,
    goal: Goal,
    decided: CompilerBalance,
    timeout: Duration,
    output: Output,
) -> Result<CompilerBalance, Failure> {
    let name = decided.compiler.clone();
    let mut view = View::new(output);
    let outcome = tokio::select! {
        outcome = watch(client, goal, decided, timeout, &mut view) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
    };
    view.clear();
    if outcome.as_ref().is_err_and(|failure| failure.exit() == Exit::Interrupted) {
        let told = format!("no longer waiting; {}", goal.without_us(&name));
        eprint!("\r{}", hinted("", &hint::join(&told, "bunraku lb status")));
    }
    outcome
}

async fn watch(
    mut client: Control,
    goal: Goal,
    mut now: CompilerBalance,
    timeout: Duration,
    view: &mut View,
) -> Result<CompilerBalance, Failure> {
    let name = now.compiler.clone();
    let (ends, ends_ms) = (Instant::now() + timeout, wall_ms() + timeout.as_millis() as u64);
    let mut lost = 0;
    loop {
        match verdict(goal, &now) {
            Verdict::Reached => return Ok(now),
            Verdict::Never(why) => return Err(why),
            Verdict::Wait => view.show(|| lines(goal, &now, ends_ms), || one_line(goal, &now, ends_ms)),
        }
        if Instant::now() >= ends {
            return Err(too_late(goal, &now, timeout));
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        match client.balancer_status(BalanceStatusRequest {}).await {
            Ok(reply) => {
                lost = 0;
                let all = reply.into_inner().compilers;
                now = all.into_iter().find(|compiler| compiler.compiler == name).unwrap_or_else(|| {
                    let state = "not carried".to_owned();
                    CompilerBalance { compiler: name.clone(), state, ..CompilerBalance::default() }
                });
            }
            // The controller restarts: its journal remembers what is wanted.
            Err(status) if lost < ATTEMPTS && is_passing(&status) => lost += 1,
            Err(status) if is_passing(&status) => {
                let why = format!("the controller does not answer: {}", status.message());
                return Err(Failure::new(Exit::Unknown, why).hint("bunraku lb status"));
            }
            Err(status) => return Err(status.into()),
        }
    }
}

/// Judges by what is wanted and what is seen, not by the order: it may be overruled meanwhile.
fn verdict(goal: Goal, now: &CompilerBalance) -> Verdict {
    let name = &now.compiler;
    let never = |exit, why: String, hint: String| Verdict::Never(Failure::new(exit, why).hint(hint));
    match (goal, now.wanted.as_str(), now.state.as_str()) {
        (_, _, "not carried") => {
            let hint = "name its servers under [balancer.compilers] in the configuration of the balancer's node agent";
            never(Exit::NotFound, format!("no balancer carries {name}"), hint.to_owned())
        }
        (Goal::Drained, "drained", "drained") => Verdict::Reached,
        (Goal::Drained, "drained", _) => Verdict::Wait,
        (Goal::Drained, ..) if now.undone.is_empty() => {
            never(Exit::Failed, format!("somebody has enabled {name} meanwhile"), "bunraku events".to_owned())
        }
        (Goal::Drained, ..) => never(
            Exit::Refused,
            format!("the drain of {name} was undone everywhere: {}", now.undone),
            "bunraku lb status".to_owned(),
        ),
        (Goal::InService, "drained", _) => never(
            Exit::Refused,
            format!("{name} is drained again by {}: {}", now.owner, now.reason),
            "bunraku lb status".to_owned(),
        ),
        (Goal::InService, _, "in service") => Verdict::Reached,
        (Goal::InService, _, "out of service") if now.waits_for.is_empty() => never(
            Exit::Failed,
            format!("somebody else has put out of service: {}", now.foreign.join(", ")),
            "bunraku enables only what it has drained: enable it at that balancer itself".to_owned(),
        ),
        (Goal::InService, ..) => Verdict::Wait,
    }
}

fn too_late(goal: Goal, now: &CompilerBalance, timeout: Duration) -> Failure {
    let (name, after) = (&now.compiler, span(timeout.as_secs()));
    let why = format!("{name} is not {} after {after}: it waits for {}", goal.name(), now.waits_for);
    let look = match goal {
        Goal::Drained => format!("it stays out of service; bunraku lb enable {name} brings it back"),
        Goal::InService => "bunraku lb status".to_owned(),
    };
    Failure::new(Exit::Failed, why).hint(look)
}

/// When the waiting ends, and what happens then.
fn end(goal: Goal, now: &CompilerBalance, ends_ms: u64) -> (u64, String) {
    if now.waits_until_ms != 0 && now.waits_until_ms < ends_ms {
        (now.waits_until_ms, now.then.clone())
    } else {
        (ends_ms, format!("this command ends, and {}", goal.without_us(&now.compiler)))
    }
}

fn waits_for(now: &CompilerBalance) -> &str {
    if now.waits_for.is_empty() { "the balancers" } else { &now.waits_for }
}

/// For a terminal, where they are replaced all the time.
pub(crate) fn lines(goal: Goal, now: &CompilerBalance, ends_ms: u64) -> Vec<String> {
    let (at, then) = end(goal, now, ends_ms);
    let left = span(at.saturating_sub(wall_ms()).div_ceil(1000));
    let sessions = match (goal, now.sessions_known) {
        (Goal::InService, _) => String::new(),
        (Goal::Drained, true) => format!(", {}", count(now.sessions, "session")),
        (Goal::Drained, false) => format!(", {} or more", count(now.sessions, "session")),
    };
    vec![
        format!("{}: {}{sessions}", now.compiler, now.state),
        format!("  waits for {}, at most {left}; then {then}", waits_for(now)),
    ]
}

/// For a log: printed when it changes.
pub(crate) fn one_line(goal: Goal, now: &CompilerBalance, ends_ms: u64) -> String {
    let (at, then) = end(goal, now, ends_ms);
    // An end that is computed anew each time may differ by a moment.
    let at = clock_time(at.saturating_add(500) / 1000);
    format!("{}: {}; waits for {} until {at}; then {then}", now.compiler, now.state, waits_for(now))
}
