//! The two builders: the file that configures a run, and the words that start it.
//!
//! Facts measured with r10k 3.15.4 and g10k 0.9.7: both exit 1 for a Puppetfile that does not parse, a module that
//! cannot be reached and a ref that does not exist; g10k exits 0 for a branch that does not exist, so the file that a
//! builder leaves behind is read, too (`manifest`).

use std::{ffi::OsString, path::Path};

use crate::{kind::Kind, place::Place};

impl Kind {
    /// What the builder leaves in a tree that it deployed.
    pub(crate) const fn manifest(self) -> &'static str {
        match self {
            Self::R10k => ".r10k-deploy.json",
            Self::G10k => ".g10k-deploy.json",
        }
    }

    /// The argument that makes it print its version.
    pub(crate) const fn version_argument(self) -> &'static str {
        match self {
            Self::R10k => "version",
            Self::G10k => "-version",
        }
    }

    pub(crate) fn arguments(self, place: &Place, branch: &str) -> Vec<OsString> {
        let config: OsString = place.config().into();
        match self {
            Self::R10k => vec![
                "deploy".into(),
                "environment".into(),
                "--modules".into(),
                "--verbose=info".into(),
                "--config".into(),
                config,
                branch.into(),
            ],
            Self::G10k => vec!["-config".into(), config, "-branch".into(), branch.into(), "-info".into()],
        }
    }

    /// The YAML for one environment: its own repository, cache and base directory, so that purging stays inside.
    pub(crate) fn configuration(self, place: &Place, forge: Option<&str>, deadline_s: u64) -> String {
        let (cache, base) = (quoted(&place.cache()), quoted(&place.base()));
        let remote = serde_json::Value::String(place.control_url());
        let forge = forge.map(|url| serde_json::Value::String(url.to_owned()));
        let purge = "[deployment, environment, puppetfile]";
        let source = format!(
            "sources:\n  control:\n    remote: {remote}\n    basedir: {base}\n    prefix: false\n    invalid_branches: correct\n"
        );
        match self {
            Self::R10k => {
                let forge = forge.map_or_else(String::new, |url| format!("forge:\n  baseurl: {url}\n"));
                format!(
                    "---\ncachedir: {cache}\ngit:\n  provider: shellgit\n{forge}deploy:\n  purge_levels: {purge}\n{source}"
                )
            }
            Self::G10k => {
                let forge = forge.map_or_else(String::new, |url| format!("forge_base_url: {url}\n"));
                format!(
                    "---\n:cachedir: {cache}\ntimeout: {deadline_s}\n{forge}purge_levels: {purge}\n{source}    error_if_branch_is_missing: true\n"
                )
            }
        }
    }
}

/// A JSON string is a YAML string, whatever stands in it.
fn quoted(path: &Path) -> serde_json::Value {
    serde_json::Value::String(path.display().to_string())
}
