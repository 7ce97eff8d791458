//! Puppet's certificates, as they are signed for hosts.

use std::collections::BTreeSet;

use bunraku_common::Digest;
use x509_parser::{
    oid_registry::{
        OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, Oid,
    },
    prelude::{FromDer, ParsedExtension, X509Certificate},
};

use crate::{
    AltName, Authorities, Fingerprint, IssuerId, PemError, SigningRequest,
    der::NotDer,
    issuer::{self, Issuer},
    key,
    limits::DOCUMENT_BYTES,
    names, pem,
    signed::Signed,
};

pub(crate) const LABEL: &str = "CERTIFICATE";

/// One certificate of a file. Nothing about it is proven before [`Self::is_issued_by`].
#[derive(Debug, Clone)]
pub struct Certificate {
    der: Box<[u8]>,
    subject: String,
    common_name: Option<String>,
    alt_names: BTreeSet<AltName>,
    serial: String,
    not_before_s: u64,
    not_after_s: u64,
    pub(crate) issuer: Issuer,
    key: Digest,
    is_authority: bool,
}

impl Certificate {
    /// Reads the only block of a file. Text around it is ignored.
    pub fn parse(file: &[u8]) -> Result<Self, CertificateError> {
        Self::from_der(&pem::block(file, LABEL)?)
    }

    /// Reads the bytes that a TLS peer shows.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > DOCUMENT_BYTES {
            let (bytes, limit) = (der.len(), DOCUMENT_BYTES);
            return Err(PemError::Size { bytes, limit }.into());
        }
        let parsed = Parsed::read(der).map_err(|NotDer| CertificateError::Malformed)?;
        Ok(Self {
            subject: parsed.subject.shown,
            common_name: parsed.common_name,
            alt_names: parsed.alt_names,
            serial: parsed.serial,
            not_before_s: parsed.not_before_s,
            not_after_s: parsed.not_after_s,
            issuer: parsed.issuer,
            key: key::digest(parsed.spki),
            is_authority: parsed.is_authority,
            der: der.into(),
        })
    }

    /// The subject, when it consists of one common name and nothing else: for Puppet, the certname.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// The whole subject, for people.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Puppet Server adds the certname when it signs (`ensure-ext-list-has-cn-san`).
    pub const fn alt_names(&self) -> &BTreeSet<AltName> {
        &self.alt_names
    }

    /// Lower-case hex without leading zeros. Unique only together with [`Self::issuer`]: Puppet's root and its CA both
    /// count from 1.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Unix seconds.
    pub const fn not_before_s(&self) -> u64 {
        self.not_before_s
    }

    /// Unix seconds; the last one in which the certificate is good.
    pub const fn not_after_s(&self) -> u64 {
        self.not_after_s
    }

    /// The authority that it names as its issuer.
    pub const fn issuer(&self) -> IssuerId {
        self.issuer.id
    }

    /// The issuer's whole name, for people.
    pub fn issuer_name(&self) -> &str {
        &self.issuer.shown
    }

    /// BLAKE3 of the public key (SubjectPublicKeyInfo), as `bunraku_proto::peer` takes it.
    pub const fn key(&self) -> Digest {
        self.key
    }

    /// Whether it may issue certificates. A host's may not.
    pub const fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// SHA-256 over the DER, as Puppet shows it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// Whether one of these authorities has signed it. Says nothing about dates and revocation.
    pub fn is_issued_by(&self, authorities: &Authorities) -> bool {
        Signed::read(&self.der).is_ok_and(|signed| {
            authorities
                .iter()
                .filter(|authority| authority.subject.may_be(&self.issuer))
                .any(|authority| signed.verify(&authority.key).is_ok())
        })
    }

    /// Whether it was issued for the key of this request.
    pub fn has_key_of(&self, request: &SigningRequest) -> bool {
        self.key == request.key()
    }

    /// The same for a bare SubjectPublicKeyInfo in DER.
    pub fn has_key(&self, spki: &[u8]) -> bool {
        self.key == key::digest(spki)
    }
}

/// Why a file is not the certificate that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not the PEM of one certificate.
    #[error("could not read the certificate")]
    Pem(#[from] PemError),
    /// Not the DER of a certificate, or with an extension twice.
    #[error("the certificate is not DER as X.509 has it")]
    Malformed,
}

/// The extensions that are read. What else a company's authorities carry need not be readable.
const JUDGED: [Oid<'static>; 5] = [
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
];

/// What both a host's and an authority's certificate are read into.
pub(crate) struct Parsed<'a> {
    pub(crate) subject: Issuer,
    pub(crate) issuer: Issuer,
    pub(crate) spki: &'a [u8],
    pub(crate) is_authority: bool,
    /// Says so, or says nothing about its uses.
    pub(crate) may_sign_crls: bool,
    pub(crate) not_after_s: u64,
    common_name: Option<String>,
    alt_names: BTreeSet<AltName>,
    serial: String,
    not_before_s: u64,
}

impl<'a> Parsed<'a> {
    pub(crate) fn read(der: &'a [u8]) -> Result<Self, NotDer> {
        Signed::read(der)?;
        let Ok(([], parsed)) = X509Certificate::from_der(der) else { return Err(NotDer) };
        if parsed.signature_algorithm != parsed.tbs_certificate.signature {
            return Err(NotDer);
        }
        let (mut subject_key, mut authority_key, mut alt_names) = (None, None, BTreeSet::new());
        let (mut is_authority, mut may_sign_crls) = (false, true);
        let mut seen = BTreeSet::new();
        for extension in parsed.extensions() {
            if !seen.insert(extension.oid.as_bytes()) {
                return Err(NotDer);
            }
            #[expect(clippy::wildcard_enum_match_arm, reason = "what else a certificate says is not judged")]
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => subject_key = Some(id.0),
                ParsedExtension::AuthorityKeyIdentifier(_) => {
                    authority_key = issuer::authority_key_id(extension.value)?;
                }
                ParsedExtension::SubjectAlternativeName(_) => {
                    alt_names.extend(names::alt_names(extension.value)?);
                }
                ParsedExtension::BasicConstraints(constraints) => is_authority = constraints.ca,
                ParsedExtension::KeyUsage(usage) => may_sign_crls = usage.crl_sign(),
                ParsedExtension::ParseError { .. } if JUDGED.contains(&extension.oid) => return Err(NotDer),
                _ => {}
            }
        }
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        Ok(Self {
            subject: Issuer::new(parsed.tbs_certificate.subject.as_raw(), subject_key)?,
            issuer: Issuer::new(parsed.tbs_certificate.issuer.as_raw(), authority_key)?,
            spki: parsed.tbs_certificate.subject_pki.raw,
            is_authority,
            may_sign_crls,
            common_name: names::common_name(parsed.tbs_certificate.subject.as_raw()),
            alt_names,
            serial: names::hex_serial(parsed.tbs_certificate.raw_serial()),
            not_before_s: seconds(parsed.validity().not_before),
            not_after_s: seconds(parsed.validity().not_after),
        })
    }
}
