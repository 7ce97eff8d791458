//! `bunraku-agent doctor`: is this compiler ready for atomic deploys, and if not, which line of which file mends it?
//!
//! `facts` looks, `judge` decides without looking (so that every finding can be tested), `fix` applies what is safe and
//! keeps a copy. It never reloads or restarts Puppet Server: it names the reload that is due.

mod auth;
mod difference;
pub mod facts;
pub mod fix;
pub(crate) mod hocon;
mod ini;
pub mod joining;
mod judge;

pub use auth::denies_pool_flush;
pub use facts::{Facts, FactsError, Surroundings, gather};
pub use fix::{Applied, Fix, Refused, apply};
pub use judge::check;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The name of the check, stable over releases.
    pub check: &'static str,
    pub severity: Severity,
    /// What was seen.
    pub found: String,
    /// What to do, with file, section and line; empty when nothing is to be done.
    pub mend: String,
    /// What `--fix` would do.
    pub fix: Option<Fix>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Ok,
    /// It works, and one day it will hurt.
    Warning,
    /// Deploys to this compiler fail, or are not atomic.
    Error,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}
