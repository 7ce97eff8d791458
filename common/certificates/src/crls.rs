//! A file of CRLs (Puppet's `ca_crl.pem`, on agents `crl.pem`): the CA's own and those of the authorities above it.

use std::collections::BTreeSet;

use bunraku_common::Digest;
use serde::{Deserialize, Serialize};
use x509_parser::time::ASN1Time;

use crate::{
    Authorities, Certificate, Crl, IssuerId, Numbers, PemError, key::Unverified, limits::CLOCK_S, pem,
};

/// All CRLs of a file, and the file as it was read.
///
/// [`Self::parse`] knows that it can be read, [`Self::check`] that it may be put where Puppet Server reads it.
#[derive(Debug, Clone)]
pub struct Crls {
    all: Vec<Crl>,
    pem: Box<[u8]>,
}

/// One revoked certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revoked {
    /// Whose CRL says so.
    pub issuer: IssuerId,
    /// Lower-case hex without leading zeros.
    pub serial: String,
}

impl Crls {
    /// Reads every `X509 CRL` block. Text between the blocks is ignored; anything else, and a file without a block, is
    /// an error.
    pub fn parse(file: &[u8]) -> Result<Self, CrlError> {
        let blocks = pem::blocks(file, "X509 CRL")?;
        let all = blocks
            .into_iter()
            .enumerate()
            .map(|(at, der)| Crl::read(der, at + 1))
            .collect::<Result<_, _>>()?;
        Ok(Self { all, pem: file.into() })
    }

    /// Whether the file is good at `now_s` (Unix seconds): every CRL is signed by its authority in the bundle and in
    /// force, and every authority of the bundle has exactly one.
    ///
    /// Puppet Server 7.9.5 takes a file without the root's CRL, and an empty one as a reason to refuse everybody
    /// (measured). Puppet's agents check the whole chain and connect to nobody when a CRL is missing
    /// (`certificate_revocation = chain`).
    pub fn check(&self, authorities: &Authorities, now_s: u64) -> Result<(), CrlError> {
        let mut covered = BTreeSet::new();
        for crl in &self.all {
            let signer = signer(crl, authorities)?;
            check_time(crl, now_s)?;
            if !covered.insert(signer) {
                return Err(CrlError::Twice { issuer: crl.issuer.shown.clone() });
            }
        }
        match authorities.iter().enumerate().find(|(at, _)| !covered.contains(at)) {
            Some((_, bare)) => Err(CrlError::Missing { authority: bare.subject.shown.clone() }),
            None => Ok(()),
        }
    }

    /// The CRLs, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Crl> {
        self.all.iter()
    }

    /// The number of each authority's CRL, whatever their order in the file.
    pub fn numbers(&self) -> Numbers {
        self.all.iter().map(|crl| (crl.issuer(), crl.number())).collect()
    }

    /// Whether any of the CRLs revokes this serial (lower-case hex without leading zeros). Authorities count each for
    /// themselves: [`Self::revokes_certificate`] does not mistake one for the other.
    pub fn revokes(&self, serial: &str) -> bool {
        self.all.iter().any(|crl| crl.revoked().contains(serial))
    }

    /// Whether the CRL of the certificate's own issuer revokes it.
    pub fn revokes_certificate(&self, certificate: &Certificate) -> bool {
        self.all
            .iter()
            .any(|crl| crl.issuer.may_be(&certificate.issuer) && crl.revoked().contains(certificate.serial()))
    }

    /// Everything that is revoked.
    pub fn revoked(&self) -> BTreeSet<Revoked> {
        self.entries().map(|(issuer, serial)| Revoked { issuer, serial: serial.to_owned() }).collect()
    }

    /// What is revoked here and was not in `earlier`.
    pub fn revoked_since(&self, earlier: &Self) -> BTreeSet<Revoked> {
        self.entries()
            .filter(|(issuer, serial)| !earlier.has(*issuer, serial))
            .map(|(issuer, serial)| Revoked { issuer, serial: serial.to_owned() })
            .collect()
    }

    /// What was revoked in `earlier` and is not here: `puppetserver ca prune` takes out what has expired, anything else
    /// lets somebody in again.
    pub fn removed_since(&self, earlier: &Self) -> BTreeSet<Revoked> {
        earlier.revoked_since(self)
    }

    /// When the first of the CRLs ends, in Unix seconds: from then on whoever reads the file may refuse everybody.
    pub fn ends_s(&self) -> u64 {
        self.all.iter().map(Crl::next_update_s).min().unwrap_or(0)
    }

    /// When the newest of the CRLs was issued, in Unix seconds.
    pub fn this_update_s(&self) -> u64 {
        self.all.iter().map(Crl::this_update_s).max().unwrap_or(0)
    }

    /// The file as it was read: what was judged is what is written.
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }

    /// Of [`Self::pem`].
    pub fn digest(&self) -> Digest {
        Digest::of(&self.pem)
    }

    /// Whether both files hold the same CRLs, whatever their order and the text around them.
    pub fn has_same_content(&self, other: &Self) -> bool {
        let digests = |crls: &Self| crls.all.iter().map(Crl::digest).collect::<BTreeSet<_>>();
        digests(self) == digests(other)
    }

    fn entries(&self) -> impl Iterator<Item = (IssuerId, &str)> {
        self.all.iter().flat_map(|crl| crl.revoked().iter().map(|serial| (crl.issuer(), serial.as_str())))
    }

    fn has(&self, issuer: IssuerId, serial: &str) -> bool {
        self.all.iter().any(|crl| crl.issuer() == issuer && crl.revoked().contains(serial))
    }
}

