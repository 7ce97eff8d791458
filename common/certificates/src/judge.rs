//! Whether a signing request asks for what its operator has declared, and for nothing else.
//!
//! Puppet's CA has one switch for alternative names and one for authorization extensions, and each holds for every
//! request (`allow-subject-alt-names`, `allow-authorization-extensions`). So a request is judged here before the CA is
//! told to sign it. Refused is what is not known to be harmless.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::NodeName;

use crate::{
    AltName, KeyError, SigningRequest,
    der::{BIT_STRING, BOOLEAN, Element, INTEGER, NotDer, OID, SEQUENCE},
    names::shown,
    request::{Requested, SUBJECT_ALT_NAME},
};

const SUBJECT_KEY_IDENTIFIER: &str = "2.5.29.14";
const KEY_USAGE: &str = "2.5.29.15";
const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
const NETSCAPE_COMMENT: &str = "2.16.840.1.113730.1.13";
/// Puppet's `pp_authorization`, `pp_auth_role` and `pp_cli_auth` (.39) lie below it: the last makes its holder an
/// administrator of the CA.
const PUPPET_AUTHORIZATION: &str = "1.3.6.1.4.1.34380.1.3";
/// Attributes that stay in the request: Puppet's private ones (`custom_attributes` of `csr_attributes.yaml`), the
/// challenge password and the unstructured name of PKCS #9.
const HARMLESS_ATTRIBUTES: [&str; 2] = ["1.2.840.113549.1.9.7", "1.2.840.113549.1.9.2"];
const PUPPET_PRIVATE: &str = "1.3.6.1.4.1.34380.1.2";
/// Trusted facts with a name of their own (`pp_role`). Private ones lie below [`PUPPET_PRIVATE`].
const PUPPET_REGISTERED: &str = "1.3.6.1.4.1.34380.1.1";
const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";

/// What an operator has declared for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The common name, and nothing beside it in the subject.
    pub certname: NodeName,
    /// All of them, and no others. The certname may be there or not: Puppet's agent asks for it beside others, and
    /// Puppet's CA adds it.
    pub alt_names: BTreeSet<AltName>,
    /// Trusted facts (`extension_requests` of `csr_attributes.yaml`): all of them, and no others. From the object
    /// identifier in dotted form (`1.3.6.1.4.1.34380.1.1.13` is `pp_role`) to the value.
    pub facts: BTreeMap<String, String>,
}

impl Wanted {
    /// Without trusted facts.
    pub const fn new(certname: NodeName, alt_names: BTreeSet<AltName>) -> Self {
        Self { certname, alt_names, facts: BTreeMap::new() }
    }
}

impl SigningRequest {
    /// Whether Puppet's CA may sign it for this host. The first thing that speaks against it is told.
    pub fn judge(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let key = self.public_key().map_err(|error| Refusal::Key(error.clone()))?;
        self.verify(key).map_err(|_| Refusal::Signature)?;
        if self.common_name() != Some(wanted.certname.as_str()) {
            return Err(Refusal::Subject {
                found: self.subject().to_owned(),
                wanted: wanted.certname.clone(),
            });
        }
        self.judge_attributes()?;
        self.judge_extensions(wanted)?;
        self.judge_facts(wanted)?;
        self.judge_alt_names(wanted)
    }

    fn judge_attributes(&self) -> Result<(), Refusal> {
        if let Some(oid) = &self.repeated {
            return Err(Refusal::Repeated { oid: oid.clone() });
        }
        let harmless = |oid: &str| HARMLESS_ATTRIBUTES.contains(&oid) || is_below(oid, PUPPET_PRIVATE);
        match self.attributes.iter().find(|oid| !harmless(oid)) {
            Some(oid) => Err(Refusal::Attribute { oid: oid.clone() }),
            None => Ok(()),
        }
    }

    fn judge_extensions(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let mut seen = BTreeSet::new();
        for extension in &self.extensions {
            if !seen.insert(&extension.oid) {
                return Err(Refusal::Repeated { oid: extension.oid.clone() });
            }
            extension.judge(wanted)?;
        }
        Ok(())
    }

    fn judge_facts(&self, wanted: &Wanted) -> Result<(), Refusal> {
        for (oid, value) in &wanted.facts {
            let found = self.extensions.iter().find(|extension| extension.oid == *oid);
            if found.and_then(Requested::fact) != Some(value) {
                let found = found.map(Requested::shown);
                return Err(Refusal::Fact { oid: oid.clone(), found, wanted: value.clone() });
            }
        }
        Ok(())
    }

    fn judge_alt_names(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let own = AltName::dns(&wanted.certname);
        let without_own = |names: &BTreeSet<AltName>, others: &BTreeSet<AltName>| -> BTreeSet<AltName> {
            names.difference(others).filter(|name| **name != own).cloned().collect()
        };
        let missing = without_own(&wanted.alt_names, self.alt_names());
        let foreign = without_own(self.alt_names(), &wanted.alt_names);
        if missing.is_empty() && foreign.is_empty() {
            Ok(())
        } else {
            Err(Refusal::AltNames { missing, foreign })
        }
    }
}

