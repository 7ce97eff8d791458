//! Commands that run once for an order, outlive this agent, and leave their result: packages, Puppet runs, `exec`.
//!
//! An order has a directory. The script that runs its command begins by linking its own process there, which can
//! succeed only once; so whoever starts it again, after whatever crash, runs nothing. A result that was lost (a
//! reboot, a kill) is unknown: nothing runs again, somebody must look.

mod detached;
mod id;
mod launch;
mod unit;

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bunraku_common::{crash, limits::OUTPUT_BYTES};
use serde::{Deserialize, Serialize};

pub use id::{InvalidOrderId, OrderId};
pub use launch::{Launch, LaunchError};
pub use {detached::Detached, unit::TransientUnits};

use crate::process::Process;

/// Between two looks at files that the script writes.
const LOOK: Duration = Duration::from_millis(20);

/// A script begins within milliseconds, on a machine under load within seconds.
const BEGINNING: Duration = Duration::from_secs(20);

/// The orders of this host.
#[derive(Debug)]
pub struct Orders {
    directory: PathBuf,
    launch: Box<dyn Launch>,
}

/// What is known of an order's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody asked for it here.
    NeverAsked,
    /// It was asked for and has not begun; asking again starts it, still once.
    NotBegun,
    Running,
    /// The exit code (above 128: ended by that signal less 128), and the last of what it wrote.
    Ended {
        code: i32,
        output: String,
    },
    /// It began, or may have, and left no result.
    Unknown {
        why: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("order {id} was asked for before with another command: {before}")]
    Another { id: OrderId, before: String },
    #[error("order {id} has no command")]
    Empty { id: OrderId },
    #[error("could not {doing} of order {id} in {}", directory.display())]
    Io {
        doing: &'static str,
        id: OrderId,
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not start the command of order {id}")]
    Launch {
        id: OrderId,
        #[source]
        source: LaunchError,
    },
    #[error("order {id} is still running, so its result cannot be forgotten")]
    StillRunning { id: OrderId },
}

/// What was asked for, written before anything starts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    argv: Vec<String>,
    /// The boot in which it was asked for: what had not begun by its end never will.
    boot: String,
}

impl Orders {
    /// `directory` must lie on a disk, and belong to the agent alone.
    pub fn new(directory: impl Into<PathBuf>, launch: Box<dyn Launch>) -> Self {
        Self { directory: directory.into(), launch }
    }

    /// Runs the command, unless that was done before; answers what is known of it.
    pub async fn run(&self, id: &OrderId, argv: &[String]) -> Result<Outcome, OrderError> {
        if argv.is_empty() {
            return Err(OrderError::Empty { id: id.clone() });
        }
        match self.asked(id)? {
            Some(asked) if asked.argv != argv => {
                return Err(OrderError::Another { id: id.clone(), before: asked.argv.join(" ") });
            }
            Some(_) => {}
            None => self.remember(id, argv).map_err(|error| self.io("write the request", id, error))?,
        }
        crash::point("order-remembered");
        if self.result(id).await? == Outcome::NotBegun {
            let launched = self.launch.launch(id, &self.of(id), argv).await;
            launched.map_err(|source| OrderError::Launch { id: id.clone(), source })?;
            crash::point("order-launched");
            self.begun(id).await;
        }
        self.result(id).await
    }

