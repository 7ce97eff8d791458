//! A plain process as a [`Service`], for hosts without systemd: a pid file, and the command that starts it.
//!
//! It runs on when the agent ends. It is started in a session of its own by a small script which writes the pid file
//! under a lock, and only if that file is still as the agent saw it: two agents, or one that was interrupted, never
//! start it twice.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::BoxFuture};
use rustix::process::Signal;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use tokio::{process::Command, time::timeout};

use super::{Mark, Service, ServiceError, State, Status, Verb};
use crate::process::{Handle, Process};

/// Between two looks at a file that another process writes.
const LOOK: Duration = Duration::from_millis(10);

/// A program that writes its own pid file does so within this after its start, and the clocks may differ by it.
const SLACK: Duration = Duration::from_secs(2);

/// Linux shows start times in hundredths of a second, whatever its own clock does (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process on a host without systemd needs of an environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the service. Its process id and start stay the same when it does, so that they are known before.
const BECOME: &str = r#"
file=$1 seen=$2; shift 2
exec 9>>"$file.lock" && flock -w 20 9 || exit 1
[ "$(cat "$file" 2>/dev/null)" = "$seen" ] || exit 0
cat /proc/$$/stat > "$file.stat.new" && mv "$file.stat.new" "$file.stat" || exit 1
echo $$ > "$file.new" && mv "$file.new" "$file" || exit 1
exec 9>&-
exec "$@"
"#;

/// `[services.NAME]` with `driver = "process"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlainConfig {
    /// Where the process id stands; its directory must be the agent's own.
    pub pid_file: PathBuf,
    /// The program in the foreground, and its arguments.
    #[serde(deserialize_with = "not_empty")]
    pub command: Vec<String>,
    /// Gets its outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
    /// Gets `0` before a start and a reload: Puppet Server counts in it when it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_file: Option<PathBuf>,
    /// Seconds after SIGTERM until it is killed.
    #[serde(default = "default_stop_seconds")]
    pub stop_seconds: u64,
}

/// Puppet Server's unit in Debian waits as long.
fn default_stop_seconds() -> u64 {
    60
}

fn not_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let words = Vec::deserialize(deserializer)?;
    if words.is_empty() { Err(D::Error::custom("a command needs a program")) } else { Ok(words) }
}

/// The process of one pid file.
#[derive(Debug)]
pub struct PlainService {
    name: String,
    config: PlainConfig,
}

impl PlainService {
    pub fn new(name: &str, config: PlainConfig) -> Self {
        Self { name: name.into(), config }
    }

    async fn try_act(&self, verb: Verb) -> Result<(), ServiceError> {
        match verb {
            Verb::Start => self.start().await,
            Verb::Stop => self.stop().await,
            Verb::Restart => {
                self.stop().await?;
                self.start().await
            }
            Verb::Reload => self.reload(),
        }
    }

