//! Public keys: which ones are good enough, and whether one has made a signature.

use bunraku_common::Digest;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

use crate::{
    der::{BIT_STRING, Element, INTEGER, NotDer, OID, SEQUENCE},
    limits::{RSA_BITS, RSA_EXPONENTS},
};

/// Why a public key is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the DER of a key, a point in another form, or a curve that describes itself.
    #[error("the public key cannot be read")]
    Malformed,
    /// DSA, Ed25519, RSA-PSS and others; the object identifier of the kind.
    #[error("the public key is of the kind {0}; RSA, P-256 and P-384 are accepted")]
    Kind(String),
    /// The object identifier of the curve. P-521 (1.3.132.0.35) is among the refused: ring does not verify it.
    #[error("the public key is on the curve {0}; P-256 and P-384 are accepted")]
    Curve(String),
    /// The length of the modulus.
    #[error("the RSA key has {0} bits; {low} to {high} are accepted", low = RSA_BITS.start(), high = RSA_BITS.end())]
    RsaBits(usize),
    /// Hexadecimal; 65537 is usual.
    #[error("the RSA key has the exponent 0x{0}; odd ones from 65537 to 2^33 are accepted")]
    Exponent(String),
}

/// A public key of an accepted kind and strength.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    kind: Kind,
    /// What ring wants: an RSAPublicKey in DER, or a point.
    bits: Box<[u8]>,
    digest: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
}

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unverified {
    /// SHA-1, RSA-PSS, or one that does not fit to the key.
    Algorithm,
    Signature,
}

/// The digest by which this project knows a public key: BLAKE3 of its SubjectPublicKeyInfo.
pub(crate) fn digest(spki: &[u8]) -> Digest {
    Digest::of(spki)
}

impl PublicKey {
    /// From a SubjectPublicKeyInfo in DER.
    pub(crate) fn read(spki: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, bits) = parts(spki).map_err(|NotDer| KeyError::Malformed)?;
        let kind = kind(algorithm)?;
        let point = |length| {
            if bits.len() == length && bits[0] == 4 { Ok(()) } else { Err(KeyError::Malformed) }
        };
        match kind {
            Kind::Rsa => check_rsa(bits)?,
            Kind::P256 => point(65)?,
            Kind::P384 => point(97)?,
        }
        Ok(Self { kind, bits: bits.into(), digest: digest(spki) })
    }

    pub(crate) const fn digest(&self) -> Digest {
        self.digest
    }

    /// `algorithm`: a whole AlgorithmIdentifier in DER.
    pub(crate) fn verify(
        &self,
        algorithm: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unverified> {
        let algorithm = self.verifier(algorithm).ok_or(Unverified::Algorithm)?;
        UnparsedPublicKey::new(algorithm, &self.bits)
            .verify(message, signature)
            .map_err(|ring::error::Unspecified| Unverified::Signature)
    }

    fn verifier(&self, algorithm: &[u8]) -> Option<&'static dyn VerificationAlgorithm> {
        // Each has one encoding: RSA's with NULL parameters, ECDSA's with none (RFC 4055, RFC 5758).
        const RSA: [u8; 10] = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d];
        const ECDSA: [u8; 11] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
        match (self.kind, algorithm.strip_prefix(&RSA), algorithm.strip_prefix(&ECDSA)) {
            (Kind::Rsa, Some([1, 1, 11, 5, 0]), _) => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            (Kind::Rsa, Some([1, 1, 12, 5, 0]), _) => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            (Kind::Rsa, Some([1, 1, 13, 5, 0]), _) => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            (Kind::P256, _, Some([2])) => Some(&signature::ECDSA_P256_SHA256_ASN1),
            (Kind::P256, _, Some([3])) => Some(&signature::ECDSA_P256_SHA384_ASN1),
            (Kind::P384, _, Some([2])) => Some(&signature::ECDSA_P384_SHA256_ASN1),
            (Kind::P384, _, Some([3])) => Some(&signature::ECDSA_P384_SHA384_ASN1),
            _ => None,
        }
    }
}

fn parts(spki: &[u8]) -> Result<(Element<'_>, &[u8]), NotDer> {
    let mut reader = Element::only(spki, SEQUENCE)?.inside();
    let algorithm = reader.expect(SEQUENCE)?;
    let bits = reader.expect(BIT_STRING)?.bits()?;
    reader.end()?;
    Ok((algorithm, bits))
}

fn kind(algorithm: Element<'_>) -> Result<Kind, KeyError> {
    let malformed = |NotDer| KeyError::Malformed;
    let mut reader = algorithm.inside();
    let oid = reader.expect(OID).and_then(Element::oid).map_err(malformed)?;
    match oid.as_str() {
        "1.2.840.113549.1.1.1" if reader.0 == [5, 0] => Ok(Kind::Rsa),
        "1.2.840.113549.1.1.1" => Err(KeyError::Malformed),
        "1.2.840.10045.2.1" => {
            // Explicit parameters of a curve are a sequence: whoever makes those may make the curve.
            let curve = Element::only(reader.0, OID).and_then(Element::oid).map_err(malformed)?;
            match curve.as_str() {
                "1.2.840.10045.3.1.7" => Ok(Kind::P256),
                "1.3.132.0.34" => Ok(Kind::P384),
                _ => Err(KeyError::Curve(curve)),
            }
        }
        _ => Err(KeyError::Kind(oid)),
    }
}

fn check_rsa(bits: &[u8]) -> Result<(), KeyError> {
    let (modulus, exponent) = rsa(bits).map_err(|NotDer| KeyError::Malformed)?;
    let length = modulus.first().map_or(0, |first| 8 * modulus.len() - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&length) {
        return Err(KeyError::RsaBits(length));
    }
    let value = (exponent.len() <= 8)
        .then(|| exponent.iter().fold(0_u64, |value, octet| value << 8 | u64::from(*octet)));
    match value {
        Some(value) if RSA_EXPONENTS.contains(&value) && value % 2 == 1 => Ok(()),
        Some(value) => Err(KeyError::Exponent(format!("{value:x}"))),
        None => Err(KeyError::Exponent(format!("… of {} octets", exponent.len()))),
    }
}

fn rsa(bits: &[u8]) -> Result<(&[u8], &[u8]), NotDer> {
    let mut reader = Element::only(bits, SEQUENCE)?.inside();
    let modulus = reader.expect(INTEGER)?.natural()?;
    let exponent = reader.expect(INTEGER)?.natural()?;
    reader.end()?;
    Ok((modulus, exponent))
}
