//! Puppet's own agent on this host: whether it runs, keeping it from running for a while, and what its exit code means.

mod exit;
mod hold;
mod run;

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use bunraku_puppetserver::{
    Puppet,
    command::{CommandError, Invocation},
};

pub use exit::RunResult;
pub use hold::{Held, Hold, HoldError, Released};
pub use run::Run;

/// A second of Ruby; a loaded machine needs several.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where Puppet's agent keeps its locks, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockFiles {
    /// There while a catalog is applied, with the process id.
    pub run: PathBuf,
    /// There while the agent is disabled, with the message in JSON.
    pub disabled: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("could not ask puppet where its agent keeps its locks")]
    Command(#[source] CommandError),
    #[error("`{command}` did not answer with a usable value of `{setting}`")]
    Missing { command: String, setting: &'static str },
}

impl LockFiles {
    /// Asked of the `puppet` program, as the user that runs the agent.
    pub async fn ask(puppet: &Puppet) -> Result<Self, AskError> {
        let words = ["config", "print", "--section", "agent", "--render-as", "json"];
        let names = ["agent_catalog_run_lockfile", "agent_disabled_lockfile"];
        let call = call(puppet, words.iter().copied(), names);
        let output = call.run().await.map_err(AskError::Command)?;
        // A warning of Ruby or of a plugin may come before the object.
        let object = &output.stdout[output.stdout.find('{').unwrap_or(0)..];
        let values: HashMap<String, serde_json::Value> =
            serde_json::from_str(object.trim()).unwrap_or_default();
        let path = |setting: &'static str| match values.get(setting).and_then(|value| value.as_str()) {
            Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
            Some(_) | None => Err(AskError::Missing { command: call.to_string(), setting }),
        };
        Ok(Self { run: path(names[0])?, disabled: path(names[1])? })
    }
}

/// `puppet WORDS (what every call needs) MORE`.
fn call<'a>(
    puppet: &'a Puppet,
    words: impl IntoIterator<Item = &'a str>,
    more: impl IntoIterator<Item = &'a str>,
) -> Invocation<'a> {
    let always = puppet.program().1.iter().cloned();
    let args: Vec<OsString> = words.into_iter().map(OsString::from).chain(always).collect();
    let args = args.into_iter().chain(more.into_iter().map(OsString::from)).collect();
    puppet.invocation(args, Path::new("/"), DEADLINE)
}
