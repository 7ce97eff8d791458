//! Runs git and the builders: as the build user, without a shell, with a cleared environment, in a process group of
//! their own, with a deadline, cancellable, and with their output bounded.
//!
//! A run that can leave half-done work behind has a **mark**: a file that names the process while it runs. A mark
//! that is still there at the next run means that the last one was cut off; its process is ended, if it still lives.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{account::Account, output::Tail};

/// Time between a polite end (git removes its lock files then) and a hard one.
const GRACE: Duration = Duration::from_secs(3);
/// How long output is awaited once the program itself has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The most that a program may answer on standard output where its answer is parsed: 100,000 branches.
const ANSWER_BYTES: usize = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("could not start {what} ({program})")]
    Start {
        what: String,
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{what} failed with {status}{}", Because(.output))]
    Failed { what: String, status: std::process::ExitStatus, output: String },
    #[error("{what} took longer than {seconds} s and was ended (hint: raise `deadline_s`){}", Because(.output))]
    Deadline { what: String, seconds: u64, output: String },
    #[error("{what} was cancelled")]
    Cancelled { what: String, output: String },
    #[error("{what} answered more than {ANSWER_BYTES} bytes")]
    TooMuch { what: String },
}

impl RunError {
    pub(crate) fn output(&self) -> &str {
        match self {
            Self::Failed { output, .. } | Self::Deadline { output, .. } | Self::Cancelled { output, .. } => {
                output
            }
            Self::Start { .. } | Self::TooMuch { .. } => "",
        }
    }
}

/// The words of the output that most likely say why.
struct Because<'a>(&'a str);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match because(self.0) {
            Some(why) => write!(f, ": {}", why.chars().take(300).collect::<String>()),
            None => Ok(()),
        }
    }
}

/// The first line that calls itself an error, else the last. r10k's first one only announces that a command failed;
/// which one and what it said follows, behind `Command:` and `Stderr:`.
fn because(output: &str) -> Option<String> {
    let mut lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
    let blames = |line: &&str| ["error", "fatal", "failed"].iter().any(|w| line.to_lowercase().contains(w));
    let Some(first) = lines.clone().find(blames) else { return lines.next_back().map(str::to_owned) };
    let mut behind = lines.skip_while(|line| *line != first).skip(1);
    let command = if first.ends_with(':') {
        behind.next().and_then(|line| line.strip_prefix("Command: "))
    } else {
        None
    };
    let Some(command) = command else { return Some(first.to_owned()) };
    let said = behind.take_while(|line| !line.starts_with("Exit code:"));
    let said: Vec<&str> = said
        .filter(|line| !["Stderr:", "Cloning into", "warning:"].iter().any(|w| line.starts_with(w)))
        .collect();
    let why = said.iter().find(|line| blames(line) && line.contains("://")).or(said.first());
    Some(match why {
        Some(why) if why.contains("://") => (*why).to_owned(),
        Some(why) => format!("{why} ({command})"),
        None => command.to_owned(),
    })
}

/// One program to run.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// For people: `git fetch`, `r10k for production`.
    pub what: String,
    pub program: &'a Path,
    pub args: Vec<OsString>,
    pub dir: &'a Path,
    pub environment: &'a [(OsString, OsString)],
    pub deadline: Duration,
    pub mark: Option<&'a Path>,
}

/// How it ended well.
#[derive(Debug)]
pub(crate) struct Done {
    pub answer: Vec<u8>,
    pub output: String,
}

impl Run<'_> {
    /// Standard output and standard error together, as people read them.
    pub(crate) async fn talk(
        self,
        account: &Account,
        cancel: &CancellationToken,
    ) -> Result<String, RunError> {
        Ok(self.start(account, cancel, false).await?.output)
    }

    /// Standard output whole, to be parsed.
    pub(crate) async fn ask(
        self,
        account: &Account,
        cancel: &CancellationToken,
    ) -> Result<Vec<u8>, RunError> {
        Ok(self.start(account, cancel, true).await?.answer)
    }

    async fn start(
        self,
        account: &Account,
        cancel: &CancellationToken,
        parse: bool,
    ) -> Result<Done, RunError> {
        let failed =
            |source| RunError::Start { what: self.what.clone(), program: self.program.into(), source };
        if let Some(mark) = self.mark {
            fs::write(mark, "").map_err(failed)?;
        }
        let mut command = Command::new(self.program);
        command
            .args(&self.args)
            .current_dir(self.dir)
            .env_clear()
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some((uid, gid)) = account.ids() {
            // std drops the supplementary groups of root when it changes the user.
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn().map_err(|error| {
            self.unmark();
            failed(error)
        })?;
        let group = Group::of(&child);
        if let Some(mark) = self.mark {
            fs::write(mark, group.to_mark()).map_err(failed)?;
        }
        let heard = Arc::new(Mutex::new(Heard::default()));
        let readers = [
            child.stdout.take().map(|pipe| tokio::spawn(listen(pipe, Arc::clone(&heard), parse))),
            child.stderr.take().map(|pipe| tokio::spawn(listen(pipe, Arc::clone(&heard), false))),
        ];
        let ended = tokio::select! {
            status = child.wait() => Ended::Alone(status.map_err(failed)?),
            () = sleep(self.deadline) => Ended::Late,
            () = cancel.cancelled() => Ended::Cancelled,
        };
        if !matches!(ended, Ended::Alone(_)) {
            group.signal(Signal::TERM);
            let _either = timeout(GRACE, child.wait()).await;
        }
        // Whoever of the group outlived the program would otherwise hold the pipes open.
        group.signal(Signal::KILL);
        let _reaped = child.wait().await;
        group.over();
        for reader in readers.into_iter().flatten() {
            let abort = reader.abort_handle();
            if timeout(LAST_WORDS, reader).await.is_err() {
                abort.abort();
            }
        }
        self.judge(ended, &heard)
    }

    fn unmark(&self) {
        if let Some(mark) = self.mark {
            let _left_marks_only_cost_a_clean_up = fs::remove_file(mark);
        }
    }

    fn judge(self, ended: Ended, heard: &Mutex<Heard>) -> Result<Done, RunError> {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let (what, output) = (self.what.clone(), heard.tail.text());
        let Ended::Alone(status) = ended else {
            return Err(match ended {
                Ended::Late => RunError::Deadline { what, seconds: self.deadline.as_secs(), output },
                Ended::Cancelled | Ended::Alone(_) => RunError::Cancelled { what, output },
            });
        };
        self.unmark();
        match status.success() {
            true if heard.too_much => Err(RunError::TooMuch { what }),
            true => Ok(Done { answer: std::mem::take(&mut heard.answer), output }),
            false => Err(RunError::Failed { what, status, output }),
        }
    }
}

