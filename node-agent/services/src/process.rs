//! One process that cannot be taken for another one: its id and the tick of its start, from `/proc/PID/stat`.
//!
//! Ids are used again, the pair is not, until the next boot. Signals go through a pidfd that was opened before the pair
//! was compared, so that they cannot reach a stranger.

use std::{
    fmt, fs, io,
    os::fd::OwnedFd,
    path::Path,
    str::FromStr,
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{Interest, unix::AsyncFd};

/// Of a second, as the kernel tells them to everybody (`USER_HZ`).
const TICKS: f64 = 100.0;

/// A process as it was seen; it may have ended since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pid: Pid,
    started: u64,
}

/// A process that was alive when this was made, and its id cannot be used again while this lives.
#[derive(Debug)]
pub struct Handle {
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// The process that has this id at the moment; `None` when there is none, or only its exit status is left.
    pub fn with_pid(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        let (process, zombie) = read(&stat)?;
        (!zombie).then_some(process)
    }

    /// From the text of a `/proc/PID/stat` that was kept.
    pub fn from_stat(stat: &str) -> Option<Self> {
        read(stat).map(|(process, _)| process)
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Clock ticks (hundredths of a second) between the boot and its start.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// By the wall clock as it is now, to a hundredth of a second.
    pub fn began(&self) -> Option<SystemTime> {
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let up: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        let age = Duration::try_from_secs_f64(up - self.started as f64 / TICKS).ok()?;
        SystemTime::now().checked_sub(age)
    }

    pub fn is_alive(&self) -> bool {
        Self::with_pid(self.pid()) == Some(*self)
    }

    /// `None`: it has ended. Must be called inside a tokio runtime.
    pub fn handle(&self) -> io::Result<Option<Handle>> {
        let pidfd = match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !self.is_alive() {
            return Ok(None);
        }
        #[expect(
            deprecated,
            reason = "it is unsound for what is no descriptor; an OwnedFd is one as long as it lives"
        )]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Some(Handle { pidfd }))
    }

    /// Its words, as `ps` shows them; empty when it has ended.
    pub fn command_line(&self) -> Vec<String> {
        let path = Path::new("/proc").join(self.pid().to_string()).join("cmdline");
        let bytes = fs::read(path).unwrap_or_default();
        let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|byte| *byte == 0);
        words.map(|word| String::from_utf8_lossy(word).into_owned()).filter(|word| !word.is_empty()).collect()
    }
}

impl Handle {
    /// An end that came first is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when the process has ended.
    pub async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(drop)
    }
}

/// The process, and whether it is a zombie.
fn read(stat: &str) -> Option<(Process, bool)> {
    // The program's name, in parentheses, may hold anything: fields are counted from behind it.
    let (pid, _) = stat.split_once(" (")?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let started = fields.get(19)?.parse().ok()?;
    let zombie = matches!(*fields.first()?, "Z" | "X");
    Some((Process { pid: Pid::from_raw(pid.parse().ok()?)?, started }, zombie))
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pid(), self.started)
    }
}

/// What is not `PID:START`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a process: `{0}`")]
pub struct NoProcess(String);

impl FromStr for Process {
    type Err = NoProcess;

    fn from_str(text: &str) -> Result<Self, NoProcess> {
        let parse = || {
            let (pid, started) = text.split_once(':')?;
            Some(Self { pid: Pid::from_raw(pid.parse().ok()?)?, started: started.parse().ok()? })
        };
        parse().ok_or_else(|| NoProcess(text.chars().take(40).collect()))
    }
}

/// A shell that waits for its input, with these words behind its script.
#[cfg(test)]
pub(crate) fn waiting_shell(words: &[&str]) -> std::process::Child {
    use std::process::{Command, Stdio};
    let mut shell = Command::new("/bin/sh");
    let child = shell.args(["-c", "read line"]).args(words).stdin(Stdio::piped()).spawn().unwrap();
    // The kernel lets go of the parent a moment before the words of the child can be read.
    while Process::with_pid(child.id()).unwrap().command_line().is_empty() {
        std::thread::yield_now();
    }
    child
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_move_the_fields() {
        let stat = "42 (a) S (b) S 1 42 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0";
        assert_eq!(Process::from_stat(stat).unwrap().to_string(), "42:777");
        assert_eq!("42:777".parse(), Ok(Process::from_stat(stat).unwrap()));
        assert!("42".parse::<Process>().is_err() && Process::from_stat("42 (x) S").is_none());
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_and_its_zombie_counts_as_ended() {
        let mut child = waiting_shell(&["name", "two words"]);
        let process = Process::with_pid(child.id()).unwrap();
        assert!(process.is_alive());
        assert_eq!(process.command_line(), ["/bin/sh", "-c", "read line", "name", "two words"]);
        let handle = process.handle().unwrap().unwrap();
        handle.signal(Signal::TERM).unwrap();
        timeout(Duration::from_secs(20), handle.ended()).await.unwrap().unwrap();
        assert!(!process.is_alive());
        child.wait().unwrap();
        handle.signal(Signal::KILL).unwrap();
        assert!(process.handle().unwrap().is_none());
    }

    #[test]
    fn a_process_began_after_what_was_written_before_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let written = file.as_file().metadata().unwrap().modified().unwrap();
        let own = Process::with_pid(std::process::id()).unwrap().began().unwrap();
        assert!(own < written, "this process is older");
        let mut child = waiting_shell(&[]);
        let began = Process::with_pid(child.id()).unwrap().began().unwrap();
        assert!(began + Duration::from_millis(50) > written && began <= SystemTime::now());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn another_process_with_the_same_id_is_not_it() {
        let own = Process::with_pid(std::process::id()).unwrap();
        let former = Process { started: own.started - 1, ..own };
        assert!(own.is_alive() && !former.is_alive());
    }
}
