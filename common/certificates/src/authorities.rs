//! Puppet's CA bundle (`ca_crt.pem`, on agents `ca.pem`): who may issue certificates and CRLs.

use bunraku_common::Digest;

use crate::{
    PemError,
    certificate::{self, Parsed},
    issuer::Issuer,
    key::{KeyError, PublicKey},
    limits::DOCUMENT_BYTES,
    pem,
};

/// The authorities of a bundle. They are believed because of where the file lies: nothing proves them here.
#[derive(Debug, Clone)]
pub struct Authorities {
    all: Vec<Authority>,
    pem: Box<[u8]>,
}

/// A name with a key. Several certificates of a bundle may say the same: a renewed one beside the one it follows.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    pub(crate) subject: Issuer,
    pub(crate) key: PublicKey,
    pub(crate) may_sign_crls: bool,
    /// Of the certificate that lasts longest.
    not_after_s: u64,
}

impl Authorities {
    /// Reads every `CERTIFICATE` block. Text between the blocks is ignored; anything else is an error.
    pub fn parse(file: &[u8]) -> Result<Self, AuthoritiesError> {
        let mut all: Vec<Authority> = Vec::new();
        for (at, der) in pem::blocks(file, certificate::LABEL)?.iter().enumerate() {
            let authority = Authority::read(der, at + 1)?;
            let known = all.iter_mut().find(|known| {
                known.subject.may_be(&authority.subject) && known.key.digest() == authority.key.digest()
            });
            match known {
                Some(known) => known.not_after_s = known.not_after_s.max(authority.not_after_s),
                None => all.push(authority),
            }
        }
        Ok(Self { all, pem: file.into() })
    }

    /// The distinguished names, for people, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|authority| authority.subject.shown.as_str())
    }

    /// When the first of them ends, in Unix seconds.
    pub fn ends_s(&self) -> u64 {
        self.iter().map(|authority| authority.not_after_s).min().unwrap_or(0)
    }

    /// The file as it was read.
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }

    /// Of [`Self::pem`].
    pub fn digest(&self) -> Digest {
        Digest::of(&self.pem)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Authority> {
        self.all.iter()
    }
}

impl Authority {
    fn read(der: &[u8], block: usize) -> Result<Self, AuthoritiesError> {
        if der.len() > DOCUMENT_BYTES {
            return Err(AuthoritiesError::Size { block });
        }
        let parsed = Parsed::read(der).map_err(|_| AuthoritiesError::Malformed { block })?;
        if !parsed.is_authority {
            return Err(AuthoritiesError::NoAuthority { block, subject: parsed.subject.shown });
        }
        let key = PublicKey::read(parsed.spki).map_err(|source| AuthoritiesError::Key { block, source })?;
        Ok(Self {
            subject: parsed.subject,
            key,
            may_sign_crls: parsed.may_sign_crls,
            not_after_s: parsed.not_after_s,
        })
    }
}

/// Why a CA bundle is not accepted. Blocks are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    /// Not the PEM that was expected.
    #[error("could not read the CA bundle")]
    Pem(#[from] PemError),
    /// More than [`DOCUMENT_BYTES`] of DER.
    #[error("block {block} of the CA bundle is larger than a certificate may be")]
    Size { block: usize },
    /// Not the DER of a certificate, or with an extension twice.
    #[error("block {block} of the CA bundle is not a certificate")]
    Malformed { block: usize },
    /// Its basic constraints do not say `CA:TRUE`.
    #[error("block {block} of the CA bundle, {subject}, is not an authority's certificate")]
    NoAuthority { block: usize, subject: String },
    /// Too weak, or of another kind.
    #[error("block {block} of the CA bundle has a key that is not accepted")]
    Key { block: usize, source: KeyError },
}
