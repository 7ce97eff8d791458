//! Certificate signing requests, which anybody may have made.

use std::collections::BTreeSet;

use bunraku_common::Digest;

use crate::{
    AltName, Fingerprint, PemError,
    der::{CONTEXT_0, Element, Extension, INTEGER, NotDer, OID, Reader, SEQUENCE, SET},
    key::{self, KeyError, PublicKey, Unverified},
    names, pem,
    signed::Signed,
};

const EXTENSION_REQUEST: &str = "1.2.840.113549.1.9.14";
pub(crate) const SUBJECT_ALT_NAME: &str = "2.5.29.17";

/// A request that can be read. Whether it may be signed is another question: [`Self::judge`](crate::SigningRequest::judge).
#[derive(Debug, Clone)]
pub struct SigningRequest {
    der: Box<[u8]>,
    subject: String,
    common_name: Option<String>,
    alt_names: BTreeSet<AltName>,
    key: Digest,
    public_key: Result<PublicKey, KeyError>,
    /// In the order of the request.
    pub(crate) extensions: Vec<Requested>,
    /// Object identifiers of the attributes beside the extension request, which no certificate will carry.
    pub(crate) attributes: Vec<String>,
    /// An attribute must have one value; of several, readers differ in which they take.
    pub(crate) repeated: Option<String>,
}

/// An extension that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Requested {
    pub(crate) oid: String,
    pub(crate) value: Box<[u8]>,
}

impl SigningRequest {
    /// Reads the only block of a file, `CERTIFICATE REQUEST`. Text around it is ignored.
    pub fn parse(file: &[u8]) -> Result<Self, RequestError> {
        let der = pem::block(file, "CERTIFICATE REQUEST")?;
        Self::read(&der).map_err(|NotDer| RequestError::Malformed)
    }

    /// SHA-256 over the DER, as `certificate_status` and `puppet ssl` show it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// The subject, when it consists of one common name and nothing else: for Puppet, the certname.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// The whole subject, for people.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// All alternative names that are asked for. Puppet's agent adds the certname when it asks for any.
    pub const fn alt_names(&self) -> &BTreeSet<AltName> {
        &self.alt_names
    }

    /// BLAKE3 of the public key (SubjectPublicKeyInfo): what [`Certificate::key`](crate::Certificate::key) shows when it was issued.
    pub const fn key(&self) -> Digest {
        self.key
    }

    pub(crate) const fn public_key(&self) -> Result<&PublicKey, &KeyError> {
        self.public_key.as_ref()
    }

    /// Whether the holder of the key has made the request.
    pub(crate) fn verify(&self, key: &PublicKey) -> Result<(), Unverified> {
        Signed::read(&self.der).map_err(|NotDer| Unverified::Signature)?.verify(key)
    }

    fn read(der: &[u8]) -> Result<Self, NotDer> {
        let mut reader = Signed::read(der)?.body.inside();
        if !reader.expect(INTEGER)?.natural()?.is_empty() {
            return Err(NotDer);
        }
        let name = reader.expect(SEQUENCE)?.whole;
        let spki = reader.expect(SEQUENCE)?.whole;
        let attributes = reader.optional(&[CONTEXT_0])?;
        reader.end()?;
        let mut request = Self {
            der: der.into(),
            subject: names::show_name(name)?,
            common_name: names::common_name(name),
            alt_names: BTreeSet::new(),
            key: key::digest(spki),
            public_key: PublicKey::read(spki),
            extensions: Vec::new(),
            attributes: Vec::new(),
            repeated: None,
        };
        if let Some(attributes) = attributes {
            request.read_attributes(attributes.inside())?;
        }
        Ok(request)
    }

    fn read_attributes(&mut self, mut reader: Reader<'_>) -> Result<(), NotDer> {
        let mut seen = BTreeSet::new();
        while !reader.is_empty() {
            let mut attribute = reader.expect(SEQUENCE)?.inside();
            let oid = attribute.expect(OID)?.oid()?;
            let mut values = attribute.expect(SET)?.inside();
            attribute.end()?;
            let value = values.next()?;
            if !values.is_empty() || !seen.insert(oid.clone()) {
                self.repeated = Some(oid.clone());
            }
            if oid == EXTENSION_REQUEST {
                self.read_extensions(value)?;
            } else {
                self.attributes.push(oid);
            }
        }
        Ok(())
    }

    fn read_extensions(&mut self, sequence: Element<'_>) -> Result<(), NotDer> {
        let sequence = Element::only(sequence.whole, SEQUENCE)?;
        for extension in Extension::all(sequence)? {
            if extension.oid == SUBJECT_ALT_NAME {
                self.alt_names.extend(names::alt_names(extension.value)?);
            }
            self.extensions.push(Requested { oid: extension.oid, value: extension.value.into() });
        }
        Ok(())
    }
}

/// Why a file is not a signing request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not the PEM of one request.
    #[error("could not read the signing request")]
    Pem(#[from] PemError),
    /// Not the DER of a request.
    #[error("the signing request is not DER as PKCS #10 has it")]
    Malformed,
}
