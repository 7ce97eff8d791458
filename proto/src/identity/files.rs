//! Keeps an identity in a directory, replaced as a set: whoever reads it sees the old key with the old certificate or
//! the new key with the new one, after any crash. `current` is a link to one set; sets are written once.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bunraku_common::whole;
use zeroize::Zeroizing;

use super::{Identity, IdentityError, Key, KeyError};
use crate::peer::FleetName;

const CURRENT: &str = "current";
const KEY: &str = "key.pem";
const CERTIFICATE: &str = "certificate.pem";
const CA: &str = "ca.pem";

/// The directory of one identity. Only its owner can look into it.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    dir: PathBuf,
}

impl IdentityFiles {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The identity that was saved last, or `None` before the first enrolment.
    pub fn load(&self, now: SystemTime) -> Result<Option<Identity>, FilesError> {
        let set = self.dir.join(CURRENT);
        let certificate = match fs::read_to_string(set.join(CERTIFICATE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| failed("read", &set.join(CERTIFICATE), source))?,
        };
        let read = |name| {
            let path = set.join(name);
            fs::read_to_string(&path).map_err(|source| failed("read", &path, source))
        };
        let key = Key::from_pem(Zeroizing::new(read(KEY)?))
            .map_err(|source| FilesError::Key { dir: self.dir.clone(), source })?;
        let unusable = |source| FilesError::Unusable { dir: self.dir.clone(), source };
        let fleet = fleet_of(&certificate).map_err(unusable)?;
        Identity::new(certificate, read(CA)?, fleet, key, now).map(Some).map_err(unusable)
    }

    /// Saves an identity so that it survives a power loss, in place of the one before.
    pub fn save(&self, identity: &Identity) -> Result<(), FilesError> {
        private_dir(&self.dir).map_err(|source| failed("make", &self.dir, source))?;
        // Unique by serial: a set that is there already is an interrupted save of the same certificate, or it is live.
        let name = format!("set-{}", identity.certificate.serial);
        let set = self.dir.join(&name);
        if fs::read_link(self.dir.join(CURRENT)).is_ok_and(|live| live.as_os_str() == name.as_str()) {
            return Ok(());
        }
        private_dir(&set).map_err(|source| failed("make", &set, source))?;
        for (file, text) in
            [(KEY, identity.key.pem()), (CERTIFICATE, &identity.certificate_pem), (CA, &identity.ca_pem)]
        {
            let path = set.join(file);
            whole::write_new(&path, text.as_bytes()).map_err(|source| failed("write", &path, source))?;
        }
        whole::sync_dir(&set).map_err(|source| failed("sync", &set, source))?;
        self.switch_to(&name).map_err(|source| failed("replace", &self.dir.join(CURRENT), source))?;
        self.remove_others(&name).map_err(|source| failed("clean", &self.dir, source))
    }

    fn switch_to(&self, set: &str) -> io::Result<()> {
        let link = self.dir.join("current.new");
        remove_if_there(&link)?;
        symlink(set, &link)?;
        fs::rename(&link, self.dir.join(CURRENT))?;
        whole::sync_dir(&self.dir)?;
        // A token works once: the directory itself must not be lost with the power either.
        self.dir.parent().map_or(Ok(()), whole::sync_dir)
    }

    fn remove_others(&self, set: &str) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != *set && name.to_string_lossy().starts_with("set-") {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("could not {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the key in {dir} cannot be used")]
    Key {
        dir: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error("the identity in {dir} cannot be used")]
    Unusable {
        dir: PathBuf,
        #[source]
        source: IdentityError,
    },
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> FilesError {
    FilesError::Io { what, path: path.into(), source }
}

/// The certificate itself names the fleet; it is believed only as far as the CA beside it signed it.
fn fleet_of(certificate_pem: &str) -> Result<FleetName, IdentityError> {
    crate::tls::fleet_in("the own certificate", certificate_pem.as_bytes()).map_err(IdentityError::from)
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
