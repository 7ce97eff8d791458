//! What is special about Puppet Server as a service: a reload closes its port, a broken configuration kills it, and it
//! is ready later than it runs.
//!
//! [`PuppetserverService::act`] is the whole of it: check, tell, wait until it is ready, and when it is not, put the
//! last good configuration back. It is drained before; that is for others to see to, with [`idle`] as its eyes.

pub mod check;
pub mod good_copies;
pub mod idle;
pub mod ready;

use std::{path::PathBuf, time::Duration};

use bunraku_common::Chain;
use bunraku_puppetserver::PuppetServer;

pub use check::{CheckError, ConfigCheck};
pub use good_copies::{CopiesError, GoodCopies};
pub use idle::{Connections, Listening};
pub use ready::{NotReady, RestartFile};

use crate::service::{Acted, Service, ServiceError, State, Verb};

/// Puppet Server as a service of this host.
#[derive(Debug)]
pub struct PuppetserverService<'a> {
    pub service: &'a dyn Service,
    pub server: &'a PuppetServer,
    pub check: ConfigCheck<'a>,
    pub copies: GoodCopies,
    /// The file in which the server counts its starts, where the configuration names it.
    pub restart_file: Option<PathBuf>,
}

/// How a restart or a reload ended well.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// Why the configuration that is in force could not be copied, if so: the next failure has no way back.
    pub no_copies: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// Nothing was told to the server.
    #[error("Puppet Server was left as it is, because it would not come up again")]
    Check(#[source] CheckError),
    #[error("could not tell Puppet Server to {verb}")]
    Service {
        verb: Verb,
        #[source]
        source: ServiceError,
    },
    /// It is up again, with the configuration that it had.
    #[error(
        "Puppet Server did not come up after the {verb} ({why}); it runs again with the last good configuration \
         (hint: what was put back: {}; what was refused lies in {})", list(restored), refused.display()
    )]
    Restored { verb: Verb, why: String, restored: Vec<PathBuf>, refused: PathBuf },
    /// It is not ready, and nothing here can make it so.
    #[error(
        "Puppet Server is not ready after the {verb} ({why}), {tried} (hint: journalctl -u puppetserver -n 100)"
    )]
    Down { verb: Verb, why: String, tried: String },
}

impl PuppetserverService<'_> {
    /// What can be found out before anything changes: a syntax error, a setting that stands in two files.
    pub async fn check(&self) -> Result<(), CheckError> {
        self.check.run().await
    }

    /// Does it, and waits until the server is ready; each of both steps has `deadline`.
    ///
    /// `name` is for the files that are put aside when it fails.
    pub async fn act(&self, verb: Verb, name: &str, deadline: Duration) -> Result<Done, ActError> {
        if verb != Verb::Stop {
            self.check.run().await.map_err(ActError::Check)?;
        }
        let restart_file = self.restart_file().await;
        let before = self.service.status().await;
        let told = self.service.act(verb, deadline).await;
        let why = match told {
            Ok(()) if verb == Verb::Stop => return Ok(Done { no_copies: None }),
            Ok(()) | Err(ServiceError::Unknown { .. }) => {
                match ready::wait(self.service, self.server, restart_file.as_ref(), deadline).await {
                    Ok(()) => {
                        // The server of before is ready, too.
                        if let (Err(unknown), Ok(before)) = (told, before)
                            && matches!(self.service.acted_since(verb, &before.mark).await, Ok(Acted::No))
                        {
                            return Err(ActError::Service { verb, source: unknown });
                        }
                        return Ok(self.is_good());
                    }
                    Err(not_ready) => not_ready.to_string(),
                }
            }
            Err(source @ ServiceError::Failed { .. }) if verb != Verb::Stop => Chain(&source).to_string(),
            Err(source) => return Err(ActError::Service { verb, source }),
        };
        self.put_back(verb, why, name, restart_file.as_ref(), deadline).await
    }

    /// The configuration that the running server has loaded is the one to go back to.
    pub fn is_good(&self) -> Done {
        Done { no_copies: self.copies.keep().err().map(|error| Chain(&error).to_string()) }
    }

    async fn put_back(
        &self,
        verb: Verb,
        why: String,
        name: &str,
        restart_file: Option<&RestartFile>,
        deadline: Duration,
    ) -> Result<Done, ActError> {
        let down = |tried: String| ActError::Down { verb, why: why.clone(), tried };
        let restored = match self.copies.restore(name) {
            Ok(restored) => restored,
            Err(error) => {
                return Err(down(format!(
                    "and the last good configuration is not to be had: {}",
                    Chain(&error)
                )));
            }
        };
        if restored.is_empty() {
            // A start may fail though nothing is wrong that could be put back: seen once on a loaded host, with Debian's unit.
            let state = self.service.status().await.map(|status| status.state);
            if !matches!(state, Ok(State::Failed | State::Stopped)) {
                return Err(down("though its configuration is the last good one".into()));
            }
            let up = self.comes_up(Verb::Start, restart_file, deadline).await;
            return up.map(|()| self.is_good()).map_err(|again| {
                down(format!(
                    "though its configuration is the last good one, and so at a second start: {again}"
                ))
            });
        }
        match self.comes_up(Verb::Restart, restart_file, deadline).await {
            Ok(()) => Err(ActError::Restored { verb, why, restored, refused: self.copies.refused(name) }),
            Err(again) => Err(down(format!("also with the last good configuration: {again}"))),
        }
    }

    async fn comes_up(
        &self,
        verb: Verb,
        restart_file: Option<&RestartFile>,
        deadline: Duration,
    ) -> Result<(), String> {
        if let Err(error) = self.service.act(verb, deadline).await
            && !error.is_unknown()
        {
            return Err(Chain(&error).to_string());
        }
        let ready = ready::wait(self.service, self.server, restart_file, deadline).await;
        ready.map_err(|not_ready| not_ready.to_string())
    }

    /// Asked of the running server while it runs: its own words name the file.
    async fn restart_file(&self) -> Option<RestartFile> {
        if let Some(path) = &self.restart_file {
            return Some(RestartFile::new(path));
        }
        let status = self.service.status().await.ok()?;
        let running = status.main_pid.filter(|_| status.state == State::Running);
        running.and_then(RestartFile::of_process).or_else(RestartFile::known)
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
