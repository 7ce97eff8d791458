//! Nothing is left behind, however a run in private namespaces ends.
//!
//! The tests start this same program again with the word `hold`: that one enters the namespaces, starts a process,
//! says `ready` and waits.

use std::{
    fs,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{
    namespace,
    process::{Service, wait_for},
    stack,
    suite::{self, Test},
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How the background process is found again: no other sleeps that long.
const NAP: &str = "86399.75";

const TESTS: &[Test<()>] = &[
    ("ctrl_c_ends_everything_and_removes_the_files", interrupted),
    ("kill_9_of_the_program_ends_everything_and_removes_the_files", killed),
    ("after_kill_9_of_the_namespace_the_next_run_removes_the_files", namespace_killed),
    ("what_was_kept_runs_on_until_the_next_run", kept),
    ("a_failure_is_told_by_the_exit_status_and_leaves_the_logs", failed),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let asked = |word: &str| arguments.get(1).is_some_and(|argument| argument == word);
    if asked("hold") || asked("keep") || asked("fail") {
        return namespace::run(&stack::world(asked("keep")), |directory| {
            inside(directory, asked("hold"), asked("fail"))
        });
    }
    if !suite::selects_any(TESTS) {
        return ExitCode::SUCCESS;
    }
    let result = suite::run(&mut (), TESTS);
    result.map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn inside(directory: &Path, hold: bool, fail: bool) -> Result<()> {
    fs::write(directory.join("file"), "")?;
    let mut nap = Service::spawn("nap", Command::new("sleep").arg(NAP), &directory.join("log"))?;
    println!("ready");
    ensure!(!fail, "this run was asked to fail");
    if hold {
        wait_for("the end", Duration::from_secs(600), || nap.ended())?;
    }
    nap.leave_running();
    Ok(())
}

fn interrupted(_: &mut ()) -> Result<()> {
    let mut run = start("hold")?;
    kill_process_group(Pid::from_child(&run), Signal::INT)?;
    run.wait()?;
    nothing_is_left()
}

fn killed(_: &mut ()) -> Result<()> {
    let mut run = start("hold")?;
    run.kill()?;
    run.wait()?;
    nothing_is_left()
}

fn namespace_killed(_: &mut ()) -> Result<()> {
    let mut run = start("hold")?;
    let runner = fs::read_to_string(state("runner"))?;
    let pid = runner.split(' ').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    kill_process(pid.context("the runner is not noted")?, Signal::KILL)?;
    ensure!(!run.wait()?.success(), "a killed run succeeded");
    wait_for("the end of the processes", Duration::from_secs(10), || Ok((naps()? == 0).then_some(())))?;
    ensure!(state("stack").exists(), "the test must leave files to be removed");
    killed(&mut ())
}

fn kept(_: &mut ()) -> Result<()> {
    let mut run = start("keep")?;
    let mut told = String::new();
    // To the end: what stays must not hold the pipe.
    run.stdout.take().context("no standard output")?.read_to_string(&mut told)?;
    ensure!(told.contains("nsenter"), "it does not say how to look at it: {told}");
    ensure!(run.wait()?.success(), "a run that keeps everything failed");
    ensure!(naps()? == 1, "{} processes run on", naps()?);
    ensure!(state("stack/file").exists(), "the files are gone");
    interrupted(&mut ())
}

fn failed(_: &mut ()) -> Result<()> {
    let mut run = start("fail")?;
    ensure!(run.wait()?.code() == Some(1), "a failure was not told");
    ensure!(naps()? == 0, "a process outlived its namespace");
    ensure!(state("stack/log").exists(), "the log is gone");
    killed(&mut ())
}

/// Starts this program in a process group of its own, and waits until it is inside.
fn start(word: &str) -> Result<Child> {
    // Whoever runs the tests in the background lets them ignore Ctrl-C, and children inherit that.
    let mut run = Command::new("env");
    run.arg("--default-signal=INT").arg(std::env::current_exe()?).arg(word);
    let mut run = run.process_group(0).stdout(Stdio::piped()).spawn()?;
    // Byte by byte: what it says next is for the test, and would be lost in a buffer.
    let out = run.stdout.as_mut().context("no standard output")?;
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line != b"ready" {
        ensure!(out.read(&mut byte)? == 1, "the run ended before it was ready");
        match byte {
            [b'\n'] => line.clear(),
            [other] => line.push(other),
        }
    }
    Ok(run)
}

fn nothing_is_left() -> Result<()> {
    wait_for("the end of the processes", Duration::from_secs(10), || Ok((naps()? == 0).then_some(())))?;
    wait_for("the end of the files", Duration::from_secs(10), || Ok((!state("stack").exists()).then_some(())))
}

/// How many of our background processes there are on this machine.
fn naps() -> Result<usize> {
    let processes = fs::read_dir("/proc")?.flatten();
    let command_lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    Ok(command_lines.filter(|line| line.windows(NAP.len()).any(|part| part == NAP.as_bytes())).count())
}

fn state(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bunraku").join(below)
}
