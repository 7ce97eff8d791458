//! The program as it was called: one run at a time, leftovers first, then the namespaces.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    os::unix::{
        fs::lchown,
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process, set_parent_process_death_signal};

use super::{KEEP, ROLE, World, cache, state};
use crate::process::wait_for;

pub(super) fn run(world: &World) -> Result<ExitCode> {
    ensure!(
        Path::new("/usr/share/puppetserver/puppetserver.jar").exists(),
        "Puppet Server is not installed\nhint: cargo xtask install"
    );
    if !geteuid().is_root() {
        // Made by the caller, so that it stays the caller's.
        fs::create_dir_all(cache()).with_context(|| format!("could not make {}", cache().display()))?;
        let error = Command::new("sudo").arg(own_path()?).args(std::env::args_os().skip(1)).exec();
        return Err(error).context("namespaces need root, and sudo could not be started");
    }
    // When cargo is killed, so is what it started.
    set_parent_process_death_signal(Some(Signal::KILL)).context("could not ask to end with the caller")?;

    let _lock = lock()?;
    remove_leftovers()?;
    let directory = state().join("stack");
    fs::create_dir_all(&directory).with_context(|| format!("could not make {}", directory.display()))?;

    let (ours, theirs) = UnixStream::pair().context("could not make a socket pair")?;
    let mut relay = if world.keep { Some(Relay::new(&directory.join("output"))?) } else { None };
    let mut child = unshare(theirs, relay.as_ref())?;
    let first = Identity::of(child.id()).context("the namespaces could not be made")?;
    fs::write(runner(), first.to_string()).context("could not note who runs the stack")?;

    if everything_stays(ours, relay.as_mut())? {
        return say_how_to_look_at_it(&child);
    }
    let status = child.wait().context("could not wait for the namespaces")?;
    fs::remove_file(runner()).context("could not forget who ran the stack")?;
    if directory.exists() {
        eprintln!("the files and logs are in {} until the next run", directory.display());
    }
    give_back_to_caller();
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Two runs share the directory, so the second waits.
fn lock() -> Result<File> {
    fs::create_dir_all(state()).with_context(|| format!("could not make {}", state().display()))?;
    let path = state().join("lock");
    let file = File::create(&path).with_context(|| format!("could not open {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("another stack is running from this directory; waiting for its end");
        file.lock().with_context(|| format!("could not lock {}", path.display()))?;
    }
    Ok(file)
}

/// Ends a stack that was kept, and removes the files of one that was kept or killed.
fn remove_leftovers() -> Result<()> {
    if let Ok(noted) = fs::read_to_string(runner())
        && let Some(left) =
            noted.split_whitespace().next().and_then(|pid| Identity::of(pid.parse().ok()?).ok())
        && left.to_string() == noted
    {
        eprintln!("ending the stack that was left running (pid {})", left.pid);
        let pid = i32::try_from(left.pid).ok().and_then(Pid::from_raw).context("a pid is not a number")?;
        kill_process(pid, Signal::KILL).context("could not end the stack that was left running")?;
        wait_for("the end of the stack that was left running", Duration::from_secs(30), || {
            let gone = Identity::of(left.pid).is_err_and(|_| true);
            Ok(gone.then_some(()))
        })?;
    }
    let directory = state().join("stack");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("could not remove {}", directory.display()))?;
    }
    Ok(())
}

/// Waits for one byte (everything stays) or the end of file (everything has ended).
fn everything_stays(mut control: UnixStream, mut relay: Option<&mut Relay>) -> Result<bool> {
    let pause = relay.is_some().then_some(Duration::from_millis(50));
    control.set_read_timeout(pause).context("could not wait for the namespaces")?;
    loop {
        let read = control.read(&mut [0]);
        if let Some(relay) = &mut relay {
            relay.pass_on()?;
        }
        match read {
            Ok(bytes) => return Ok(bytes == 1),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("could not wait for the namespaces"),
        }
    }
}

fn unshare(control: UnixStream, relay: Option<&Relay>) -> Result<Child> {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child=KILL"])
        .args(["--mount-proc", "--"])
        .arg(own_path()?)
        .args(std::env::args_os().skip(1))
        .env(ROLE, "init")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(control)));
    if let Some(relay) = relay {
        let output = relay.output.try_clone().context("could not share the output")?;
        command
            .stdout(output.try_clone().context("could not share the output")?)
            .stderr(output)
            .env(KEEP, "1");
    }
    command.spawn().context("could not start unshare")
}

fn say_how_to_look_at_it(child: &Child) -> Result<ExitCode> {
    let path = format!("/proc/{0}/task/{0}/children", child.id());
    let children = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let Some(init) = children.split_whitespace().next() else { bail!("the stack has ended already") };
    println!("look at it:  sudo nsenter --target {init} --mount --pid --net bash");
    println!("end it:      sudo kill -9 {init}    (or just run the demo or the tests again)");
    Ok(ExitCode::SUCCESS)
}

/// The output of what may stay: it goes to a file and from there to the caller, because a process that stays would
/// hold the caller's pipe open.
#[derive(Debug)]
struct Relay {
    output: File,
    reader: File,
}

impl Relay {
    fn new(path: &Path) -> Result<Self> {
        let making = || format!("could not make {}", path.display());
        let output = File::options().create(true).append(true).open(path).with_context(making)?;
        Ok(Self { output, reader: File::open(path).with_context(making)? })
    }

    /// Passes on what came since the last time.
    fn pass_on(&mut self) -> Result<()> {
        std::io::copy(&mut self.reader, &mut std::io::stdout()).context("could not pass on the output")?;
        Ok(())
    }
}

/// Below sudo, the files go back to the caller, so that `cargo clean` works.
fn give_back_to_caller() {
    let id = |name: &str| std::env::var(name).ok().and_then(|id| id.parse().ok());
    if let Some((user, group)) = id("SUDO_UID").zip(id("SUDO_GID")) {
        chown_all(&state(), user, group);
    }
}

fn chown_all(path: &Path, user: u32, group: u32) {
    if let Err(error) = lchown(path, Some(user), Some(group)) {
        eprintln!("could not give {} back: {error}", path.display());
    }
    if !path.is_symlink() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            chown_all(&entry.path(), user, group);
        }
    }
}

fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("could not find this program's own path")
}

fn runner() -> PathBuf {
    state().join("runner")
}

/// A process beyond doubt: pids are used again, a pid with its start time is not.
#[derive(Debug)]
struct Identity {
    pid: u32,
    started: u64,
}

impl Identity {
    /// The running process `pid`; an error when there is none.
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        ensure!(fields.first() != Some(&"Z"), "process {pid} has ended");
        let started = fields.get(19).and_then(|field| field.parse().ok());
        Ok(Self { pid, started: started.with_context(|| format!("{path} has too few fields"))? })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}
