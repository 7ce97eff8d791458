//! What was signed takes the place of the certificate before, and that one comes back if need be.
//!
//! The key goes first: whoever looks at the certificate sees the new one only when its key is there. Both are always put
//! again, from copies that nobody else touches, so that a crash between them is mended by doing it once more.

use std::path::{Path, PathBuf};

use bunraku_certificates::{AltName, Certificate, DOCUMENT_BYTES};
use bunraku_common::{Chain, crash};
use bunraku_files::{FileError, Found, Place};
use zeroize::Zeroizing;

use crate::{
    KeptError, Pair, PairError, Refused, World,
    kept::{Asked, CERTIFICATE, KEY, Kept, Placing},
};

const BEFORE_CERTIFICATE: &str = "before-certificate.pem";
const BEFORE_KEY: &str = "before-key.pem";

/// The files that Puppet Server reads at its start: `hostcert` and `hostprivkey`.
#[derive(Debug, Clone)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub fallback: Fallback,
}

/// Whose they are where there are none yet: Puppet Server's user and group.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fallback {
    pub owner: Option<u32>,
    pub group: Option<u32>,
}

/// What a server must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// SHA-256 of the DER, hex; `None`: there was no certificate, or none that can be read.
    pub fingerprint: Option<String>,
    pub alt_names: Vec<AltName>,
}