/// Which of the authorities has signed the CRL.
fn signer(crl: &Crl, authorities: &Authorities) -> Result<usize, CrlError> {
    let issuer = || crl.issuer.shown.clone();
    let mut refused = CrlError::OtherAuthority { issuer: issuer() };
    for (at, authority) in authorities.iter().enumerate() {
        if !authority.subject.may_be(&crl.issuer) {
            continue;
        }
        refused = match crl.verify(&authority.key) {
            Ok(()) if authority.may_sign_crls => return Ok(at),
            Ok(()) => CrlError::MayNotSign { issuer: issuer() },
            Err(Unverified::Algorithm) => CrlError::Algorithm { issuer: issuer() },
            Err(Unverified::Signature) => CrlError::Signature { issuer: issuer() },
        };
    }
    Err(refused)
}

fn check_time(crl: &Crl, now_s: u64) -> Result<(), CrlError> {
    let issuer = || crl.issuer.shown.clone();
    if crl.this_update_s() > now_s.saturating_add(CLOCK_S) {
        return Err(CrlError::Ahead { issuer: issuer(), at_s: crl.this_update_s() });
    }
    if crl.next_update_s() <= now_s {
        return Err(CrlError::Ended { issuer: issuer(), at_s: crl.next_update_s() });
    }
    Ok(())
}

/// For people: `Nov 28 20:24:32 2026 +00:00`.
fn utc(at_s: u64) -> String {
    let at = i64::try_from(at_s).ok().and_then(|at| ASN1Time::from_timestamp(at).ok());
    at.map_or_else(|| format!("in second {at_s}"), |at| at.to_string())
}

/// Why a file of CRLs is not accepted. Blocks are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// Not PEM, truncated, empty, or with a block of another kind.
    #[error("could not read the CRL file")]
    Pem(#[from] PemError),
    /// Not the DER of a CRL.
    #[error("block {block} of the CRL file is not a CRL")]
    Malformed { block: usize },
    /// A delta or a part of a CRL, an extension that must be understood and is not, or one that is there twice.
    #[error("block {block} of the CRL file has the extension {oid}, which makes it no complete CRL")]
    Extension { block: usize, oid: String },
    /// RFC 5280 allows 0 and 20 octets.
    #[error("block {block} of the CRL file has a CRL number that is negative or longer than 20 octets")]
    Number { block: usize },
    /// Without it nobody can tell an older CRL.
    #[error("the CRL of {issuer} has no CRL number")]
    NoNumber { issuer: String },
    /// It has no nextUpdate.
    #[error("the CRL of {issuer} does not say when it ends")]
    NoEnd { issuer: String },
    /// By its name or key identifier.
    #[error("the CRL of {issuer} is not of an authority in the CA bundle")]
    OtherAuthority { issuer: String },
    /// Its key usage has no cRLSign.
    #[error("the certificate of {issuer} does not allow it to sign CRLs")]
    MayNotSign { issuer: String },
    /// RSA with SHA-256, SHA-384 or SHA-512 and ECDSA on P-256 or P-384 with SHA-256 or SHA-384 are accepted.
    #[error("the CRL of {issuer} is signed in a way that is not accepted")]
    Algorithm { issuer: String },
    /// Another key has made it, or the CRL was changed.
    #[error("the signature of the CRL of {issuer} is wrong")]
    Signature { issuer: String },
    /// Readers differ in which one they take.
    #[error("there are two CRLs of {issuer}")]
    Twice { issuer: String },
    /// Every authority of the bundle needs one.
    #[error("the chain is incomplete: there is no CRL of {authority}")]
    Missing { authority: String },
    /// Unix seconds. An instant and no difference: the same words for as long as it is so.
    #[error("the CRL of {issuer} was issued {}, which is ahead of this clock", utc(*.at_s))]
    Ahead { issuer: String, at_s: u64 },
    /// Unix seconds.
    #[error("the CRL of {issuer} ended {}", utc(*.at_s))]
    Ended { issuer: String, at_s: u64 },
}
