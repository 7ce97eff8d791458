//! Canaries: certificates that are made to be revoked. A node that refuses one after its revocation, and took it before,
//! has the new CRL in force.
//!
//! **A canary's key leaves the controller only after its revocation.** Until then nobody but the controller can be it;
//! afterwards it opens no door whose CRL is as new as the revocation.

mod files;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bunraku_certificates::{
    AltName, Certificate, CertificateError, Crls, IssuerId, RequestError, SigningRequest,
};
use bunraku_common::NodeName;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::{sync::Mutex, task::spawn_blocking};
use zeroize::Zeroizing;

use self::files::Files;
use crate::{CaError, CertificateStatus, PuppetCa, Why};

/// How canaries' names begin; 16 random hex digits follow.
pub const PREFIX: &str = "bunraku-canary-";

/// The stock on this host.
#[derive(Debug)]
pub struct Canaries {
    files: Files,
    /// One is made or removed at a time.
    at_work: Mutex<()>,
}

/// A signed certificate whose key is kept here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Its certname: what [`PuppetCa::revoke`] takes.
    pub name: NodeName,
    pub issuer: IssuerId,
    /// Lower-case hex without leading zeros, unique with the issuer.
    pub serial: String,
    /// Unix seconds; the last one in which it is good.
    pub ends_s: u64,
}

/// Certificate and key of a canary that is revoked: nothing else makes one than [`Canaries::keys`].
pub struct RevokedKeys {
    certificate_pem: String,
    key_pem: Zeroizing<String>,
}

impl Canaries {
    /// `dir` is the canaries' alone: it is made, and set to 0700. One process at a time may have it open.
    pub fn open(dir: &Path) -> Result<Self, CanaryError> {
        Ok(Self { files: Files::open(dir)?, at_work: Mutex::default() })
    }

    /// Adds one to the stock, good for `ttl` (whole seconds).
    ///
    /// What a crash, or an answer that never came, has left unfinished is continued first: with the key on disk and the
    /// same request. So there is never more than one unfinished name at the CA.
    pub async fn stock(&self, ca: &PuppetCa, ttl: Duration) -> Result<Canary, CanaryError> {
        let _one = self.at_work.lock().await;
        for name in self.files.names()? {
            if self.files.certificate(&name)?.is_none()
                && let Some(canary) = self.finish(ca, &name, ttl).await?
            {
                return Ok(canary);
            }
        }
        let name = self.begin().await?;
        self.finish(ca, &name, ttl).await?.ok_or(CanaryError::Lost { name })
    }

    /// The stock, without what is unfinished.
    pub fn held(&self) -> Result<Vec<Canary>, CanaryError> {
        let all = self.files.names()?.into_iter().map(|name| self.load(name));
        all.filter_map(Result::transpose).collect()
    }

    /// Certificate and key, to hand out. Refused until `crls` revokes it: those that the CA has published, after
    /// [`Crls::check`].
    pub fn keys(&self, issuer: IssuerId, serial: &str, crls: &Crls) -> Result<RevokedKeys, CanaryError> {
        let Canary { name, .. } = self.find(issuer, serial)?;
        let certificate_pem = self.certificate_pem(&name)?;
        if !crls.revokes_certificate(&parse(&name, &certificate_pem)?) {
            return Err(CanaryError::NotRevoked { name });
        }
        Ok(RevokedKeys { certificate_pem, key_pem: self.files.key(&name)? })
    }

    /// Forgets a canary: at the CA, and here. Its entry on the CRL stays until it expires.
    pub async fn discard(&self, ca: &PuppetCa, issuer: IssuerId, serial: &str) -> Result<(), CanaryError> {
        let _one = self.at_work.lock().await;
        let Canary { name, .. } = self.find(issuer, serial)?;
        self.remove(ca, name).await
    }

