//! One command of a package manager: fixed words, no shell, a deadline.

use std::{io, process::Stdio, time::Duration};

use tokio::process::Command;

/// Of what a command printed, in a reason that people read.
const TAIL: usize = 400;

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("could not run {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{command} did not end within {} s", deadline.as_secs())]
    Deadline { command: String, deadline: Duration },
}

impl Called {
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// The end of what it complained about, on one line.
    pub fn complaint(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let skip = words.chars().count().saturating_sub(TAIL);
        words.chars().skip(skip).collect()
    }
}

/// It is ended when its deadline has passed.
pub(crate) async fn call(words: &[String], deadline: Duration) -> Result<Called, CallError> {
    let (program, arguments) = words.split_first().map_or((String::new(), &[][..]), |(p, a)| (p.clone(), a));
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .current_dir("/")
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(deadline, command.output()).await {
        Err(_) => Err(CallError::Deadline { command: words.join(" "), deadline }),
        Ok(Err(source)) => Err(CallError::Start { program, source }),
        Ok(Ok(output)) => Ok(Called {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
    }
}
