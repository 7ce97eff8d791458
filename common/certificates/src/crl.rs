//! One CRL.

use std::collections::BTreeSet;

use bunraku_common::Digest;

use crate::{
    CrlError, CrlNumber, IssuerId,
    der::{CONTEXT_0, Element, Extension, GENERALIZED_TIME, INTEGER, NotDer, Reader, SEQUENCE, UTC_TIME},
    issuer::{self, Issuer},
    key::{PublicKey, Unverified},
    names::hex_serial,
    signed::Signed,
};

const AUTHORITY_KEY_IDENTIFIER: &str = "2.5.29.35";
const CRL_NUMBER: &str = "2.5.29.20";
const DELTA_CRL_INDICATOR: &str = "2.5.29.27";
const ISSUING_DISTRIBUTION_POINT: &str = "2.5.29.28";

/// One CRL of a file, complete in itself: it has a number and an end, and is neither a delta nor a part of something.
#[derive(Debug, Clone)]
pub struct Crl {
    der: Box<[u8]>,
    pub(crate) issuer: Issuer,
    number: CrlNumber,
    this_update_s: u64,
    next_update_s: u64,
    revoked: BTreeSet<String>,
}

impl Crl {
    /// `block` is its place in the file, for errors.
    pub(crate) fn read(der: Vec<u8>, block: usize) -> Result<Self, CrlError> {
        let body = Body::read(&der).map_err(|NotDer| CrlError::Malformed { block })?;
        let malformed = |NotDer| CrlError::Malformed { block };
        let (mut number, mut key_id, mut seen) = (None, None, BTreeSet::new());
        for extension in body.extensions {
            if !seen.insert(extension.oid.clone()) {
                return Err(CrlError::Extension { block, oid: extension.oid });
            }
            match extension.oid.as_str() {
                AUTHORITY_KEY_IDENTIFIER => {
                    key_id = issuer::authority_key_id(extension.value).map_err(malformed)?;
                }
                CRL_NUMBER => number = Some(read_number(extension.value, block)?),
                DELTA_CRL_INDICATOR | ISSUING_DISTRIBUTION_POINT => {
                    return Err(CrlError::Extension { block, oid: extension.oid });
                }
                _ if extension.critical => {
                    return Err(CrlError::Extension { block, oid: extension.oid });
                }
                _ => {}
            }
        }
        let issuer = Issuer::new(body.issuer, key_id).map_err(malformed)?;
        let number = number.ok_or_else(|| CrlError::NoNumber { issuer: issuer.shown.clone() })?;
        let next_update_s =
            body.next_update_s.ok_or_else(|| CrlError::NoEnd { issuer: issuer.shown.clone() })?;
        let revoked =
            body.revoked.map_or_else(|| Ok(BTreeSet::new()), |entries| read_entries(entries, block))?;
        let this_update_s = body.this_update_s;
        Ok(Self { issuer, number, this_update_s, next_update_s, revoked, der: der.into() })
    }

    /// The authority that it names as its issuer.
    pub const fn issuer(&self) -> IssuerId {
        self.issuer.id
    }

    /// The issuer's distinguished name, for people.
    pub fn issuer_name(&self) -> &str {
        &self.issuer.shown
    }

    /// Grows with each CRL of the authority.
    pub const fn number(&self) -> CrlNumber {
        self.number
    }

    /// When it was issued, in Unix seconds.
    pub const fn this_update_s(&self) -> u64 {
        self.this_update_s
    }

    /// When it ends, in Unix seconds.
    pub const fn next_update_s(&self) -> u64 {
        self.next_update_s
    }

    /// The serials that it revokes: lower-case hex without leading zeros.
    pub const fn revoked(&self) -> &BTreeSet<String> {
        &self.revoked
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.der)
    }

    pub(crate) fn verify(&self, key: &PublicKey) -> Result<(), Unverified> {
        Signed::read(&self.der).map_err(|NotDer| Unverified::Signature)?.verify(key)
    }
}

/// The fields of a TBSCertList (RFC 5280, 5.1).
struct Body<'a> {
    issuer: &'a [u8],
    this_update_s: u64,
    next_update_s: Option<u64>,
    revoked: Option<Element<'a>>,
    extensions: Vec<Extension<'a>>,
}

impl<'a> Body<'a> {
    fn read(der: &'a [u8]) -> Result<Self, NotDer> {
        let signed = Signed::read(der)?;
        let mut reader = signed.body.inside();
        let version = reader.optional(&[INTEGER])?;
        if version.is_some_and(|version| version.content != [1])
            || reader.expect(SEQUENCE)?.whole != signed.algorithm
        {
            return Err(NotDer);
        }
        let issuer = reader.expect(SEQUENCE)?.whole;
        let this_update_s = reader.time()?;
        let next_update_s =
            reader.optional(&[UTC_TIME, GENERALIZED_TIME])?.map(Element::seconds).transpose()?;
        let revoked = reader.optional(&[SEQUENCE])?;
        let extensions = match reader.optional(&[CONTEXT_0])? {
            Some(wrapper) => Extension::all(Element::only(wrapper.content, SEQUENCE)?)?,
            None => Vec::new(),
        };
        reader.end()?;
        Ok(Self { issuer, this_update_s, next_update_s, revoked, extensions })
    }
}

fn read_number(value: &[u8], block: usize) -> Result<CrlNumber, CrlError> {
    Element::only(value, INTEGER)
        .and_then(Element::natural)
        .ok()
        .and_then(CrlNumber::from_octets)
        .ok_or(CrlError::Number { block })
}

fn read_entries(entries: Element<'_>, block: usize) -> Result<BTreeSet<String>, CrlError> {
    let mut reader = entries.inside();
    let mut revoked = BTreeSet::new();
    while !reader.is_empty() {
        let (serial, extensions) = read_entry(&mut reader).map_err(|NotDer| CrlError::Malformed { block })?;
        // One that names another issuer for the serials that follow is among the critical ones.
        if let Some(critical) = extensions.into_iter().find(|extension| extension.critical) {
            return Err(CrlError::Extension { block, oid: critical.oid });
        }
        revoked.insert(hex_serial(serial));
    }
    Ok(revoked)
}

fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], Vec<Extension<'a>>), NotDer> {
    let mut entry = reader.expect(SEQUENCE)?.inside();
    let serial = entry.expect(INTEGER)?.natural()?;
    entry.time()?;
    let extensions = entry.optional(&[SEQUENCE])?.map(Extension::all).transpose()?;
    entry.end()?;
    Ok((serial, extensions.unwrap_or_default()))
}
