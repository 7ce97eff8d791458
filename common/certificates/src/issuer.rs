//! Which authority stands behind a certificate or CRL.

use std::{fmt, str::FromStr};

use bunraku_common::{Digest, digest::NotADigest};
use serde::{Deserialize, Serialize};

use crate::der::{Element, NotDer, SEQUENCE};

/// An authority, as what it issued names it: BLAKE3 over the issuer's distinguished name (DER) and, where there is one,
/// the key identifier of the authority key identifier.
///
/// It outlives a renewal of the authority's certificate with the same name and key. It is not proof of anything before
/// [`Crls::check`](crate::Crls::check).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IssuerId(Digest);

impl IssuerId {
    /// A name in DER says itself where it ends, so nothing stands between the two.
    fn of(name: &[u8], key_id: Option<&[u8]>) -> Self {
        Self(Digest::of(&[name, key_id.unwrap_or_default()].concat()))
    }

    /// The first twelve digits: enough for people, never for programs.
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for IssuerId {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A name with the identifier of the key behind it: the issuer that something names, or the subject of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issuer {
    pub(crate) id: IssuerId,
    name: Box<[u8]>,
    key_id: Option<Box<[u8]>>,
    /// For people.
    pub(crate) shown: String,
}

impl Issuer {
    /// `name`: a distinguished name in DER.
    pub(crate) fn new(name: &[u8], key_id: Option<&[u8]>) -> Result<Self, NotDer> {
        let shown = crate::names::show_name(name)?;
        Ok(Self { id: IssuerId::of(name, key_id), name: name.into(), key_id: key_id.map(Into::into), shown })
    }

    /// Whether both may mean the same authority: the same name, and no two different keys. One of them may leave out the
    /// key. The names are compared byte by byte, as webpki does it; Puppet's are UTF8String throughout (measured: 7.9.5,
    /// in Ruby and in Java).
    pub(crate) fn may_be(&self, other: &Self) -> bool {
        let keys_differ = matches!((&self.key_id, &other.key_id), (Some(a), Some(b)) if a != b);
        self.name == other.name && !keys_differ
    }
}

/// The key identifier in the value of an authority key identifier. Puppet Server adds the issuer's name and serial to it
/// in certificates, and not in CRLs (measured, 7.9.5), so only the key identifier is taken.
pub(crate) fn authority_key_id(value: &[u8]) -> Result<Option<&[u8]>, NotDer> {
    let mut reader = Element::only(value, SEQUENCE)?.inside();
    Ok(reader.optional(&[0x80])?.map(|key_id| key_id.content))
}
