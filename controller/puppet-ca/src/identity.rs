//! The main server's own Puppet certificate as a TLS client, and Puppet's CA as the only trust; read again when a file
//! of them changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bunraku_puppet_https::Kept;
use rustls::{
    ClientConfig, RootCertStore,
    client::{VerifierBuilderError, WebPkiServerVerifier},
    crypto::ring,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem, pem::PemObject},
};
use zeroize::Zeroizing;

/// Certificate, key, CA bundle and CRLs, as Puppet keeps them.
#[derive(Debug)]
pub(crate) struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
    crl: PathBuf,
    kept: Kept<ClientConfig, 4>,
}

/// Why Puppet's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// One of them is not there, or not for the controller's user.
    #[error(
        "could not read {path}\nhint: puppet config print --section server hostcert hostprivkey cacert cacrl"
    )]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It is empty or something else.
    #[error("{path} holds no usable PEM")]
    Pem {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    /// They do not belong together, or their kind is not known.
    #[error("certificate {certificate} and key {key} cannot be used")]
    Unusable {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    /// The bundle or the CRLs cannot be used to judge a server.
    #[error("the authorities of {ca} and the CRLs of {crl} cannot be used")]
    Authorities {
        ca: PathBuf,
        crl: PathBuf,
        #[source]
        source: VerifierBuilderError,
    },
    /// The bundle cannot be read by `bunraku-certificates`.
    #[error("{path} is not Puppet's CA bundle")]
    Bundle {
        path: PathBuf,
        #[source]
        source: bunraku_certificates::AuthoritiesError,
    },
}

impl Identity {
    pub(crate) fn new(certificate: PathBuf, key: PathBuf, ca: PathBuf, crl: PathBuf) -> Self {
        let kept = Kept::new([&certificate, &key, &ca, &crl].map(Clone::clone));
        Self { certificate, key, ca, crl, kept }
    }

    pub(crate) fn tls(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        self.kept.get(|| self.load(), unreadable)
    }

    /// The CA bundle, to judge what the CA has issued.
    pub(crate) fn authorities(&self) -> Result<bunraku_certificates::Authorities, IdentityError> {
        bunraku_certificates::Authorities::parse(&read(&self.ca)?)
            .map_err(|source| IdentityError::Bundle { path: self.ca.clone(), source })
    }

    fn load(&self) -> Result<ClientConfig, IdentityError> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        // Puppet's bundle: the issuing CA and the root above it. What is not readable is trusted by nobody.
        roots.add_parsable_certificates(parse::<CertificateDer<'static>>(&self.ca)?);
        // That a CRL is past its end is an alarm, but must not keep the controller from revoking.
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .with_crls(parse::<CertificateRevocationListDer<'static>>(&self.crl)?)
            .build()
            .map_err(|source| IdentityError::Authorities {
                ca: self.ca.clone(),
                crl: self.crl.clone(),
                source,
            })?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|source| IdentityError::Pem { path: self.key.clone(), source })?;
        let unusable = |source| IdentityError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        };
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(parse(&self.certificate)?, key)
            .map_err(unusable)
    }
}

fn parse<T: PemObject>(path: &Path) -> Result<Vec<T>, IdentityError> {
    T::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|source| IdentityError::Pem { path: path.into(), source })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    fs::read(path).map(Zeroizing::new).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Read { path: path.into(), source }
}
