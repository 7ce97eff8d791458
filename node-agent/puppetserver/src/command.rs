//! Runs a Puppet command: an argument list (never a shell), a clean environment, a deadline, bounded output.
//!
//! The command gets a process group of its own, so that a deadline or a dropped future ends what it started too.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bunraku_common::limits::OUTPUT_BYTES;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

use crate::Account;

/// Puppet's own packages keep their programs outside the usual path.
const PATH: &str = "/opt/puppetlabs/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One command to run.
#[derive(Debug, Clone)]
pub struct Invocation<'a> {
    pub program: &'a Path,
    pub args: Vec<OsString>,
    /// `None`: as the agent's own user.
    pub run_as: Option<&'a Account>,
    /// The command's HOME and working directory.
    pub home: &'a Path,
    pub deadline: Duration,
}

/// What a successful command wrote, each stream cut at [`OUTPUT_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("could not run `{command}`")]
    Spawn {
        command: String,
        #[source]
        source: io::Error,
    },
    #[error("`{command}` took longer than {deadline:?} and was ended; it wrote: {output}")]
    Deadline { command: String, deadline: Duration, output: String },
    #[error("`{command}` failed ({status}): {output}")]
    Failed { command: String, status: std::process::ExitStatus, output: String },
}

impl Invocation<'_> {
    pub async fn run(&self) -> Result<Output, CommandError> {
        let spawned = self.command().spawn();
        let mut child =
            spawned.map_err(|source| CommandError::Spawn { command: self.to_string(), source })?;
        let group = Group::of(&child);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let everything = async {
            let (status, ..) =
                tokio::join!(child.wait(), collect(out, &mut stdout), collect(err, &mut stderr));
            status
        };
        let ended = timeout(self.deadline, everything).await;
        drop(group);
        let output = Output { stdout: text(&stdout), stderr: text(&stderr) };
        match ended {
            Err(_) => Err(CommandError::Deadline {
                command: self.to_string(),
                deadline: self.deadline,
                output: output.both(),
            }),
            Ok(Err(source)) => Err(CommandError::Spawn { command: self.to_string(), source }),
            Ok(Ok(status)) if status.success() => Ok(output),
            Ok(Ok(status)) => {
                Err(CommandError::Failed { command: self.to_string(), status, output: output.both() })
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.home)
            .env("LANG", "C.UTF-8")
            .current_dir(self.home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(account) = self.run_as {
            // Setting the user as root also drops root's supplementary groups (std's documented behaviour).
            command.uid(account.uid).gid(account.gid);
        }
        command
    }
}

impl fmt::Display for Invocation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", PathBuf::from(arg).display()))
    }
}

impl Output {
    /// Both streams, for an error that a person reads.
    fn both(&self) -> String {
        match (self.stdout.trim(), self.stderr.trim()) {
            ("", "") => "(no output)".into(),
            (one, "") | ("", one) => one.into(),
            (out, err) => format!("{err}\n{out}"),
        }
    }
}

/// Ends whatever is left of the command's process group when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // An empty group is the usual case: nothing is left to end.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

/// Reads to the end, so that the command never blocks on a full pipe, and keeps the first [`OUTPUT_BYTES`].
async fn collect(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut chunk = [0; 8192];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let room = OUTPUT_BYTES.saturating_sub(into.len());
        into.extend_from_slice(&chunk[..read.min(room)]);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Invocation<'static> {
        Invocation {
            program: Path::new("/bin/sh"),
            args: vec!["-c".into(), script.into()],
            run_as: None,
            home: Path::new("/"),
            deadline,
        }
    }

    #[tokio::test]
    async fn a_command_gets_a_clean_environment_and_its_output_is_bounded() {
        let run = shell("env | grep -c CARGO; yes | head -c 1000000", Duration::from_secs(20));
        let output = run.run().await.unwrap();
        assert!(output.stdout.starts_with("0\n"), "{}", &output.stdout[..20]);
        assert_eq!(output.stdout.len(), OUTPUT_BYTES);
    }

    #[tokio::test]
    async fn a_command_that_is_too_slow_ends_with_everything_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; echo begun; wait", pid.display());
        let error = shell(&script, Duration::from_secs(1)).run().await.unwrap_err().to_string();
        assert!(error.contains("longer than 1s") && error.contains("begun"), "{error}");
        let sleeper = std::fs::read_to_string(pid).unwrap();
        let stat = Path::new("/proc").join(sleeper.trim()).join("stat");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
            assert!(std::time::Instant::now() < deadline, "the child of the command is still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_failing_command_is_named_with_what_it_said() {
        let error =
            shell("echo why >&2; exit 3", Duration::from_secs(10)).run().await.unwrap_err().to_string();
        assert_eq!(error, "`/bin/sh -c echo why >&2; exit 3` failed (exit status: 3): why");
    }
}
