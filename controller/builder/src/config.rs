//! What an operator may set about builds: the `[build]` table of the controller's configuration file.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{credentials::has_password, error::BuildError, kind::Kind, output::hide_passwords};

/// How environments are built. `Debug` shows no password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BuildConfig {
    /// The control repository, as git writes it: `https://…`, `git@host:path`, `ssh://…`.
    pub remote: String,
    pub kind: Kind,
    /// The unprivileged user that runs git and the builder. Its `~/.ssh` is where ssh looks for keys.
    pub user: String,
    /// Mirror, caches and built trees. Puppet Server must never read here.
    pub root: PathBuf,
    /// Seconds that one fetch or one build may take before it is killed.
    pub deadline_s: u64,
    /// Git transports that the control repository and modules may use.
    pub transports: Vec<String>,
    /// Paths that stay out of snapshots: `*` and `?` within one name, `**` across directories; a pattern without `/`
    /// matches a name in any directory, one that begins with `/` only in the environment's root.
    pub exclude: Vec<String>,
    /// Environments that may be built side by side.
    pub parallel: usize,
    pub git: PathBuf,
    pub r10k: PathBuf,
    pub g10k: PathBuf,
    /// A git configuration file for credentials, proxies and `insteadOf`. None: git reads no configuration at all.
    pub git_config: Option<PathBuf>,
    /// Passwords of git over https: a line `https://USER:PASSWORD@HOST` for each host, in a file of root with mode 600.
    pub git_credentials: Option<PathBuf>,
    /// Another Puppet Forge than the builder's own default.
    pub forge: Option<String>,
    /// More environment variables for git and the builder, such as `https_proxy`.
    pub environment: BTreeMap<String, String>,
}

impl Default for BuildConfig {
    fn default() -> Self {
        Self {
            remote: String::new(),
            kind: Kind::R10k,
            user: "bunraku-build".to_owned(),
            root: PathBuf::from("/var/lib/bunraku/build"),
            // r10k takes 82 s for five large environments from nothing (measured); a slow Forge ten times that.
            deadline_s: 900,
            transports: vec!["https".to_owned(), "ssh".to_owned()],
            exclude: Vec::new(),
            parallel: 2,
            git: PathBuf::from("git"),
            r10k: PathBuf::from("r10k"),
            g10k: PathBuf::from("g10k"),
            git_config: None,
            git_credentials: None,
            forge: None,
            environment: BTreeMap::new(),
        }
    }
}

impl fmt::Debug for BuildConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildConfig")
            .field("remote", &hide_passwords(&self.remote))
            .field("kind", &self.kind)
            .field("user", &self.user)
            .field("root", &self.root)
            .field("transports", &self.transports)
            .finish_non_exhaustive()
    }
}

impl BuildConfig {
    /// Refuses a control repository that cannot be used as it is written.
    pub fn check_remote(&self) -> Result<(), BuildError> {
        if self.remote.is_empty() {
            Err(BuildError::NoRemote)
        } else if has_password(&self.remote) {
            Err(BuildError::PasswordInRemote)
        } else {
            Ok(())
        }
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_s)
    }
}
