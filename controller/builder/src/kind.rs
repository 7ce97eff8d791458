//! The two builders.

use serde::{Deserialize, Serialize};

/// Which program resolves the Puppetfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    R10k,
    G10k,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::R10k => "r10k",
            Self::G10k => "g10k",
        }
    }
}