    async fn start(&self) -> Result<(), ServiceError> {
        if self.running()?.is_some() {
            return Ok(());
        }
        self.reset_restart_file()?;
        let seen = self.pid_text()?;
        self.launch(&seen).await.map_err(|source| self.io("start", source))?;
        while self.pid_text()? == seen {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn launch(&self, seen: &str) -> io::Result<()> {
        let log = || match &self.config.log {
            Some(log) => File::options().create(true).append(true).open(log).map(Stdio::from),
            None => Ok(Stdio::null()),
        };
        let status = Command::new("setsid")
            // Signals that this agent was told to ignore (`nohup`) would be ignored by the service, too: SIGHUP reloads it.
            .args(["--fork", "env", "--default-signal", "/bin/sh", "-c", BECOME, "bunraku-start"])
            .arg(&self.config.pid_file)
            .arg(seen)
            .args(&self.config.command)
            .env_clear()
            .envs([("PATH", PATH), ("HOME", "/"), ("LANG", "C.UTF-8")])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            .status()
            .await?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("setsid ended with {status}"))) }
    }

    async fn stop(&self) -> Result<(), ServiceError> {
        let Some(handle) = self.handle()? else { return Ok(()) };
        let failed = |source| self.io("end the process", source);
        handle.signal(Signal::TERM).map_err(failed)?;
        let patience = Duration::from_secs(self.config.stop_seconds);
        if let Ok(ended) = timeout(patience, handle.ended()).await {
            ended.map_err(failed)?;
        } else {
            tracing::warn!(service = self.name, "it did not end after SIGTERM and is killed");
            handle.signal(Signal::KILL).map_err(failed)?;
            handle.ended().await.map_err(failed)?;
        }
        // Its id may be given away again.
        match fs::remove_file(&self.config.pid_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.io("remove the pid file", error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn reload(&self) -> Result<(), ServiceError> {
        let Some(handle) = self.handle()? else {
            return Err(ServiceError::Failed {
                verb: Verb::Reload,
                service: self.name.clone(),
                result: "there is nothing to reload".into(),
                detail: "not running".into(),
                hint: "start it".into(),
            });
        };
        self.reset_restart_file()?;
        handle.signal(Signal::HUP).map_err(|source| self.io("signal the process", source))
    }

    fn handle(&self) -> Result<Option<Handle>, ServiceError> {
        let Some(process) = self.running()? else { return Ok(None) };
        process.handle().map_err(|source| self.io("hold the process", source))
    }

    /// The process that the pid file names, if that is alive and can only be the one that was meant.
    fn running(&self) -> Result<Option<Process>, ServiceError> {
        let text = self.pid_text()?;
        let Some(process) = text.trim().parse().ok().and_then(Process::with_pid) else { return Ok(None) };
        let kept = fs::read_to_string(self.beside("stat")).ok().and_then(|stat| Process::from_stat(&stat));
        match kept {
            Some(kept) if kept.pid() == process.pid() => Ok((kept == process).then_some(process)),
            // Somebody else wrote the pid file, after the process was there.
            Some(_) | None => {
                let read = fs::metadata(&self.config.pid_file).and_then(|meta| meta.modified());
                let written = read.map_err(|source| self.io("read the pid file", source))?;
                if is_older(&process, written) {
                    return Ok(Some(process));
                }
                let pid_file = self.config.pid_file.clone();
                Err(ServiceError::Stranger { service: self.name.clone(), pid_file, pid: process.pid() })
            }
        }
    }

    /// What the pid file says, as a shell would read it; empty without a file.
    fn pid_text(&self) -> Result<String, ServiceError> {
        match fs::read_to_string(&self.config.pid_file) {
            Ok(text) => Ok(text.trim_end_matches('\n').to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(self.io("read the pid file", source)),
        }
    }

    fn reset_restart_file(&self) -> Result<(), ServiceError> {
        let Some(path) = &self.config.restart_file else { return Ok(()) };
        // The server's user owns the directory: a link there must not lead elsewhere. In place: the server writes it too.
        let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let open = OpenOptions::new().write(true).truncate(true).custom_flags(no_link).open(path);
        match open.and_then(|mut file| file.write_all(b"0")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.io("reset the restart file", error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.config.pid_file.clone().into_os_string();
        name.push(".");
        name.push(ending);
        name.into()
    }

    fn io(&self, doing: &str, source: io::Error) -> ServiceError {
        ServiceError::Io { doing: doing.into(), service: self.name.clone(), source }
    }

    fn seen(&self) -> Result<Status, ServiceError> {
        let (state, detail, invocation, main_pid) = match self.running()? {
            Some(process) => (
                State::Running,
                format!("running (process {})", process.pid()),
                process.to_string(),
                Some(process.pid()),
            ),
            None => (State::Stopped, self.why_stopped(), String::new(), None),
        };
        Ok(Status { state, detail, mark: Mark { invocation, changed: 0 }, main_pid, reloaded: true })
    }

    fn why_stopped(&self) -> String {
        match &self.config.log {
            Some(log) => format!("not running; its log ends with: {}", last_line(log)),
            None => "not running".into(),
        }
    }
}

impl Service for PlainService {
    fn act(&self, verb: Verb, deadline: Duration) -> BoxFuture<'_, Result<(), ServiceError>> {
        async move {
            let late = ServiceError::Unknown {
                verb,
                service: self.name.clone(),
                why: format!("it took longer than {deadline:?}"),
            };
            timeout(deadline, self.try_act(verb)).await.unwrap_or(Err(late))
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, ServiceError>> {
        async { self.seen() }.boxed()
    }
}

/// Whether the process was there when something was written at `written`.
fn is_older(process: &Process, written: SystemTime) -> bool {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let Some(up) = uptime.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()) else {
        return false;
    };
    let age = up - f64::from(u32::try_from(process.started()).unwrap_or(u32::MAX)) / TICKS_PER_SECOND;
    let written_ago = SystemTime::now().duration_since(written).unwrap_or_default();
    age + SLACK.as_secs_f64() >= written_ago.as_secs_f64()
}

fn last_line(log: &Path) -> String {
    let text = crate::order::tail(log).unwrap_or_default();
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("(nothing)");
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests;
