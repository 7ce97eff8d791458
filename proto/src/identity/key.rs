//! A private key of this machine: P-256, because its signatures cost the controller a twentieth of RSA's.

use std::fmt;

use bunraku_common::Digest;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use zeroize::Zeroizing;

use super::Secret;

/// A private key. `Debug` shows the digest of the public half.
#[derive(Clone)]
pub struct Key {
    pem: Secret,
    public: Digest,
}

impl Key {
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
        Ok(Self { pem: Zeroizing::new(pair.serialize_pem()), public: public(&pair) })
    }

    pub fn from_pem(pem: Secret) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pem(&pem).map_err(KeyError::Read)?;
        Ok(Self { public: public(&pair), pem })
    }

    /// PKCS#8, for the owner's own file only.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// BLAKE3 of the public key, as in [`PeerIdentity::key`](crate::peer::PeerIdentity::key).
    pub const fn digest(&self) -> Digest {
        self.public
    }

    /// A signing request that asks for nothing: the controller takes the public key and decides the rest.
    pub fn csr(&self) -> Result<String, KeyError> {
        let pair = KeyPair::from_pem(&self.pem).map_err(KeyError::Read)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.serialize_request(&pair).and_then(|request| request.pem()).map_err(KeyError::Request)
    }
}

fn public(pair: &KeyPair) -> Digest {
    Digest::of(&pair.subject_public_key_info())
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.public.short())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("could not make a private key")]
    Generate(#[source] rcgen::Error),
    #[error("could not read the private key")]
    Read(#[source] rcgen::Error),
    #[error("could not make a signing request")]
    Request(#[source] rcgen::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_read_again_is_the_same_key() {
        let key = Key::generate().unwrap();
        let again = Key::from_pem(Zeroizing::new(key.pem().to_owned())).unwrap();
        assert_eq!(again.digest(), key.digest());
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = Key::generate().unwrap();
        let secret = key.pem().lines().nth(1).unwrap().to_owned();
        assert!(!format!("{key:?}").contains(&secret));
    }
}
