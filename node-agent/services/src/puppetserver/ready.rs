//! When Puppet Server is ready: it has counted its start in its restart file, and its status API says `running`.
//!
//! Debian's unit writes `0` into that file before a start or reload, and the server adds one when it is up; Puppet's own
//! packages only let it count. So 0 is not ready, and any other number may be.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bunraku_puppetserver::{PuppetServer, server};
use tokio::time::{Instant, sleep};

use crate::{
    process::Process,
    service::{Service, State},
};

/// Between two looks: a start takes ten seconds at best.
const LOOK: Duration = Duration::from_millis(250);

/// Where the packages keep it, if they are installed.
const KNOWN: [&str; 2] =
    ["/run/puppetserver/restart", "/opt/puppetlabs/server/data/puppetserver/restartcounter"];

/// The file in which the server counts its starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartFile(PathBuf);

/// What was last seen when the deadline came, or why it came earlier.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("it is {0}")]
    Ended(String),
    #[error("not ready within {deadline:?}: {last}")]
    Deadline { deadline: Duration, last: String },
}

impl RestartFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// As the words of the running server name it.
    pub fn of_process(pid: u32) -> Option<Self> {
        let words = Process::with_pid(pid)?.command_line();
        let mut words = words.iter().skip_while(|word| !word.starts_with("--restart-file"));
        let option = words.next()?;
        let path = match option.strip_prefix("--restart-file=") {
            Some(path) => path,
            None => words.next()?,
        };
        path.starts_with('/').then(|| Self::new(path))
    }

    /// Where an installed package keeps it.
    pub fn known() -> Option<Self> {
        KNOWN.iter().map(Path::new).find(|path| path.exists()).map(Self::new)
    }

    /// Whether the server has counted a start.
    pub fn is_up(&self) -> bool {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.trim().parse::<u64>().is_ok_and(|starts| starts > 0)
    }
}

/// Waits until the server is ready; sooner over when its process has ended.
pub async fn wait(
    service: &dyn Service,
    server: &PuppetServer,
    restart_file: Option<&RestartFile>,
    deadline: Duration,
) -> Result<(), NotReady> {
    let until = Instant::now() + deadline;
    loop {
        let not_yet = match service.status().await {
            Ok(status) if matches!(status.state, State::Stopped | State::Failed) => {
                return Err(NotReady::Ended(status.detail));
            }
            Ok(status) if status.state != State::Running => Some(status.detail),
            // Its own door is a better witness than whoever cannot be asked.
            Ok(_) | Err(_) => why_not(server, restart_file).await,
        };
        let Some(last) = not_yet else { return Ok(()) };
        if Instant::now() >= until {
            return Err(NotReady::Deadline { deadline, last });
        }
        sleep(LOOK).await;
    }
}

async fn why_not(server: &PuppetServer, restart_file: Option<&RestartFile>) -> Option<String> {
    if let Some(file) = restart_file.filter(|file| !file.is_up()) {
        return Some(format!("{} does not count this start yet", file.0.display()));
    }
    match server.status().await {
        server::Status::Running => None,
        server::Status::Starting => Some("its status is starting".into()),
        server::Status::Stopping => Some("its status is stopping".into()),
        server::Status::Ailing(why) | server::Status::Down(why) => Some(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::waiting_shell;

    #[test]
    fn a_start_is_counted_by_both_packagings() {
        let dir = tempfile::tempdir().unwrap();
        let file = RestartFile::new(dir.path().join("restart"));
        assert!(!file.is_up());
        for (text, up) in
            [("", false), ("0", false), ("0\n", false), ("1", true), ("27\n", true), ("x", false)]
        {
            fs::write(&file.0, text).unwrap();
            assert_eq!(file.is_up(), up, "{text:?}");
        }
    }

    #[test]
    fn the_file_is_read_from_the_words_of_the_running_server() {
        for words in [&["--restart-file", "/run/x/restart"][..], &["--restart-file=/run/x/restart"]] {
            let mut server = waiting_shell(&[&["java", "--config", "/etc"], words].concat());
            assert_eq!(RestartFile::of_process(server.id()), Some(RestartFile::new("/run/x/restart")));
            server.kill().unwrap();
            server.wait().unwrap();
        }
        assert_eq!(RestartFile::of_process(std::process::id()), None);
    }
}