impl Requested {
    fn judge(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let oid = || self.oid.clone();
        let unreadable = |NotDer| Refusal::Unreadable { oid: oid() };
        match self.oid.as_str() {
            SUBJECT_ALT_NAME | SUBJECT_KEY_IDENTIFIER | NETSCAPE_COMMENT => Ok(()),
            BASIC_CONSTRAINTS => {
                if is_authority(&self.value).map_err(unreadable)? {
                    Err(Refusal::Authority)
                } else {
                    Ok(())
                }
            }
            KEY_USAGE => {
                if signs_others(&self.value).map_err(unreadable)? {
                    Err(Refusal::Authority)
                } else {
                    Ok(())
                }
            }
            EXTENDED_KEY_USAGE => match foreign_usage(&self.value).map_err(unreadable)? {
                Some(usage) => Err(Refusal::Usage { usage }),
                None => Ok(()),
            },
            text if is_below(text, PUPPET_AUTHORIZATION) => {
                Err(Refusal::Authorization { oid: oid(), value: self.shown() })
            }
            text if is_fact(text) && wanted.facts.contains_key(text) => Ok(()),
            _ => Err(Refusal::Extension { oid: oid(), value: self.shown() }),
        }
    }

    /// The value of one of Puppet's extensions: a UTF8String.
    fn fact(&self) -> Option<&str> {
        const UTF8_STRING: u8 = 0x0c;
        std::str::from_utf8(Element::only(&self.value, UTF8_STRING).ok()?.content).ok()
    }

    /// The value for people: cut and escaped.
    fn shown(&self) -> String {
        shown(self.fact().map_or(&*self.value, str::as_bytes))
    }
}

fn is_below(oid: &str, arc: &str) -> bool {
    oid.strip_prefix(arc).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn is_fact(oid: &str) -> bool {
    is_below(oid, PUPPET_REGISTERED) || is_below(oid, PUPPET_PRIVATE)
}

/// `CA:TRUE` in basic constraints.
fn is_authority(value: &[u8]) -> Result<bool, NotDer> {
    let mut reader = Element::only(value, SEQUENCE)?.inside();
    let flag = reader.optional(&[BOOLEAN])?.is_some_and(|flag| flag.content != [0]);
    reader.optional(&[INTEGER])?;
    reader.end()?;
    Ok(flag)
}

/// keyCertSign (bit 5) or cRLSign (bit 6) in a key usage.
fn signs_others(value: &[u8]) -> Result<bool, NotDer> {
    match Element::only(value, BIT_STRING)?.content {
        [unused, bits @ ..] if *unused < 8 => Ok(bits.first().is_some_and(|first| first & 0b0000_0110 != 0)),
        _ => Err(NotDer),
    }
}

/// The first use in an extended key usage that is neither a TLS server's nor a TLS client's.
fn foreign_usage(value: &[u8]) -> Result<Option<String>, NotDer> {
    let mut reader = Element::only(value, SEQUENCE)?.inside();
    let mut foreign = None;
    while !reader.is_empty() {
        let usage = reader.expect(OID)?.oid()?;
        if foreign.is_none() && ![SERVER_AUTH, CLIENT_AUTH].contains(&usage.as_str()) {
            foreign = Some(usage);
        }
    }
    Ok(foreign)
}

/// Why a signing request must not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A kind, curve or strength that is not accepted.
    #[error(transparent)]
    Key(KeyError),
    /// Wrong, by another key, or with SHA-1.
    #[error("the request was not signed with its own key")]
    Signature,
    /// Another common name, or more than one attribute.
    #[error("the request's subject is `{found}`, the common name {wanted} alone is expected")]
    Subject { found: String, wanted: NodeName },
    /// An extension or attribute that is there twice, or an attribute with several values: readers differ in which one
    /// they take.
    #[error("the request has {oid} more than once")]
    Repeated { oid: String },
    /// One that is neither the extension request nor known to be harmless.
    #[error("the request has the attribute {oid}, which is not expected")]
    Attribute { oid: String },
    /// Basic constraints with `CA:TRUE`, or a key usage that signs certificates or CRLs.
    #[error("the request asks to become a certificate authority")]
    Authority,
    /// The object identifier of the use.
    #[error("the request asks for the extended key usage {usage}; only TLS server and client are expected")]
    Usage { usage: String },
    /// The value is cut and escaped for people.
    #[error(
        "the request asks for the authorization extension {oid} (`{value}`), which gives rights over Puppet's CA"
    )]
    Authorization { oid: String, value: String },
    /// The value is cut and escaped for people.
    #[error("the request asks for the extension {oid} (`{value}`), which was not declared")]
    Extension { oid: String, value: String },
    /// It is not the DER that belongs to its object identifier.
    #[error("the extension {oid} of the request cannot be read")]
    Unreadable { oid: String },
    /// Another value than was declared, or none (`found`).
    #[error("the request has {} as trusted fact {oid}, `{wanted}` was declared", shown_fact(found.as_deref()))]
    Fact { oid: String, found: Option<String>, wanted: String },
    /// `missing` was declared and is not asked for, `foreign` is asked for and was not declared.
    #[error(
        "the request's alternative names are not those that were declared:{}{}",
        listed(" missing", missing),
        listed(" foreign", foreign)
    )]
    AltNames { missing: BTreeSet<AltName>, foreign: BTreeSet<AltName> },
}

fn shown_fact(found: Option<&str>) -> String {
    found.map_or_else(|| "nothing".to_owned(), |found| format!("`{found}`"))
}

/// At most so many names are written out; whoever wants to see a thousand looks into the request.
const LISTED: usize = 20;

fn listed(what: &str, names: &BTreeSet<AltName>) -> String {
    if names.is_empty() {
        return String::new();
    }
    let mut text: Vec<String> = names.iter().take(LISTED).map(ToString::to_string).collect();
    if names.len() > LISTED {
        text.push(format!("{} more", names.len() - LISTED));
    }
    format!("{what} {}", text.join(", "))
}
