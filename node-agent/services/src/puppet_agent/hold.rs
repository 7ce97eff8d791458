//! Keeps Puppet's agent from running for a node's turn, and gives it back only if it was ours to give.
//!
//! The note that we disabled it is on disk before it is done, so that a crash in between leaves a note too many, never
//! an agent that nobody enables again. Whether it is still ours is for the message in Puppet's own lock to say.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use bunraku_common::crash;
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
        let new = self.note.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(note)?)?;
            file.sync_data()?;
            fs::rename(&new, &self.note)?;
            sync_parent(&self.note)
        };
        write().map_err(|source| self.io("write", &self.note, source))
    }

    fn remove(&self) -> Result<(), HoldError> {
        let removed = fs::remove_file(&self.note).and_then(|()| sync_parent(&self.note));
        removed.map_err(|source| self.io("remove", &self.note, source))
    }

    fn io(&self, doing: &'static str, path: &Path, source: io::Error) -> HoldError {
        HoldError::Io { doing, path: path.into(), source }
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OrderId, Orders, Outcome, order::Detached, process::waiting_shell};

    /// The real `puppet`, with directories of its own.
    struct Host {
        dir: tempfile::TempDir,
        puppet: Puppet,
        locks: LockFiles,
    }

    impl Host {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name).display().to_string();
            let settings = [
                ("vardir", path("var")),
                ("rundir", path("run")),
                ("logdir", path("log")),
                ("ssldir", path("ssl")),
            ];
            // Nobody listens there.
            let text = "[main]\nserver = 127.0.0.1\nserverport = 9\ncertname = c1.example\n".to_owned();
            let text =
                settings.iter().fold(text, |text, (name, value)| text + &format!("{name} = {value}\n"));
            fs::write(path("puppet.conf"), text).unwrap();
            let puppet = Puppet::new("puppet", ["--config".into(), path("puppet.conf").into()]);
            let locks = LockFiles::ask(&puppet).await.unwrap();
            assert!(locks.run.starts_with(dir.path()) && locks.disabled.starts_with(dir.path()), "{locks:?}");
            Self { dir, puppet, locks }
        }

        fn hold(&self) -> Hold<'_> {
            Hold::new(&self.puppet, &self.locks, self.dir.path().join("note.json"))
        }

        fn message(&self) -> Option<String> {
            self.hold().disabled().unwrap()
        }
    }

    #[tokio::test]
    async fn the_real_puppet_is_held_and_given_back_also_by_another_agent() {
        let host = Host::new().await;
        assert_eq!(host.hold().release().await.unwrap(), Released::NotOurs);
        assert_eq!(host.hold().hold("rollout 7").await.unwrap(), Held::Yes);
        assert_eq!(host.message().as_deref(), Some("bunraku: rollout 7"));
        assert_eq!(host.hold().hold("rollout 7").await.unwrap(), Held::Yes);
        assert_eq!(host.hold().owner().unwrap().as_deref(), Some("rollout 7"));

        // A run of ours goes on to ask for a catalog, one of somebody else does not.
        let orders = Orders::new(host.dir.path().join("orders"), Box::new(Detached));
        let (ours, other) = (OrderId::parse("ours").unwrap(), OrderId::parse("other").unwrap());
        let command = Run::command(&host.puppet, &host.dir.path().join("never"));
        orders.run(&ours, &command).await.unwrap();
        orders.run(&other, &command[..command.len() - 2]).await.unwrap();
        for (id, disabled) in [(ours, false), (other, true)] {
            let ended = orders.wait(&id, std::time::Duration::from_secs(120)).await.unwrap();
            let Outcome::Ended { code, output } = ended else { panic!("{ended:?}") };
            assert_eq!((code, output.contains("administratively disabled")), (1, disabled), "{output}");
        }

        assert_eq!(host.hold().release().await.unwrap(), Released::Enabled);
        assert_eq!((host.message(), host.hold().owner().unwrap()), (None, None));
        assert_eq!(host.hold().release().await.unwrap(), Released::NotOurs);
    }

    #[tokio::test]
    async fn what_somebody_else_disabled_stays_disabled() {
        let host = Host::new().await;
        host.hold().tell("disable", Some("do not touch")).await.unwrap();
        let held = host.hold().hold("rollout 7").await.unwrap();
        assert_eq!(held, Held::BySomebody { message: "do not touch".into() });
        assert_eq!(host.hold().release().await.unwrap(), Released::NotOurs);
        assert_eq!(host.message().as_deref(), Some("do not touch"));

        // Ours, then enabled by hand and disabled again for another reason.
        fs::remove_file(&host.locks.disabled).unwrap();
        assert_eq!(host.hold().hold("rollout 8").await.unwrap(), Held::Yes);
        fs::write(&host.locks.disabled, r#"{"disabled_message":"mine now"}"#).unwrap();
        assert_eq!(host.hold().release().await.unwrap(), Released::NotOurs);
        assert_eq!(host.message().as_deref(), Some("mine now"));
    }

    #[tokio::test]
    async fn a_crash_between_the_note_and_the_disabling_leaves_nothing_disabled() {
        let host = Host::new().await;
        host.hold().write(&Note { message: "bunraku: rollout 7".into() }).unwrap();
        assert_eq!(host.hold().release().await.unwrap(), Released::NotOurs);
        assert_eq!(host.hold().owner().unwrap(), None);
        // And the other way round: the note was lost, Puppet's lock names us.
        fs::create_dir_all(host.locks.disabled.parent().unwrap()).unwrap();
        fs::write(&host.locks.disabled, r#"{"disabled_message":"bunraku: rollout 7"}"#).unwrap();
        assert_eq!(host.hold().hold("rollout 7").await.unwrap(), Held::Yes);
        assert_eq!(host.hold().release().await.unwrap(), Released::Enabled);
    }

    #[tokio::test]
    async fn a_run_that_is_going_on_is_waited_for_and_nothing_is_disabled_meanwhile() {
        let host = Host::new().await;
        let mut run = waiting_shell(&["puppet agent: applying configuration"]);
        fs::create_dir_all(host.locks.run.parent().unwrap()).unwrap();
        fs::write(&host.locks.run, run.id().to_string()).unwrap();
        let held = host.hold().hold("rollout 7").await.unwrap();
        assert!(matches!(held, Held::Waiting(seen) if seen.process.pid() == run.id()), "{held:?}");
        assert_eq!(host.message(), None);
        run.kill().unwrap();
        run.wait().unwrap();
        assert_eq!(host.hold().hold("rollout 7").await.unwrap(), Held::Yes);
    }
}