    /// Names like canaries' that the CA has and nobody here holds: an older controller's, or somebody's jest. They are
    /// told and never touched. Reads every file of the CA.
    pub async fn strangers(&self, ca: &PuppetCa) -> Result<Vec<CertificateStatus>, CanaryError> {
        let all = ca.statuses(None).await?;
        let held = self.files.names()?;
        let is_stranger = |status: &CertificateStatus| {
            status.name.starts_with(PREFIX) && !held.iter().any(|name| name.as_str() == status.name)
        };
        Ok(all.into_iter().filter(is_stranger).collect())
    }

    /// Key and request on disk, before anybody hears of them.
    async fn begin(&self) -> Result<NodeName, CanaryError> {
        let random = getrandom::u64().map_err(|error| CanaryError::Make(Box::new(error)))?;
        let text = format!("{PREFIX}{random:016x}");
        let name = NodeName::parse(&text).map_err(|error| CanaryError::Make(Box::new(error)))?;
        let (key, request) = key_and_request(&name).map_err(|error| CanaryError::Make(Box::new(error)))?;
        let begun = name.clone();
        self.on_disk(move |files| files.begin(&begun, &key, &request)).await?;
        Ok(name)
    }

    /// From wherever it stands to the signed certificate. `None`: it was revoked meanwhile, and is removed.
    async fn finish(
        &self,
        ca: &PuppetCa,
        name: &NodeName,
        ttl: Duration,
    ) -> Result<Option<Canary>, CanaryError> {
        let request_pem = self.files.request(name)?;
        let ours = SigningRequest::parse(request_pem.as_bytes())
            .map_err(|source| CanaryError::Request { name: name.clone(), source })?;
        match ca.submit(name, &request_pem).await {
            Ok(()) => {}
            Err(error) if matches!(error.why(), Why::Revoked { .. }) => {
                self.remove(ca, name.clone()).await?;
                return Ok(None);
            }
            Err(error) if matches!(error.why(), Why::OtherKey { .. }) => return self.give_up(ca, name).await,
            Err(error) => return Err(error.into()),
        }
        if let Some(pending) = ca.request(name).await? {
            if pending.fingerprint() != ours.fingerprint() {
                return self.give_up(ca, name).await;
            }
            let signing = name.clone();
            self.on_disk(move |files| files.note_signature(&signing)).await?;
            ca.sign(name, Some(ttl)).await?;
        }
        let Some(issued) = ca.certificate(name).await? else {
            return Err(CanaryError::Lost { name: name.clone() });
        };
        if !issued.certificate.has_key_of(&ours) {
            return self.give_up(ca, name).await;
        }
        check(name, &issued.certificate, ca)?;
        let (finished, pem) = (name.clone(), issued.pem);
        self.on_disk(move |files| files.finish(&finished, &pem)).await?;
        Ok(Some(canary(name.clone(), &issued.certificate)))
    }

    /// The name is somebody else's at the CA. What was signed for them by mistake, because another request took the place
    /// of ours after it was compared, is revoked; nothing else of theirs is ours to touch.
    async fn give_up<T>(&self, ca: &PuppetCa, name: &NodeName) -> Result<T, CanaryError> {
        if self.files.has_signature(name) {
            match ca.revoke(name).await {
                Err(error) if !matches!(error.why(), Why::NoCertificate { .. }) => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
        }
        let gone = name.clone();
        self.on_disk(move |files| files.remove(&gone)).await?;
        Err(CanaryError::Stranger { name: name.clone() })
    }

    /// First at the CA: what is forgotten here could not be forgotten there.
    async fn remove(&self, ca: &PuppetCa, name: NodeName) -> Result<(), CanaryError> {
        ca.forget(&name).await?;
        self.on_disk(move |files| files.remove(&name)).await
    }

    fn find(&self, issuer: IssuerId, serial: &str) -> Result<Canary, CanaryError> {
        let held = self.held()?;
        let found = held.into_iter().find(|canary| canary.issuer == issuer && canary.serial == serial);
        found.ok_or_else(|| CanaryError::Unknown { serial: serial.to_owned() })
    }

    fn load(&self, name: NodeName) -> Result<Option<Canary>, CanaryError> {
        let Some(pem) = self.files.certificate(&name)? else { return Ok(None) };
        let certificate = parse(&name, &pem)?;
        Ok(Some(canary(name, &certificate)))
    }

    fn certificate_pem(&self, name: &NodeName) -> Result<String, CanaryError> {
        self.files.certificate(name)?.ok_or_else(|| CanaryError::Lost { name: name.clone() })
    }

    /// Waiting for a disk must not keep other tasks from running.
    async fn on_disk(
        &self,
        act: impl FnOnce(&Files) -> Result<(), CanaryError> + Send + 'static,
    ) -> Result<(), CanaryError> {
        let files = self.files.clone();
        spawn_blocking(move || act(&files)).await.map_err(|error| CanaryError::Make(Box::new(error)))?
    }
}

impl RevokedKeys {
    /// As the CA gave it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// PKCS#8, P-256.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

impl fmt::Debug for RevokedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevokedKeys").finish_non_exhaustive()
    }
}

