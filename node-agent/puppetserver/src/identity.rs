//! The node's own Puppet certificate as a TLS client, read again when a file of it changes.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

/// Certificate, key and CA, as Puppet keeps them.
#[derive(Debug)]
pub(crate) struct Identity {
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
    /// Kept between requests: a resumed session saves two RSA-4096 signatures.
    loaded: Mutex<Option<(Stamp, Arc<ClientConfig>)>>,
}

/// The inode and the time of the last change of each file.
type Stamp = [(u64, i64, i64); 3];

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} holds no usable PEM")]
    Pem {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("certificate {cert} and key {key} cannot be used")]
    Unusable {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("no certificate in {path} can be trusted as an authority")]
    NoAuthority { path: PathBuf },
    #[error("the canary's certificate or key is no usable PEM")]
    Canary(#[source] pem::Error),
    #[error("the canary's certificate and key do not belong together")]
    CanaryUnusable(#[source] rustls::Error),
}

impl Identity {
    pub(crate) fn new(cert: &Path, key: &Path, ca: &Path) -> Self {
        Self { cert: cert.into(), key: key.into(), ca: ca.into(), loaded: Mutex::new(None) }
    }

    pub(crate) fn tls(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let stamp = [stamp(&self.cert)?, stamp(&self.key)?, stamp(&self.ca)?];
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match &*loaded {
            Some((known, config)) if *known == stamp => Ok(config.clone()),
            Some(_) | None => {
                let config = Arc::new(self.load()?);
                *loaded = Some((stamp, config.clone()));
                Ok(config)
            }
        }
    }

    /// For connections that all begin anew: a resumed session says nothing about whom the server lets in.
    pub(crate) fn fresh(&self) -> Result<ClientConfig, IdentityError> {
        Ok(without_resumption(self.load()?))
    }

    /// The same with another's certificate.
    pub(crate) fn as_canary(&self, certificate: &[u8], key: &[u8]) -> Result<ClientConfig, IdentityError> {
        let certs = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(IdentityError::Canary)?;
        let config =
            self.client(certs.map_err(IdentityError::Canary)?, key, IdentityError::CanaryUnusable)?;
        Ok(without_resumption(config))
    }

    fn load(&self) -> Result<ClientConfig, IdentityError> {
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|source| IdentityError::Pem { path: self.key.clone(), source })?;
        let unusable =
            |source| IdentityError::Unusable { cert: self.cert.clone(), key: self.key.clone(), source };
        self.client(certs(&self.cert)?, key, unusable)
    }

    fn client(
        &self,
        certificate: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        unusable: impl Fn(rustls::Error) -> IdentityError,
    ) -> Result<ClientConfig, IdentityError> {
        let mut roots = RootCertStore::empty();
        // Puppet's ca.pem: the issuing CA and the root above it.
        let (trusted, _) = roots.add_parsable_certificates(certs(&self.ca)?);
        if trusted == 0 {
            return Err(IdentityError::NoAuthority { path: self.ca.clone() });
        }
        ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(&unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificate, key)
            .map_err(&unusable)
    }
}

fn without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

fn certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| IdentityError::Pem { path: path.into(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::Read { path: path.into(), source })
}

fn stamp(path: &Path) -> Result<(u64, i64, i64), IdentityError> {
    let meta = fs::metadata(path).map_err(|source| IdentityError::Read { path: path.into(), source })?;
    Ok((meta.ino(), meta.ctime(), meta.ctime_nsec()))
}
