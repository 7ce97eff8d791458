//! Copies of this host's certificate, its key and Puppet's CA bundle for other programs, kept equal to their source.
//!
//! The source is judged first: one that is cut off, or a key without its certificate, is never copied.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use bunraku_certificates::{Authorities, BUNDLE_BYTES, Certificate, DOCUMENT_BYTES};
use bunraku_common::{Chain, crash, whole};
use bunraku_files::{FileError, Found, Place, Reload, Reloads};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{kept::KeptError, pair::has_key};

/// What is in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Puppet's CA bundle (`localcacert`).
    Ca,
    /// This host's certificate.
    Certificate,
    /// Its key.
    Key,
    /// Both in one file, as HAProxy wants them.
    CertificateAndKey,
}

impl What {
    /// Whether others must not read it.
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::Key | Self::CertificateAndKey)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "ca",
            Self::Certificate => "certificate",
            Self::Key => "key",
            Self::CertificateAndKey => "certificate-and-key",
        })
    }
}

/// A copy to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    pub what: What,
    /// Absolute.
    pub path: PathBuf,
    /// Without them as the file has them, or its directory where there is no file.
    pub owner: Option<u32>,
    pub group: Option<u32>,
    pub mode: u32,
    /// The service that reads it only at a reload.
    pub reload: Option<String>,
}

/// Where Puppet keeps what is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// All copies of this host.
#[derive(Debug)]
pub struct Bundles {
    state: PathBuf,
    reloads: Reloads,
    bundles: Vec<Bundle>,
    /// Why a copy is not as it should be.
    owed: BTreeMap<PathBuf, String>,
}

type Content = Result<Zeroizing<Vec<u8>>, String>;

impl Bundles {
    /// `state`: the file in which stands which services have not read their copies yet.
    pub fn open(state: &Path, bundles: Vec<Bundle>) -> Result<Self, KeptError> {
        let mut reloads: Reloads = match fs::read(state) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| KeptError::Damaged { path: state.into(), reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Reloads::default(),
            Err(source) => return Err(KeptError::Io { doing: "read", path: state.into(), source }),
        };
        let told = |service: &str| bundles.iter().any(|bundle| bundle.reload.as_deref() == Some(service));
        reloads.only(told);
        for bundle in &bundles {
            if let Err(error) = bundle.place().sweep() {
                tracing::debug!(error = %Chain(&error), "not swept");
            }
        }
        Ok(Self { state: state.into(), reloads, bundles, owed: BTreeMap::new() })
    }

    pub fn bundles(&self) -> &[Bundle] {
        &self.bundles
    }

    /// Whether every copy is as it should be, and makes it so.
    pub fn look(&mut self, sources: &Sources) {
        for bundle in self.bundles.clone() {
            match self.one(&bundle, sources) {
                Ok(()) => {
                    if self.owed.remove(&bundle.path).is_some() {
                        tracing::info!(file = %bundle.path.display(), "the copy is as it should be again");
                    }
                }
                Err(why) => {
                    if self.owed.get(&bundle.path) != Some(&why) {
                        tracing::warn!(file = %bundle.path.display(), why, "the copy is not as it should be");
                        self.owed.insert(bundle.path, why);
                    }
                }
            }
        }
    }

    /// Why each copy that is not as it should be is not.
    pub const fn owed(&self) -> &BTreeMap<PathBuf, String> {
        &self.owed
    }

    /// Services that have not read their copies since they changed.
    pub fn reloads(&self) -> Vec<Reload> {
        self.reloads.owed()
    }

    pub fn reloaded(&mut self, reload: &Reload) -> Result<(), KeptError> {
        self.change(|reloads| reloads.paid(reload))
    }