/// A request that asks for nothing but its name.
fn key_and_request(name: &NodeName) -> Result<(Zeroizing<String>, String), rcgen::Error> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name.as_str());
    let request = parameters.serialize_request(&pair)?.pem()?;
    Ok((Zeroizing::new(pair.serialize_pem()), request))
}

/// Whether the CA has issued what a canary must be: nothing but this name.
fn check(name: &NodeName, certificate: &Certificate, ca: &PuppetCa) -> Result<(), CanaryError> {
    let own = AltName::dns(name);
    let wrong = if !certificate.is_issued_by(&ca.authorities()?) {
        "it is not issued by the CA bundle of this host"
    } else if certificate.is_authority() {
        "it is an authority's"
    } else if certificate.alt_names().iter().any(|alt_name| *alt_name != own) {
        "it has other names"
    } else {
        return Ok(());
    };
    Err(CanaryError::NotOurs { name: name.clone(), wrong })
}

fn parse(name: &NodeName, pem: &str) -> Result<Certificate, CanaryError> {
    Certificate::parse(pem.as_bytes())
        .map_err(|source| CanaryError::Certificate { name: name.clone(), source })
}

fn canary(name: NodeName, certificate: &Certificate) -> Canary {
    Canary {
        name,
        issuer: certificate.issuer(),
        serial: certificate.serial().to_owned(),
        ends_s: certificate.not_after_s(),
    }
}

/// Why there is no canary, or no key of one.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// What [`CaError`] says. After an unknown outcome the next [`Canaries::stock`] finds out.
    #[error("Puppet's CA did not do what a canary needs")]
    Ca(#[from] CaError),
    #[error("could not {what} {path}")]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// No random numbers, say.
    #[error("could not make a canary")]
    Make(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the request of canary {name} on disk cannot be read\nhint: remove its directory")]
    Request {
        name: NodeName,
        #[source]
        source: RequestError,
    },
    #[error("the certificate of canary {name} on disk cannot be read\nhint: remove its directory")]
    Certificate {
        name: NodeName,
        #[source]
        source: CertificateError,
    },
    /// The next call makes another one.
    #[error(
        "Puppet's CA has a request or certificate of canary {name} with another key; the canary is given up"
    )]
    Stranger { name: NodeName },
    /// Deleted by somebody, or revoked at once.
    #[error("Puppet's CA has no certificate of canary {name} after it was signed")]
    Lost { name: NodeName },
    #[error("the certificate of canary {name} is not what was asked for: {wrong}")]
    NotOurs { name: NodeName, wrong: &'static str },
    /// The rule of this module.
    #[error("the CRL does not revoke canary {name}: its key stays here until then")]
    NotRevoked { name: NodeName },
    #[error("no canary with the serial {serial} is held")]
    Unknown { serial: String },
}

#[cfg(test)]
#[path = "../canaries_test.rs"]
mod tests;
