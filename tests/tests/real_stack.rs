//! What the harness itself must guarantee: a real stack that compiles, drains, reloads and cleans up.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{
    namespace,
    process::wait_for,
    progress::Progress,
    stack::{self, BALANCER_NAME, Options, SetState, Setup, Stack},
    suite::{self, Test},
};
use serde_json::Value;

const TESTS: &[Test<Stack>] = &[
    ("both_compilers_compile_the_environment_that_was_placed", both_compile),
    ("an_environment_is_cached_until_the_compilers_own_certificate_flushes_it", cached_until_flushed),
    ("a_drained_compiler_gets_no_new_sessions_and_agents_go_on", drained),
    ("a_real_agent_applies_the_catalog_through_the_balancer", agent_applies),
    ("a_killed_compiler_is_taken_out_and_comes_back", killed),
    ("a_reload_ends_ready", reloaded),
    ("an_agent_that_is_not_prepared_gets_a_certificate", new_agent),
];

fn main() -> ExitCode {
    if !suite::selects_any(TESTS) {
        return ExitCode::SUCCESS;
    }
    namespace::run(&stack::world(false), |directory| {
        let progress = Progress::default();
        let options = Options { setup: Setup::Prepared, ..Options::default() };
        let mut stack = Stack::up(directory, &namespace::cache(), &options, &progress)?;
        stack.place_by_hand("production")?;
        // They cached the empty environment that Puppet Server makes at its first start.
        flush(&stack)?;
        suite::run(&mut stack, TESTS)?;
        progress.timed("everything is stopped", || stack.stop())
    })
}

fn both_compile(stack: &mut Stack) -> Result<()> {
    for compiler in ["c1.stack.test", "c2.stack.test"] {
        let text = motd(&stack.catalog(compiler, "a1", "production")?)?;
        ensure!(text.contains("module=v1"), "{compiler} compiled: {text}");
        ensure!(text.contains(&format!("compiler={compiler}")), "{compiler} compiled: {text}");
    }
    Ok(())
}

fn cached_until_flushed(stack: &mut Stack) -> Result<()> {
    stack.repository.set_message("production", "changed")?;
    stack.place_by_hand("production")?;
    let c1 = "c1.stack.test";
    stack.repository.set_motd_module("v2")?;
    stack.place_by_hand("production")?;
    let cached = motd(&stack.catalog(c1, "a1", "production")?)?;
    ensure!(cached.contains("module=v1"), "the manifest was read again: {cached}");

    flush(stack)?;
    let flushed = motd(&stack.catalog(c1, "a1", "production")?)?;
    ensure!(flushed.contains("module=v2 message=changed"), "after the flush: {flushed}");
    Ok(())
}

fn drained(stack: &mut Stack) -> Result<()> {
    stack.balancer.set_state("c1", SetState::Drain)?;
    let result = only_c2_compiles(stack);
    stack.balancer.set_state("c1", SetState::Ready)?;
    stack.balancer.wait_until_all_up(Duration::from_secs(30))?;
    result
}

fn only_c2_compiles(stack: &Stack) -> Result<()> {
    let before = stack.balancer.server("c1")?;
    ensure!(before.status.starts_with("DRAIN"), "c1 is {}", before.status);
    for _ in 0..4 {
        let text = motd(&stack.catalog(BALANCER_NAME, "a1", "production")?)?;
        ensure!(text.contains("compiler=c2.stack.test"), "a drained compiler compiled: {text}");
    }
    ensure!(stack.balancer.server("c1")?.total_sessions == before.total_sessions, "c1 got a session");
    Ok(())
}

fn agent_applies(stack: &mut Stack) -> Result<()> {
    let run = stack.agent_run("a1")?;
    ensure!(run.exit == 2, "the first run ended with {}:\n{}", run.exit, run.output);
    let banner = std::fs::read_to_string(stack.applied().join("a1.stack.test-banner.txt"))?;
    ensure!(banner.starts_with("banner v"), "the agent wrote: {banner}");
    let again = stack.agent_run("a1")?;
    // Another compiler may answer, and its name is in the text: 0 and 2 are both right.
    ensure!(again.succeeded(), "the second run ended with {}:\n{}", again.exit, again.output);
    Ok(())
}

fn killed(stack: &mut Stack) -> Result<()> {
    stack.compiler("c2")?.kill()?;
    wait_for("c2 to be DOWN", Duration::from_secs(30), || {
        Ok(stack.balancer.server("c2")?.status.starts_with("DOWN").then_some(()))
    })?;
    stack.catalog(BALANCER_NAME, "a1", "production")?;
    let c2 = stack.compiler("c2")?;
    c2.start()?;
    c2.wait_until_ready(Duration::from_secs(240), &Progress::default())?;
    stack.balancer.wait_until_all_up(Duration::from_secs(30))?;
    stack.catalog("c2.stack.test", "a1", "production").map(drop)
}

fn reloaded(stack: &mut Stack) -> Result<()> {
    let pid = stack.compiler("c1")?.service()?.pid();
    stack.compiler("c1")?.reload(Duration::from_secs(120))?;
    ensure!(stack.compiler("c1")?.service()?.pid() == pid, "a reload started another process");
    stack.catalog("c1.stack.test", "a1", "production")?;
    stack.balancer.wait_until_all_up(Duration::from_secs(30))
}

fn new_agent(stack: &mut Stack) -> Result<()> {
    stack.catalog(BALANCER_NAME, "a3", "production").map(drop)
}

fn flush(stack: &Stack) -> Result<()> {
    stack.compilers.iter().try_for_each(|compiler| compiler.flush())
}

/// The text of the motd module in a catalog.
fn motd(catalog: &Value) -> Result<String> {
    let resources = catalog["resources"].as_array().context("a catalog without resources")?;
    let titled =
        |resource: &&Value| resource["title"].as_str().is_some_and(|title| title.ends_with("-motd.txt"));
    let resource = resources.iter().find(titled).context("a catalog without the motd")?;
    Ok(resource["parameters"]["content"].as_str().context("a motd without content")?.to_owned())
}
