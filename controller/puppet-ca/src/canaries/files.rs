//! A directory for each canary. It comes and goes as a whole, by a rename: after any crash a canary has its key and its
//! request, or it is not there.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bunraku_common::{NodeName, whole};
use zeroize::Zeroizing;

use super::CanaryError;

const KEY: &str = "key.pem";
const REQUEST: &str = "request.pem";
const CERTIFICATE: &str = "certificate.pem";
/// There since before the CA was asked to sign.
const SIGNATURE: &str = "signature-asked";

/// Prefixes of what is not there yet, and no longer. No canary's name begins with a dot.
const NEW: &str = ".new-";
const GONE: &str = ".gone-";

/// The directory of all canaries. Only its owner can look into it.
#[derive(Debug, Clone)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    /// Makes the directory, and removes what a crash has left half made or half removed.
    pub(super) fn open(dir: &Path) -> Result<Self, CanaryError> {
        private_dir(dir).map_err(failed("make", dir))?;
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(failed("protect", dir))?;
        let files = Self { dir: dir.into() };
        for name in files.entries()? {
            if name.starts_with(NEW) || name.starts_with(GONE) {
                let path = dir.join(&name);
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(files)
    }

    /// All canaries, with or without a certificate, in the order of their names.
    pub(super) fn names(&self) -> Result<Vec<NodeName>, CanaryError> {
        let mut names: Vec<_> =
            self.entries()?.iter().filter_map(|name| NodeName::parse(name).ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Durable when it returns.
    pub(super) fn begin(&self, name: &NodeName, key: &str, request: &str) -> Result<(), CanaryError> {
        let new = self.dir.join(format!("{NEW}{name}"));
        private_dir(&new).map_err(failed("make", &new))?;
        write_private(&new.join(KEY), key)?;
        write_private(&new.join(REQUEST), request)?;
        sync_dir(&new)?;
        fs::rename(&new, self.path(name)).map_err(failed("place", &self.path(name)))?;
        sync_dir(&self.dir)
    }

    /// That the CA is about to be asked to sign. Durable when it returns.
    pub(super) fn note_signature(&self, name: &NodeName) -> Result<(), CanaryError> {
        write_private(&self.path(name).join(SIGNATURE), "")?;
        sync_dir(&self.path(name))
    }

    /// Whether the CA may have signed because it was asked from here.
    pub(super) fn has_signature(&self, name: &NodeName) -> bool {
        self.path(name).join(SIGNATURE).exists()
    }

    /// Durable when it returns.
    pub(super) fn finish(&self, name: &NodeName, certificate: &str) -> Result<(), CanaryError> {
        let path = self.path(name);
        let new = path.join(format!("{NEW}{CERTIFICATE}"));
        write_private(&new, certificate)?;
        fs::rename(&new, path.join(CERTIFICATE)).map_err(failed("place", &path.join(CERTIFICATE)))?;
        sync_dir(&path)
    }

    pub(super) fn request(&self, name: &NodeName) -> Result<String, CanaryError> {
        self.read(name, REQUEST).map(|text| text.as_str().to_owned())
    }

    pub(super) fn key(&self, name: &NodeName) -> Result<Zeroizing<String>, CanaryError> {
        self.read(name, KEY)
    }

    /// `None` before [`Self::finish`].
    pub(super) fn certificate(&self, name: &NodeName) -> Result<Option<String>, CanaryError> {
        let path = self.path(name).join(CERTIFICATE);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Key and certificate end at the same instant: a key without its certificate would be signed once more.
    pub(super) fn remove(&self, name: &NodeName) -> Result<(), CanaryError> {
        let gone = self.dir.join(format!("{GONE}{name}"));
        match fs::rename(self.path(name), &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(failed("remove", &self.path(name)))?,
        }
        sync_dir(&self.dir)?;
        fs::remove_dir_all(&gone).map_err(failed("remove", &gone))
    }

    fn read(&self, name: &NodeName, file: &str) -> Result<Zeroizing<String>, CanaryError> {
        let path = self.path(name).join(file);
        fs::read_to_string(&path).map(Zeroizing::new).map_err(failed("read", &path))
    }

    fn path(&self, name: &NodeName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    fn entries(&self) -> Result<Vec<String>, CanaryError> {
        let list = || -> io::Result<Vec<String>> {
            fs::read_dir(&self.dir)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        list().map_err(failed("list", &self.dir))
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CanaryError {
    let path = path.to_owned();
    move |source| CanaryError::File { what, path, source }
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write_private(path: &Path, text: &str) -> Result<(), CanaryError> {
    whole::write_new(path, text.as_bytes()).map_err(failed("write", path))
}

fn sync_dir(path: &Path) -> Result<(), CanaryError> {
    whole::sync_dir(path).map_err(failed("sync", path))
}
