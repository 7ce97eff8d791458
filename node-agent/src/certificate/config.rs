//! `[certificates]` and `[[bundles]]` of agent.toml: which certificates are shown, and which copies are kept. No other file
//! is ever read or written for it.

use std::path::PathBuf;

use bunraku_host_certificate::What;
use serde::{Deserialize, Serialize};

use crate::files::{Mode, straight};

/// Which certificates are shown to whoever asks the controller, beside this host's own.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificatesConfig {
    /// Files of certificates.
    pub files: Vec<PathBuf>,
    /// `HOST:PORT` of servers that show one: a handshake looks at it, and nothing is sent.
    pub servers: Vec<String>,
}

/// One copy of this host's Puppet certificate for another program.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BundleConfig {
    /// What is in it.
    pub what: What,
    /// Absolute; its directory must be there.
    #[serde(deserialize_with = "straight")]
    pub path: PathBuf,
    /// Without them as the file has them, or its directory where there is no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Octal; without it 0644, with a key 0600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Which of `[services]` reads the file only at a reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<String>,
    /// Which of `[services]` reads the file only at its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
}
