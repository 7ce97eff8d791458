//! `[crl]` of agent.toml: which files of Puppet's CRLs are kept on this host. No other is ever written.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::files::{Mode, straight};

/// Which files of CRLs are kept.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrlConfig {
    /// Whether this host takes CRLs. With `[code]` Puppet Server's own file is one of them.
    pub enabled: bool,
    /// Files of other programs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<CrlFile>,
}

impl Default for CrlConfig {
    fn default() -> Self {
        Self { enabled: true, files: Vec::new() }
    }
}

/// One more file of CRLs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CrlFile {
    /// Absolute; its directory must be there.
    #[serde(deserialize_with = "straight")]
    pub path: PathBuf,
    /// Without them as the file has them, or its directory where there is no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Octal; without it as the file has it, or 0644.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The CA bundle to judge by; without it Puppet's `localcacert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Which of `[services]` reads the file only at a reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<String>,
    /// Which of `[services]` reads the file only at its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
}
