//! Keeps Puppet's agent from running for a node's turn, and gives it back only if it was ours to give.
//!
//! The note that we disabled it is on disk before it is done, so that a crash in between leaves a note too many, never
//! an agent that nobody enables again. Whether it is still ours is for the message in Puppet's own lock to say.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bunraku_common::{crash, whole};
use bunraku_puppetserver::{Puppet, command::CommandError};
use serde::{Deserialize, Serialize};

use super::{LockFiles, Run, call};

/// Everybody can see who it was.
const PREFIX: &str = "bunraku: ";

/// Puppet's agent, held for somebody.
#[derive(Debug)]
pub struct Hold<'a> {
    puppet: &'a Puppet,
    locks: &'a LockFiles,
    note: PathBuf,
}

/// What a call of [`Hold::hold`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// No run is going on, and none will begin.
    Yes,
    /// The same; it was disabled before, by somebody else, and will be left so.
    BySomebody { message: String },
    /// This run must end first.
    Waiting(Run),
}

/// What a call of [`Hold::release`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    Enabled,
    /// It was not disabled, or not by us: nothing was done.
    NotOurs,
}

#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    #[error("could not {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("puppet could not be told to {doing} its agent")]
    Puppet {
        doing: &'static str,
        #[source]
        source: CommandError,
    },
    #[error("`puppet agent --{doing}` succeeded, but {} says otherwise (hint: run it by hand)", path.display())]
    NoEffect { doing: &'static str, path: PathBuf },
}

/// That we were about to disable it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    message: String,
}

/// What Puppet writes.
#[derive(Deserialize)]
struct Disabled {
    #[serde(default)]
    disabled_message: Option<String>,
}

impl<'a> Hold<'a> {
    /// `note` is a file in the agent's own directory.
    pub fn new(puppet: &'a Puppet, locks: &'a LockFiles, note: impl Into<PathBuf>) -> Self {
        Self { puppet, locks, note: note.into() }
    }

    /// Disables the agent once no run is going on; asked again, it says whether that has been reached.
    pub async fn hold(&self, owner: &str) -> Result<Held, HoldError> {
        if let Some(run) = self.going_on()? {
            return Ok(Held::Waiting(run));
        }
        let message = format!("{PREFIX}{}", owner.replace(|character: char| character.is_control(), " "));
        let by_whom = match self.disabled()? {
            Some(found) => found,
            None => {
                self.write(&Note { message: message.clone() })?;
                crash::point("hold-noted");
                self.tell("disable", Some(&message)).await?;
                crash::point("hold-disabled");
                let no_effect =
                    || HoldError::NoEffect { doing: "disable", path: self.locks.disabled.clone() };
                self.disabled()?.ok_or_else(no_effect)?
            }
        };
        // One may have begun while we were about to disable it.
        if let Some(run) = self.going_on()? {
            return Ok(Held::Waiting(run));
        }
        let note = self.read()?;
        let ours = by_whom == message || note.as_ref().is_some_and(|note| note.message == by_whom);
        if ours && note.is_none() {
            self.write(&Note { message })?;
        }
        Ok(if ours { Held::Yes } else { Held::BySomebody { message: by_whom } })
    }

    /// Enables the agent, if we disabled it and nobody else did since.
    pub async fn release(&self) -> Result<Released, HoldError> {
        let Some(note) = self.read()? else { return Ok(Released::NotOurs) };
        let ours = self.disabled()?.is_some_and(|message| message == note.message);
        if ours {
            self.tell("enable", None).await?;
            if self.disabled()?.is_some_and(|message| message == note.message) {
                return Err(HoldError::NoEffect { doing: "enable", path: self.locks.disabled.clone() });
            }
            crash::point("hold-enabled");
        }
        self.remove()?;
        Ok(if ours { Released::Enabled } else { Released::NotOurs })
    }

    /// For whom we hold it, also after a crash: the owner of the note.
    pub fn owner(&self) -> Result<Option<String>, HoldError> {
        let owner = |note: Note| note.message.strip_prefix(PREFIX).unwrap_or(&note.message).to_owned();
        Ok(self.read()?.map(owner))
    }

    async fn tell(&self, doing: &'static str, message: Option<&str>) -> Result<(), HoldError> {
        let option = format!("--{doing}");
        let words = ["agent", &option].into_iter().chain(message);
        call(self.puppet, words, [])
            .run()
            .await
            .map(drop)
            .map_err(|source| HoldError::Puppet { doing, source })
    }

    fn going_on(&self) -> Result<Option<Run>, HoldError> {
        Run::going_on(self.locks).map_err(|source| self.io("read", &self.locks.run, source))
    }

    /// The message with which it is disabled; empty when there is none.
    fn disabled(&self) -> Result<Option<String>, HoldError> {
        match fs::read(&self.locks.disabled) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("read", &self.locks.disabled, error)),
            // Any file disables it, whatever is in it.
            Ok(bytes) => {
                let disabled: Option<Disabled> = serde_json::from_slice(&bytes).ok();
                Ok(Some(disabled.and_then(|it| it.disabled_message).unwrap_or_default()))
            }
        }
    }

    fn read(&self) -> Result<Option<Note>, HoldError> {
        match fs::read(&self.note) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("read", &self.note, error)),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| self.io("understand", &self.note, io::Error::other(error))),
        }
    }

    fn write(&self, note: &Note) -> Result<(), HoldError> {
        let written = serde_json::to_vec(note).map_err(io::Error::from);
        let written = written.and_then(|json| whole::replace(&self.note, &json));
        written.map_err(|source| self.io("write", &self.note, source))
    }

    fn remove(&self) -> Result<(), HoldError> {
        let removed = fs::remove_file(&self.note)
            .and_then(|()| whole::sync_dir(self.note.parent().unwrap_or(Path::new("/"))));
        removed.map_err(|source| self.io("remove", &self.note, source))
    }

    fn io(&self, doing: &'static str, path: &Path, source: io::Error) -> HoldError {
        HoldError::Io { doing, path: path.into(), source }
    }
}

#[cfg(test)]
mod tests;