    /// Waits until the script that was started has come to its beginning.
    async fn begun(&self, id: &OrderId) {
        let linked = async {
            while self.process(id).is_none() {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Without a beginning the order has not begun, which is what the caller is told.
        tokio::time::timeout(BEGINNING, linked).await.ok();
    }

    pub async fn result(&self, id: &OrderId) -> Result<Outcome, OrderError> {
        let Some(asked) = self.asked(id)? else { return Ok(Outcome::NeverAsked) };
        let code = || self.code(id).map_err(|error| self.io("read the result", id, error));
        if let Some(ended) = code()? {
            return Ok(ended);
        }
        let same_boot = boot().is_ok_and(|boot| boot == asked.boot);
        match self.process(id) {
            Some(process) if same_boot && process.is_alive() => return Ok(Outcome::Running),
            Some(_) => {}
            None if !same_boot => {
                let why = "this host was started again before the command is known to have begun".into();
                return Ok(Outcome::Unknown { why });
            }
            None => {
                let pending = self.launch.is_pending(id).await;
                let pending = pending.map_err(|source| OrderError::Launch { id: id.clone(), source })?;
                return Ok(if pending { Outcome::Running } else { Outcome::NotBegun });
            }
        }
        // The result may have been written between the two looks.
        Ok(code()?.unwrap_or_else(|| Outcome::Unknown {
            why: if same_boot {
                "the command was ended before it left a result".into()
            } else {
                "this host was started again while the command ran".into()
            },
        }))
    }

    /// Waits until the command has ended one way or another; after the deadline, what is known then.
    pub async fn wait(&self, id: &OrderId, deadline: Duration) -> Result<Outcome, OrderError> {
        let ended = async {
            loop {
                let outcome = self.result(id).await?;
                if outcome != Outcome::Running {
                    return Ok(outcome);
                }
                let handle = self.process(id).map(|process| process.handle()).transpose();
                match handle.map_err(|error| self.io("hold the process", id, error))? {
                    Some(Some(handle)) => {
                        handle.ended().await.map_err(|error| self.io("hold the process", id, error))?;
                    }
                    Some(None) | None => tokio::time::sleep(LOOK).await,
                }
            }
        };
        match tokio::time::timeout(deadline, ended).await {
            Ok(outcome) => outcome,
            Err(_) => self.result(id).await,
        }
    }

    /// Removes what is kept of an order that has ended. The same order would run again: the caller remembers it.
    pub async fn forget(&self, id: &OrderId) -> Result<(), OrderError> {
        match self.result(id).await? {
            Outcome::Running => return Err(OrderError::StillRunning { id: id.clone() }),
            Outcome::NeverAsked => return Ok(()),
            Outcome::NotBegun | Outcome::Ended { .. } | Outcome::Unknown { .. } => {}
        }
        let removed = self.launch.forget(id).await;
        removed.map_err(|source| OrderError::Launch { id: id.clone(), source })?;
        fs::remove_dir_all(self.of(id)).map_err(|error| self.io("remove the files", id, error))
    }

    fn of(&self, id: &OrderId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    fn asked(&self, id: &OrderId) -> Result<Option<Asked>, OrderError> {
        let read = fs::read(self.of(id).join("asked.json"));
        match read {
            Ok(bytes) => {
                let parsed = serde_json::from_slice(&bytes).map_err(io::Error::other);
                parsed.map(Some).map_err(|error| self.io("read the request", id, error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("read the request", id, error)),
        }
    }

    fn remember(&self, id: &OrderId, argv: &[String]) -> io::Result<()> {
        let directory = self.of(id);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let asked = Asked { argv: argv.into(), boot: boot()? };
        let new = directory.join("asked.json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&asked)?)?;
        file.sync_data()?;
        fs::rename(new, directory.join("asked.json"))?;
        File::open(&directory)?.sync_all()?;
        File::open(&self.directory)?.sync_all()
    }

    fn process(&self, id: &OrderId) -> Option<Process> {
        Process::from_stat(&fs::read_to_string(self.of(id).join("process")).ok()?)
    }

    fn code(&self, id: &OrderId) -> io::Result<Option<Outcome>> {
        let directory = self.of(id);
        let code = match fs::read_to_string(directory.join("code")) {
            Ok(text) => text.trim().parse().map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Outcome::Ended { code, output: tail(&directory.join("output"))? }))
    }

    fn io(&self, doing: &'static str, id: &OrderId, source: io::Error) -> OrderError {
        OrderError::Io { doing, id: id.clone(), directory: self.directory.clone(), source }
    }
}

/// The last [`OUTPUT_BYTES`] of a file: what went wrong stands at the end.
pub(crate) fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_BYTES as u64)))?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// In a container this may be the host's: there the process tells, whose start is counted from the host's boot.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests;
