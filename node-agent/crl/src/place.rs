//! A file of CRLs to keep, as this host's configuration grants it.

use std::path::PathBuf;

use bunraku_certificates::BUNDLE_BYTES;
use bunraku_files::{FileError, Found};

/// A file to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Absolute.
    pub path: PathBuf,
    /// Owner, group and mode. What is not given stays as the present file has it; a new file belongs to the owner of its
    /// directory, as Puppet's ssldir does to Puppet Server.
    pub owner: Option<u32>,
    pub group: Option<u32>,
    pub mode: Option<u32>,
    /// The CA bundle that its CRLs must satisfy; read whenever something is judged.
    pub ca: PathBuf,
    /// The service that reads it only at a reload.
    pub reload: Option<String>,
}

impl Place {
    pub(crate) fn read(&self) -> Result<Found, FileError> {
        self.file().read()
    }

    pub(crate) fn replace(&self, bytes: &[u8]) -> Result<(), FileError> {
        self.file().replace(bytes)
    }

    pub(crate) fn sweep(&self) -> Result<(), FileError> {
        self.file().sweep()
    }

    fn file(&self) -> bunraku_files::Place {
        bunraku_files::Place {
            path: self.path.clone(),
            owner: self.owner,
            group: self.group,
            mode: self.mode,
            // Everybody may read a CRL.
            new_mode: 0o644,
            most_bytes: BUNDLE_BYTES,
            step: "crl",
        }
    }
}