    fn one(&mut self, bundle: &Bundle, sources: &Sources) -> Result<(), String> {
        if [&sources.certificate, &sources.key, &sources.ca].contains(&&bundle.path) {
            return Err(
                "it is Puppet's own file (hint: name another path in the [[bundles]] table)".to_owned()
            );
        }
        let wanted = sources.content(bundle.what)?;
        let told = |error: FileError| Chain(&error).to_string();
        let place = bundle.place();
        let same = match place.read().map_err(told)? {
            Found::Nothing => false,
            Found::File { bytes, owner, group, mode, .. } => {
                let same = bytes == wanted;
                let owner_is = |wanted: Option<u32>, is| wanted.is_none_or(|wanted| wanted == is);
                if same
                    && mode == bundle.mode
                    && owner_is(bundle.owner, owner)
                    && owner_is(bundle.group, group)
                {
                    return Ok(());
                }
                same
            }
        };
        if let Some(service) = bundle.reload.as_ref().filter(|_| !same) {
            let owed = self.change(|reloads| reloads.owe(service));
            owed.map_err(|error| Chain(&error).to_string())?;
        }
        crash::point("bundle-owed");
        place.replace(&wanted).map_err(told)?;
        tracing::info!(file = %bundle.path.display(), what = %bundle.what, "copied");
        Ok(())
    }

    /// Saves first.
    fn change(&mut self, change: impl FnOnce(&mut Reloads)) -> Result<(), KeptError> {
        let mut reloads = self.reloads.clone();
        change(&mut reloads);
        let saved = serde_json::to_vec(&reloads).map_err(io::Error::from);
        saved.and_then(|json| whole::replace(&self.state, &json)).map_err(|source| KeptError::Io {
            doing: "write",
            path: self.state.clone(),
            source,
        })?;
        self.reloads = reloads;
        Ok(())
    }
}

impl Bundle {
    fn place(&self) -> Place {
        Place {
            path: self.path.clone(),
            owner: self.owner,
            group: self.group,
            mode: Some(self.mode),
            new_mode: self.mode,
            most_bytes: BUNDLE_BYTES,
            step: "bundle",
        }
    }
}

impl Sources {
    fn content(&self, what: What) -> Content {
        match what {
            What::Ca => self.authorities(),
            What::Certificate => match read(&self.key, DOCUMENT_BYTES) {
                Ok(key) => self.certificate(&key),
                // Whoever has its key elsewhere may still show the certificate.
                Err(_) => self.parsed().map(|(bytes, _)| bytes),
            },
            What::Key => {
                let key = read(&self.key, DOCUMENT_BYTES)?;
                self.certificate(&key)?;
                Ok(key)
            }
            What::CertificateAndKey => {
                let key = read(&self.key, DOCUMENT_BYTES)?;
                let certificate = self.certificate(&key)?;
                let mut both = Zeroizing::new(Vec::with_capacity(certificate.len() + key.len() + 1));
                both.extend_from_slice(&certificate);
                if !both.ends_with(b"\n") {
                    both.push(b'\n');
                }
                both.extend_from_slice(&key);
                Ok(both)
            }
        }
    }

    /// Only together with its key: what is replaced just now is half one and half the other for a moment.
    fn certificate(&self, key: &[u8]) -> Content {
        let (bytes, certificate) = self.parsed()?;
        match has_key(&certificate, key) {
            Ok(true) => Ok(bytes),
            Ok(false) => Err(format!(
                "the key {} does not belong to the certificate {} \
                 (hint: puppet ssl verify names what is wrong)",
                self.key.display(),
                self.certificate.display()
            )),
            Err(error) => Err(format!("{}: {}", self.key.display(), Chain(&error))),
        }
    }

    fn parsed(&self) -> Result<(Zeroizing<Vec<u8>>, Certificate), String> {
        let bytes = read(&self.certificate, DOCUMENT_BYTES)?;
        let certificate = Certificate::parse(&bytes)
            .map_err(|error| format!("{}: {}", self.certificate.display(), Chain(&error)))?;
        Ok((bytes, certificate))
    }

    fn authorities(&self) -> Content {
        let bytes = read(&self.ca, BUNDLE_BYTES)?;
        Authorities::parse(&bytes).map_err(|error| format!("{}: {}", self.ca.display(), Chain(&error)))?;
        Ok(bytes)
    }
}

fn read(path: &Path, most: usize) -> Content {
    let bytes = bunraku_files::read(path, most);
    bytes.map_err(|error| format!("could not read {}: {error}", path.display()))
}