enum Ended {
    Alone(std::process::ExitStatus),
    Late,
    Cancelled,
}

#[derive(Default)]
struct Heard {
    tail: Tail,
    answer: Vec<u8>,
    too_much: bool,
}

async fn listen(mut pipe: impl AsyncRead + Unpin, heard: Arc<Mutex<Heard>>, parse: bool) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        if !parse {
            heard.tail.push(&buffer[..read]);
        } else if heard.answer.len() + read <= ANSWER_BYTES {
            heard.answer.extend_from_slice(&buffer[..read]);
        } else {
            heard.too_much = true;
        }
    }
}

/// A process group that must not outlive this value (a caller may drop a build half-way).
struct Group {
    leader: std::cell::Cell<Option<Pid>>,
}

impl Group {
    fn of(child: &Child) -> Self {
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self { leader: std::cell::Cell::new(leader) }
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader.get() {
            let _may_be_gone = kill_process_group(leader, signal);
        }
    }

    /// The leader is reaped: its number may belong to somebody else from here on.
    fn over(&self) {
        self.leader.set(None);
    }

    fn to_mark(&self) -> String {
        let leader = self.leader.get().map(|pid| (pid, started(pid)));
        leader.map_or_else(String::new, |(pid, start)| format!("{pid} {}", start.unwrap_or_default()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Whether the run with this mark was cut off. Its process group is ended first, if it is still the same one.
pub(crate) async fn was_cut_off(mark: &Path) -> bool {
    let Ok(text) = fs::read_to_string(mark) else { return false };
    let named = text
        .split_once(' ')
        .and_then(|(pid, start)| Some((Pid::from_raw(pid.parse().ok()?)?, start.parse::<u64>().ok()?)));
    let Some((pid, start)) = named else { return true };
    let lives = || started(pid) == Some(start);
    if lives() {
        tracing::warn!(%pid, "ending a program that an earlier controller left running");
        let _may_be_gone = kill_process_group(pid, Signal::KILL);
        let gone = async {
            while lives() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _either = timeout(GRACE, gone).await;
    }
    true
}

/// When a process started, in clock ticks since boot (`proc(5)`, field 22); none for a dead one, zombies included.
fn started(pid: Pid) -> Option<u64> {
    let mut text = String::new();
    fs::File::open(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?.read_to_string(&mut text).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_the_repository_and_not_that_there_was_an_error() {
        let r10k = |said: &str| {
            let output = format!(
                "INFO -> Deploying\nERROR\t -> Error during concurrent deploy of a module: Command exited with non-zero exit code:\n\
                 Command: git clone --mirror git@h:m/apt.git /c\nStderr:\nCloning into bare repository '/c'...\n{said}Exit code: 128\n"
            );
            because(&output).unwrap()
        };
        assert_eq!(
            r10k("fatal: unable to access 'https://h/apt/': no\n"),
            "fatal: unable to access 'https://h/apt/': no"
        );
        assert_eq!(
            r10k("Host key verification failed.\nfatal: Could not read from remote repository.\n"),
            "Host key verification failed. (git clone --mirror git@h:m/apt.git /c)"
        );
        assert_eq!(r10k(""), "git clone --mirror git@h:m/apt.git /c");
        assert_eq!(because("a\nfatal: b\nc\n").unwrap(), "fatal: b");
        assert_eq!(because("a\nc\n\n").unwrap(), "c");
        assert_eq!(because("an error:\nx\n").unwrap(), "an error:");
        assert_eq!(because(""), None);
    }
}
