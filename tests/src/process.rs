//! Programs that the stack runs in the background, and programs that it runs to their end.
//!
//! A [`Service`] is known by its child handle, never by name; dropping it kills it and waits for its end.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Linux shows processor time in hundredths of a second, whatever its own clock does (USER_HZ).
const MILLIS_PER_TICK: u64 = 10;

/// A background process with a log file.
#[derive(Debug)]
pub struct Service {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command`, with both outputs appended to `log`, in a process group of its own: Ctrl-C is for the
    /// program that started it.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("could not open {}", log.display()))?;
        let err = out.try_clone().with_context(|| format!("could not share {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its outputs go.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it still runs; its end is an error that shows the last lines of its log.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} ended with {status}; its log ends with:\n{}", self.name, tail(&self.log, 15));
        }
        Ok(())
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("could not ask whether {} runs", self.name))
    }

    /// Sends a signal: `HUP` to reload, `STOP` and `CONT` to pause and go on.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal)
            .with_context(|| format!("could not signal {} (pid {})", self.name, self.pid()))
    }

    /// Asks it to end (`TERM`) and waits; after `within` it is killed, which is an error.
    pub fn stop(mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let name = self.name.clone();
        wait_for(&format!("the end of {name}"), within, || self.ended())
    }

    /// Kills it (`KILL`) and waits for its end.
    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    /// Lets it run on when this handle is gone.
    pub fn leave_running(self) {
        std::mem::forget(self);
    }

    /// Resident memory now, in bytes.
    pub fn resident_memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("{path} names no VmRSS"))? * 1024)
    }

    /// Processor time used so far (user and system), in steps of 10 ms.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        // The program's name, in parentheses, may hold spaces: fields are counted from behind it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|ticks| ticks.parse::<u64>().ok());
        let (user, system) =
            ticks(14).zip(ticks(15)).with_context(|| format!("{path} has too few fields"))?;
        Ok(Duration::from_millis((user + system) * MILLIS_PER_TICK))
    }

    fn end(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("could not kill {}", self.name))?;
        self.child.wait().with_context(|| format!("could not wait for the end of {}", self.name))?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// Asks again and again until there is an answer, or `within` has passed.
pub fn wait_for<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "waited {:.0} s in vain for {what}", within.as_secs_f64());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a program to its end and returns its standard output; failure shows both outputs.
pub fn output_of(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("could not run {shown}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown} ended with {}:\n{stdout}{stderr}", output.status);
    Ok(stdout)
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(log: &Path) -> Service {
        Service::spawn("sleeper", Command::new("sleep").arg("600"), log).unwrap()
    }

    #[test]
    fn a_dropped_service_leaves_no_process_behind() {
        let service = sleeper(Path::new("/dev/null"));
        let proc = PathBuf::from(format!("/proc/{}", service.pid()));
        assert!(proc.exists());
        drop(service);
        assert!(!proc.exists());
    }

    #[test]
    fn memory_and_processor_time_of_a_service_can_be_read() {
        let service = sleeper(Path::new("/dev/null"));
        assert!(service.resident_memory().unwrap() > 0);
        assert!(service.cpu_time().unwrap() < Duration::from_secs(5));
        service.stop(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn waiting_in_vain_names_what_was_waited_for() {
        let error = wait_for("godot", Duration::ZERO, || Ok(None::<()>)).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s in vain for godot");
    }
}
