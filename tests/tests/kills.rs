//! F1 and F2: kill -9 of the controller and of an agent at every step of a deploy, each step a case of its own.
//! F3: the same at every step of a rollout, of the balancer's agent too, behind a real HAProxy; of updates with real
//! apt and dpkg (F16).
//! F21: the same at every step of bringing Puppet's CRL to the nodes.
//! F22: the same at every step of a rotation of the mesh CA, and nodes that were off, or lost their key, meanwhile.
//! F11: clocks that are wrong, and clocks that jump.
//!
//! Real: both programs as processes, git, g10k, TLS. Stand-ins: Puppet Server and the `puppet` program. A program is
//! started with `BUNRAKU_CRASH_AT` and kills itself at that place (`bunraku_common::crash`); it is started again
//! without, and what always holds is checked: I1, I2, I4, I5, I6 and I7, by the links, by the stand-ins and by the
//! journal. A storm of kills at random instants follows no plan; `SEED=… cargo test --test kills storm` replays one.
//!
//! Nearly all of a case is waiting, so they run side by side, more of them than there are processors.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "kills/agent.rs"]
mod agent;
#[path = "kills/authority.rs"]
mod authority;
#[path = "kills/clock.rs"]
mod clock;
#[path = "kills/clocks.rs"]
mod clocks;
#[path = "kills/controller.rs"]
mod controller;
#[path = "kills/crl.rs"]
mod crl;
#[path = "kills/journal.rs"]
mod journal;
#[path = "kills/release.rs"]
mod release;
#[path = "kills/rollouts.rs"]
mod rollouts;
#[path = "kills/storm.rs"]
mod storm;
#[path = "kills/updates.rs"]
mod updates;
#[path = "kills/witness.rs"]
mod witness;
#[path = "kills/world.rs"]
mod world;

use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc, time::Instant};

use tokio::{sync::Semaphore, task::JoinSet};

/// Cases that run at once.
const SIDE_BY_SIDE: usize = 6;

/// A sentence, and the test of it.
struct Case {
    name: String,
    test: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Case {
    fn new(name: impl Into<String>, test: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { name: name.into(), test: Box::pin(test) }
    }
}

fn main() -> ExitCode {
    let cases = [
        release::cases(),
        authority::cases(),
        crl::cases(),
        storm::cases(),
        controller::cases(),
        agent::cases(),
        clocks::cases(),
        rollouts::cases(),
        updates::cases(),
    ];
    let cases: Vec<Case> = cases.into_iter().flatten().filter(|case| is_selected(&case.name)).collect();
    if std::env::args().any(|argument| argument == "--list") {
        cases.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let failed = runtime.block_on(run(cases));
    runtime.shutdown_background();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed:");
    failed.iter().for_each(|name| println!("    {name}"));
    ExitCode::FAILURE
}

/// Runs all cases; answers which failed.
async fn run(cases: Vec<Case>) -> Vec<String> {
    let (all, turns) = (cases.len(), Arc::new(Semaphore::new(SIDE_BY_SIDE)));
    let began = Instant::now();
    let mut running = JoinSet::new();
    for Case { name, test } in cases {
        let turns = turns.clone();
        running.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            let began = Instant::now();
            // In a task of its own, so that a panic is this case's failure.
            let passed = tokio::spawn(test).await.is_ok();
            let word = if passed { "ok" } else { "FAILED" };
            println!("test {name} ... {word} ({:.1} s)", began.elapsed().as_secs_f64());
            (name, passed)
        });
    }
    let done = running.join_all().await;
    let failed: Vec<String> = done.into_iter().filter(|(_, passed)| !passed).map(|(name, _)| name).collect();
    println!("{} of {all} passed in {:.1} s", all - failed.len(), began.elapsed().as_secs_f64());
    failed
}

/// As libtest selects: by any of the words on the command line, flags aside. One case that has the process for itself is
/// called by its whole name.
fn is_selected(name: &str) -> bool {
    if updates::is_apart() {
        return std::env::args().any(|argument| argument == name);
    }
    let mut words = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}