#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "the certificate {} does not lie here (hint: on the controller: bunraku cert request NODE)",
        short(fingerprint)
    )]
    NotStaged { fingerprint: String },
    #[error("the certificate that lies here no longer holds")]
    Refused(#[source] Refused),
    #[error("the certificate that lies here cannot be used")]
    Pair(#[source] PairError),
    #[error("only one of {} and {} is there (hint: ls -l them; a compiler needs both, or none)", certificate.display(), key.display())]
    Half { certificate: PathBuf, key: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("nothing is kept of the certificate before {} (hint: ask for a new one)", short(fingerprint))]
    NothingBefore { fingerprint: String },
    #[error("it could not be kept")]
    Kept(#[from] KeptError),
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}

/// Certificate and key as they lie there, whatever they are.
type Both = (Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>);

impl Files {
    fn of(path: &Path, new_mode: u32) -> Place {
        let (path, step) =
            (path.to_owned(), if new_mode == 0o644 { "certificate" } else { "certificate-key" });
        Place { path, owner: None, group: None, mode: None, new_mode, most_bytes: DOCUMENT_BYTES, step }
    }

    fn certificate(&self) -> Place {
        Self::of(&self.certificate, 0o644)
    }

    fn key(&self) -> Place {
        Self::of(&self.key, 0o640)
    }

    /// `None`: there are none.
    fn read(&self) -> Result<Option<Both>, PlaceError> {
        match (self.certificate().read()?, self.key().read()?) {
            (Found::File { bytes: certificate, .. }, Found::File { bytes: key, .. }) => {
                Ok(Some((certificate, key)))
            }
            (Found::Nothing, Found::Nothing) => Ok(None),
            (Found::Nothing, Found::File { .. }) | (Found::File { .. }, Found::Nothing) => {
                Err(PlaceError::Half { certificate: self.certificate.clone(), key: self.key.clone() })
            }
        }
    }

    fn put(&self, certificate: &[u8], key: &[u8]) -> Result<(), PlaceError> {
        self.put_one(self.key(), key)?;
        crash::point("certificate-between");
        self.put_one(self.certificate(), certificate)
    }

    fn put_one(&self, mut place: Place, bytes: &[u8]) -> Result<(), PlaceError> {
        if let Err(error) = place.sweep() {
            tracing::debug!(error = %Chain(&error), "not swept");
        }
        if matches!(place.read()?, Found::Nothing) {
            (place.owner, place.group) = (self.fallback.owner, self.fallback.group);
        }
        Ok(place.replace(bytes)?)
    }

    fn remove(&self) -> Result<(), PlaceError> {
        self.certificate().remove()?;
        Ok(self.key().remove()?)
    }
}

impl Kept {
    /// Whether it could be placed now. Nothing changes.
    pub fn can_place(&self, fingerprint: &str, files: &Files, world: &World<'_>) -> Result<(), PlaceError> {
        // What was cut short is finished, whatever has become of the request since.
        if self.has_begun(fingerprint, files)? {
            return Ok(());
        }
        let asked = self.staged(fingerprint)?;
        self.still_holds(asked, world).map_err(PlaceError::Refused)?;
        self.pair(&asked.dir)?;
        files.read().map(drop)
    }

    /// Puts it in place, if it still holds. What is there now is kept for the way back, unless that was begun before.
    pub fn place(&mut self, fingerprint: &str, files: &Files, world: &World<'_>) -> Result<(), PlaceError> {
        if !self.has_begun(fingerprint, files)? {
            self.still_holds(self.staged(fingerprint)?, world).map_err(PlaceError::Refused)?;
            self.begin(fingerprint, files)?;
        }
        let placing = self.placing(fingerprint).ok_or_else(|| not_staged(fingerprint))?;
        let pair = self.pair(&placing.dir)?;
        files.put(&pair.certificate, &pair.key)?;
        crash::point("certificate-placed");
        Ok(())
    }

    /// Puts back what was there before.
    pub fn put_back(&mut self, fingerprint: &str, files: &Files) -> Result<(), PlaceError> {
        let placing = self.placing(fingerprint);
        let Placing { dir, before, .. } =
            placing.ok_or_else(|| PlaceError::NothingBefore { fingerprint: fingerprint.to_owned() })?;
        match before {
            false => files.remove()?,
            true => {
                files.put(&self.get(dir, BEFORE_CERTIFICATE)?, &self.get(dir, BEFORE_KEY)?)?;
            }
        }
        crash::point("certificate-put-back");
        Ok(())
    }

    /// What Puppet Server shows once this certificate is in place.
    pub fn served_after(&self, fingerprint: &str) -> Result<Served, PlaceError> {
        let names = match self.placing(fingerprint) {
            Some(placing) => &placing.alt_names,
            None => &self.staged(fingerprint)?.alt_names,
        };
        Ok(Served { fingerprint: Some(fingerprint.to_owned()), alt_names: names.iter().cloned().collect() })
    }

    /// What it shows after the way back. `None`: it was never begun, so that nothing has changed.
    pub fn served_before(&self, fingerprint: &str) -> Result<Option<Served>, PlaceError> {
        let Some(placing) = self.placing(fingerprint) else { return Ok(None) };
        let alt_names = Vec::new();
        if !placing.before {
            return Ok(Some(Served { fingerprint: None, alt_names }));
        }
        let before = Certificate::parse(&self.get(&placing.dir, BEFORE_CERTIFICATE)?);
        // One that cannot be read was no better before.
        let fingerprint = before.ok().map(|before| before.fingerprint().hex());
        Ok(Some(Served { fingerprint, alt_names }))
    }

    fn begin(&mut self, fingerprint: &str, files: &Files) -> Result<(), PlaceError> {
        let asked = self.staged(fingerprint)?.clone();
        let pair = self.pair(&asked.dir)?;
        let before = files.read()?;
        let mut copies: Vec<(&str, &[u8])> = vec![(CERTIFICATE, &pair.certificate), (KEY, &pair.key)];
        if let Some((certificate, key)) = &before {
            copies.extend([(BEFORE_CERTIFICATE, certificate.as_slice()), (BEFORE_KEY, key.as_slice())]);
        }
        // Never the name of what counts now: that stays whole until this is.
        let taken = self.state().placing.as_ref().map(|placing| placing.dir.as_str());
        let dir =
            ["placing-a", "placing-b"].into_iter().find(|name| Some(*name) != taken).unwrap_or("placing-a");
        self.make(dir, &copies)?;
        crash::point("certificate-copied");
        let placing = Placing {
            dir: dir.to_owned(),
            fingerprint: fingerprint.to_owned(),
            alt_names: asked.alt_names,
            before: before.is_some(),
        };
        Ok(self.change(|state| state.placing = Some(placing))?)
    }

    /// Whether some of it lies there. True also half way: then what lies there is not what was there before.
    pub fn has_begun(&self, fingerprint: &str, files: &Files) -> Result<bool, PlaceError> {
        let Some(placing) = self.placing(fingerprint) else { return Ok(false) };
        let new = self.pair(&placing.dir)?;
        let lies = |place: Place, bytes: &[u8]| {
            Ok::<_, FileError>(matches!(place.read()?, Found::File { bytes: there, .. } if *there == bytes))
        };
        Ok(lies(files.key(), &new.key)? || lies(files.certificate(), &new.certificate)?)
    }

    fn placing(&self, fingerprint: &str) -> Option<&Placing> {
        self.state().placing.as_ref().filter(|placing| placing.fingerprint == fingerprint)
    }

    fn staged(&self, fingerprint: &str) -> Result<&Asked, PlaceError> {
        let asked = self.state().asked.as_ref();
        let staged = asked.filter(|asked| asked.staged.as_deref() == Some(fingerprint));
        staged.ok_or_else(|| not_staged(fingerprint))
    }

    /// The new certificate and its key, as they lie in one of the directories.
    fn pair(&self, dir: &str) -> Result<Pair, PlaceError> {
        let key = self.get(dir, KEY)?;
        Pair::new(self.get(dir, CERTIFICATE)?.to_vec(), key).map_err(PlaceError::Pair)
    }
}

fn not_staged(fingerprint: &str) -> PlaceError {
    PlaceError::NotStaged { fingerprint: fingerprint.to_owned() }
}
