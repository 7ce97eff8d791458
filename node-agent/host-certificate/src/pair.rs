//! A certificate and its key, as they lie in files.

use std::fmt;

use bunraku_certificates::{Certificate, CertificateError};
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{PrivateKeyDer, pem, pem::PemObject},
};
use zeroize::Zeroizing;

/// Both in PEM, and belonging together.
pub struct Pair {
    pub certificate: Vec<u8>,
    pub key: Zeroizing<Vec<u8>>,
}

/// Without the key.
impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({} bytes)", self.certificate.len())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PairError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the private key is no usable PEM")]
    Key(#[source] pem::Error),
    #[error("the private key is of a kind that cannot be used")]
    Kind(#[source] rustls::Error),
    #[error("the private key does not belong to the certificate")]
    Strangers,
}

impl Pair {
    pub fn new(certificate: Vec<u8>, key: Zeroizing<Vec<u8>>) -> Result<Self, PairError> {
        let pair = Self { certificate, key };
        match has_key(&Certificate::parse(&pair.certificate)?, &pair.key)? {
            true => Ok(pair),
            false => Err(PairError::Strangers),
        }
    }
}

/// Whether a certificate was issued for this key (PEM).
pub(crate) fn has_key(certificate: &Certificate, key: &[u8]) -> Result<bool, PairError> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(PairError::Key)?;
    let key = any_supported_type(&key).map_err(PairError::Kind)?;
    Ok(key.public_key().is_some_and(|public| certificate.has_key(&public)))
}
