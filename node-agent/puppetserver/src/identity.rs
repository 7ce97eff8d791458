//! The node's own Puppet certificate as a TLS client, read again when a file of it changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bunraku_puppet_https::Kept;
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
    kept: Kept<ClientConfig, 3>,
}

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
        let files = [cert, key, ca].map(Path::to_path_buf);
        Self { cert: cert.into(), key: key.into(), ca: ca.into(), kept: Kept::new(files) }
    }

    pub(crate) fn tls(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        self.kept.get(|| self.load(), unreadable)
    }

    /// For connections that all begin anew: a resumed session says nothing about whom the server lets in.
    pub(crate) fn fresh(&self) -> Result<ClientConfig, IdentityError> {
        self.kept.fresh(|| self.load(), unreadable).map(without_resumption)
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
    fs::read(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Read { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn put(&self, name: &str, text: &str) {
            let new = self.0.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, self.0.path().join(name)).unwrap();
        }

        fn identity(&self) -> Identity {
            let path = |name: &str| self.0.path().join(name);
            Identity::new(&path("cert.pem"), &path("key.pem"), &path("cert.pem"))
        }
    }

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["c1.example".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_is_read_again_when_it_changed_and_half_of_one_is_never_used() {
        let files = Files(tempfile::tempdir().unwrap());
        let (first, second) = (pair(), pair());
        files.put("cert.pem", &first.0);
        files.put("key.pem", &first.1);
        let identity = files.identity();
        let known = identity.tls().unwrap();
        assert!(Arc::ptr_eq(&known, &identity.tls().unwrap()));
        files.put("key.pem", &second.1);
        assert!(matches!(identity.tls(), Err(IdentityError::Unusable { .. })));
        files.put("cert.pem", &second.0);
        let now = identity.tls().unwrap();
        assert!(!Arc::ptr_eq(&known, &now) && Arc::ptr_eq(&now, &identity.tls().unwrap()));
    }

    #[test]
    fn while_pairs_are_replaced_all_the_time_what_is_used_belongs_together() {
        let files = Files(tempfile::tempdir().unwrap());
        let pairs = [pair(), pair()];
        let put = |pair: &(String, String)| {
            files.put("key.pem", &pair.1);
            files.put("cert.pem", &pair.0);
        };
        put(&pairs[0]);
        let identity = files.identity();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..300 {
                    put(&pairs[round % 2]);
                }
                done.store(true, std::sync::atomic::Ordering::SeqCst);
            });
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                // A moment in which only half is there is an error, and no other one.
                assert!(matches!(identity.tls(), Ok(_) | Err(IdentityError::Unusable { .. })));
            }
        });
        identity.tls().unwrap();
    }
}
