//! Figures that no rival has: calls of fsync, the time of a snapshot, memory and processor time at rest.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bunraku_builder::{Exclude, ObjectStore, take};
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::{Bench, figures::shown, machine};
use crate::process::{Service, wait_for};

/// All of them, for one environment; the agents are watched at rest for so long.
pub(super) fn figures(bench: &mut Bench, environment: &str, rest: Duration) -> Result<()> {
    snapshot(bench, environment)?;
    fsyncs(bench, environment)?;
    background(bench, environment)?;
    idle(bench, rest)?;
    memory(bench, "after deploys of one environment")
}

/// Resident memory of release programs after everything that went before.
pub(super) fn memory(bench: &mut Bench, when: &str) -> Result<()> {
    bench.bunraku.wait_until_at_rest()?;
    let nodes = bench.bunraku.nodes();
    let agent = bench.bunraku.agent()?.resident_memory()?;
    let controller = bench.bunraku.controller().resident_memory()?;
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    bench.figures.fact(format!("resident memory of an agent at rest, {when}"), mb(agent), "under 15 MB");
    bench.figures.fact(
        format!("resident memory of the controller, {nodes} nodes, {when}"),
        mb(controller),
        "",
    );
    Ok(())
}

/// A whole snapshot of a built tree, by the builder's own code; file contents are in the page cache both times.
fn snapshot(bench: &mut Bench, environment: &str) -> Result<()> {
    let tree = bench.rivals.built(environment);
    let place = bench.disk.path("snapshot");
    let store = ObjectStore::open(&place.join("objects")).context("could not open an object store")?;
    let exclude = Exclude::parse(&[]).context("no pattern cannot be wrong")?;
    let timed = |cache: &Path| -> Result<Duration> {
        machine::sync();
        let began = Instant::now();
        take(&tree, cache, &exclude, &store, &CancellationToken::new())
            .context("could not take a snapshot")?;
        Ok(began.elapsed())
    };
    let first = timed(&place.join("cache"))?;
    let without = timed(&place.join("no-cache"))?;
    let with = timed(&place.join("cache"))?;
    let files = bench.site.expected(environment)?.len();
    for (how, took) in [
        ("into an empty store", first),
        ("without the stat cache, every object known", without),
        ("with the stat cache", with),
    ] {
        bench.figures.fact(format!("snapshot of {files} files, {how}"), shown(took), "");
    }
    Ok(())
}

/// Counted by strace in a run that is not timed: on a real disk each of them costs milliseconds.
fn fsyncs(bench: &mut Bench, environment: &str) -> Result<()> {
    let what = "calls of fsync, fdatasync and syncfs for one file:";
    if Command::new("strace").arg("-V").output().is_err() {
        bench.figures.fact(format!("{what} controller, agent"), "not counted: strace is not installed", "");
        return Ok(());
    }
    bench.site.change_one_file(environment)?;
    bench.bunraku.wait_until_at_rest()?;
    let controller =
        Counter::attach(bench.bunraku.controller().pid(), &bench.disk.path("controller.strace"))?;
    let agent = Counter::attach(bench.bunraku.agent()?.pid(), &bench.disk.path("agent.strace"))?;
    bench.bunraku.deploy(&[environment.to_owned()])?;
    let (controller, agent_until_proven) = (controller.count()?, agent.count()?);
    bench.figures.fact(format!("{what} the controller, build included"), controller.to_string(), "");
    bench.figures.fact(format!("{what} an agent, until proven"), agent_until_proven.to_string(), "");
    Ok(())
}

#[derive(Debug)]
struct Counter {
    strace: Service,
    output: std::path::PathBuf,
}

impl Counter {
    fn attach(pid: u32, output: &Path) -> Result<Self> {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs,sync", "-p", &pid.to_string(), "-o"])
            .arg(output);
        let strace = Service::spawn("strace", &mut command, &output.with_extension("log"))?;
        wait_for("strace to attach", Duration::from_secs(10), || {
            // Every thread is attached on its own.
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("could not list threads")?;
            let traced = tasks.flatten().all(|task| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|by| by.trim() != "0"))
            });
            Ok(traced.then_some(()))
        })?;
        Ok(Self { strace, output: output.to_owned() })
    }

    fn count(mut self) -> Result<usize> {
        self.strace.signal(Signal::INT)?;
        wait_for("strace to end", Duration::from_secs(10), || self.strace.ended())?;
        let text = fs::read_to_string(&self.output)
            .with_context(|| format!("could not read {}", self.output.display()))?;
        // A call that was interrupted in the listing is resumed on a second line.
        Ok(text.lines().filter(|line| line.contains("sync(") || line.contains("syncfs(")).count())
    }
}

/// What the agents do after a deploy, when nobody waits for it.
fn background(bench: &mut Bench, environment: &str) -> Result<()> {
    bench.site.change_one_file(environment)?;
    bench.bunraku.wait_until_at_rest()?;
    bench.bunraku.deploy(&[environment.to_owned()])?;
    let before = bench.bunraku.agents_cpu()?;
    bench.bunraku.wait_until_at_rest()?;
    let each = bench.bunraku.agents_cpu()?.saturating_sub(before) / bench.bunraku.nodes() as u32;
    bench.figures.fact(
        "processor time of an agent after a deploy of one file (the next spare)",
        shown(each),
        "",
    );
    Ok(())
}

fn idle(bench: &mut Bench, rest: Duration) -> Result<()> {
    bench.bunraku.wait_until_at_rest()?;
    let before = bench.bunraku.agents_cpu()?;
    std::thread::sleep(rest);
    let used = bench.bunraku.agents_cpu()?.saturating_sub(before) / bench.bunraku.nodes() as u32;
    let share = used.as_secs_f64() / rest.as_secs_f64() * 100.0;
    let what = format!("processor time of an agent at rest, mean over {} s", rest.as_secs());
    bench.figures.fact(what, format!("{share:.2} % of a core"), "under 0.1 %");
    Ok(())
}
