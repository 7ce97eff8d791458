//! Rolling restarts and reloads of real Puppet Servers behind a real HAProxy, under load: no request may fail, and the
//! compilers in service never fall below the floor. The first test is the control: the same load, without a drain, fails.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use bunraku_tests::{
    installed::Bunraku,
    load::{Counted, allow_slow_catalogs, under_load},
    namespace,
    process::wait_for,
    progress::Progress,
    stack::{self, Options, PuppetServer, Setup, Stack},
    suite::{self, Test},
};

const STARTS_WITHIN: Duration = Duration::from_secs(240);
/// So many that one is under way on every compiler whenever its turn comes.
const SLOW: usize = 4;
const TESTS: &[Test<Site>] = &[
    ("a_compiler_that_stops_without_a_drain_fails_requests_under_this_load", stopped_without_a_drain),
    ("i3_a_rolling_restart_under_load_fails_no_request_and_keeps_the_floor", restarted),
    ("i3_a_rolling_reload_under_load_fails_no_request_and_keeps_the_floor", reloaded),
];

struct Site {
    stack: Stack,
    bunraku: Bunraku,
    progress: Progress,
}

fn main() -> ExitCode {
    if !suite::selects_any(TESTS) {
        return ExitCode::SUCCESS;
    }
    namespace::run(&stack::world(false), |directory| {
        let progress = Progress::default();
        let options = Options { setup: Setup::Prepared, interpreters: 3, ..Options::default() };
        let stack = Stack::up(directory, &namespace::cache(), &options, &progress)?;
        allow_slow_catalogs(&stack, "production")?;
        stack.place_by_hand("production")?;
        let bunraku = Bunraku::install(&stack, "r10k")?;
        let mut site = Site { stack, bunraku, progress };
        suite::run(&mut site, TESTS)?;
        site.bunraku.stop()?;
        site.stack.stop()
    })
}

fn stopped_without_a_drain(site: &mut Site) -> Result<()> {
    // Not through the stack, which the load borrows.
    let pid = site.stack.compiler("c1")?.service()?.pid().to_string();
    let (counted, ()) = under_load(&site.stack, SLOW, |load| {
        load.wait_until_all_are_busy()?;
        let stopped = std::process::Command::new("kill").arg(&pid).status()?;
        ensure!(stopped.success(), "could not stop c1");
        wait_for("HAProxy to see that c1 is gone", Duration::from_secs(30), || {
            Ok(site.stack.balancer.server("c1")?.status.starts_with("DOWN").then_some(()))
        })
    })?;
    counted.report("stopped without a drain", &site.progress);
    let c1 = site.stack.compiler("c1")?;
    drop(c1.stop());
    c1.start()?;
    c1.wait_until_ready(STARTS_WITHIN, &Progress::default())?;
    site.stack.balancer.wait_until_all_up(Duration::from_secs(60))?;
    ensure!(!counted.failed.is_empty(), "nobody noticed: the other tests prove nothing");
    Ok(())
}

fn restarted(site: &mut Site) -> Result<()> {
    join(site)?;
    let before = pids(site)?;
    let counted = rolled(site, "restart", "health")?;
    let after = pids(site)?;
    ensure!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    counted.ensure_nobody_noticed("rolling restart", &site.stack, &site.progress)
}

fn reloaded(site: &mut Site) -> Result<()> {
    join(site)?;
    let before = pids(site)?;
    let counted = rolled(site, "reload", "siblings")?;
    let shown = site.bunraku.tell(&["rollout", "show", "2"])?.out;
    site.progress.say(shown.trim());
    let passed = shown.lines().filter(|line| line.starts_with("verdict on ") && line.contains(": pass: "));
    ensure!(passed.count() == 2, "each was compared with the other under this load: {shown}");
    ensure!(before == pids(site)?, "a reload is no restart");
    counted.ensure_nobody_noticed("rolling reload", &site.stack, &site.progress)
}

/// The controller, the agents and the first deploy; once.
fn join(site: &mut Site) -> Result<()> {
    static JOINED: AtomicBool = AtomicBool::new(false);
    if JOINED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    site.bunraku.start_controller()?;
    for compiler in &mut site.stack.compilers {
        site.bunraku.configure_compiler(compiler)?;
        site.bunraku.grant_rollouts(compiler)?;
        site.bunraku.start_agent(compiler.name())?;
    }
    let lb = site.bunraku.join_balancer(&site.stack)?;
    let nodes = site.stack.compilers.iter().map(PuppetServer::certname).chain([lb]);
    site.bunraku.wait_for_nodes(&nodes.collect::<Vec<_>>())?;
    site.bunraku.tell(&["deploy", "production"])?;
    site.bunraku.wait_until_proven("production").map(drop)
}

fn rolled(site: &Site, action: &str, verdict: &str) -> Result<Counted> {
    let (counted, said) = under_load(&site.stack, SLOW, |load| {
        load.wait_until_all_are_busy()?;
        site.bunraku.tell(&["rollout", "start", action, "--yes", "--bake", "2s", "--verdict", verdict])
    })?;
    site.progress.say(said.out.trim());
    Ok(counted)
}

fn pids(site: &Site) -> Result<Vec<u32>> {
    site.stack.compilers.iter().map(PuppetServer::handed_over_pid).collect()
}
