//! Who is at the other end: read from a mesh certificate, once per connection.
//!
//! Used by the verifiers in `tls` during the handshake and by the controller for every call. It does not check
//! signatures: the chain is webpki's work, and nothing here is believed before webpki said yes.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bunraku_common::{Digest, NodeName, OperatorName};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The name of one installation: the trust domain of every mesh identity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FleetName(Box<str>);

impl FleetName {
    /// 1 to 40 of a-z 0-9 -, starting and ending with a letter or digit: it becomes a DNS label of the controller's name.
    pub fn parse(text: &str) -> Result<Self, PeerError> {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let bytes = text.as_bytes();
        let good = bytes.len() <= 40
            && bytes.iter().copied().all(inner)
            && edge(bytes.first())
            && edge(bytes.last());
        if good {
            Ok(Self(text.into()))
        } else {
            Err(PeerError::Fleet(text.chars().take(80).flat_map(char::escape_debug).collect()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The DNS name in the controller's certificate. URI names are no server names for TLS, so the controller's
    /// certificate carries this one too, and webpki compares it. It is never looked up.
    pub fn controller(&self) -> String {
        format!("controller.{self}.bunraku")
    }
}

impl FromStr for FleetName {
    type Err = PeerError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for FleetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for FleetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a mesh certificate says its holder is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Peer {
    Node(NodeName),
    Operator(OperatorName),
    Controller,
}

impl Peer {
    /// The certificate's one URI name.
    pub fn uri(&self, fleet: &FleetName) -> String {
        match self {
            Self::Node(name) => format!("spiffe://{fleet}/node/{name}"),
            Self::Operator(name) => format!("spiffe://{fleet}/operator/{name}"),
            Self::Controller => format!("spiffe://{fleet}/controller"),
        }
    }

    fn from_uri(uri: &str) -> Result<(FleetName, Self), PeerError> {
        let unknown = || PeerError::Uri(uri.chars().take(300).flat_map(char::escape_debug).collect());
        let (fleet, path) =
            uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or_else(unknown)?;
        let fleet = FleetName::parse(fleet)?;
        let peer = match path.split_once('/') {
            None if path == "controller" => Self::Controller,
            Some(("node", name)) => Self::Node(NodeName::parse(name).map_err(|_| unknown())?),
            Some(("operator", name)) => Self::Operator(OperatorName::parse(name).map_err(|_| unknown())?),
            None | Some(_) => return Err(unknown()),
        };
        Ok((fleet, peer))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Operator(name) => write!(f, "operator {name}"),
            Self::Controller => f.write_str("the controller"),
        }
    }
}

/// A mesh certificate, parsed: who, under which serial and key, until when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    pub peer: Peer,
    pub fleet: FleetName,
    /// Lower-case hex without leading zeros.
    pub serial: String,
    /// BLAKE3 of the public key (SubjectPublicKeyInfo): survives a renewal with the same key.
    pub key: Digest,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
}

impl PeerIdentity {
    /// Reads a leaf certificate: exactly one URI name, no name of another kind (the controller also carries its DNS
    /// name), and exactly the key usage of its kind. A certificate that could serve as two things is refused.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let parsed = parse(certificate)?;
        let (fleet, peer) = Peer::from_uri(only_uri(&parsed)?)?;
        check_names(&parsed, &fleet, &peer)?;
        check_usage(&parsed, &peer)?;
        if parsed.is_ca() {
            return Err(PeerError::Authority);
        }
        let seconds = |t: x509_parser::time::ASN1Time| u64::try_from(t.timestamp()).unwrap_or(0);
        Ok(Self {
            peer,
            fleet,
            serial: hex_serial(parsed.raw_serial()),
            key: Digest::of(parsed.public_key().raw),
            not_before: seconds(parsed.validity().not_before),
            not_after: seconds(parsed.validity().not_after),
        })
    }

    /// Whether the certificate's time is over. The door `h2` lets such a node in to renew, and for nothing else.
    pub fn expired(&self, now: SystemTime) -> bool {
        unix_seconds(now) > self.not_after
    }

    /// How long the certificate is still good; zero when it has expired.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        Duration::from_secs(self.not_after.saturating_sub(unix_seconds(now)))
    }
}

/// The pin of a certificate authority: BLAKE3 of its public key, so that a CA certificate renewed with the same key
/// keeps its pin.
pub fn pin(authority: &CertificateDer<'_>) -> Result<Digest, PeerError> {
    Ok(Digest::of(parse(authority)?.public_key().raw))
}

/// The pin of the fleet's first CA, which every later one names as its subject's organizational unit: what tells one
/// fleet from another stays the same when its CA is rotated.
pub fn founder(authority: &CertificateDer<'_>) -> Result<Digest, PeerError> {
    let parsed = parse(authority)?;
    let named = parsed.subject().iter_organizational_unit().next().and_then(|unit| unit.as_str().ok());
    Ok(named.and_then(|unit| unit.parse().ok()).unwrap_or_else(|| Digest::of(parsed.public_key().raw)))
}

/// A certificate's serial number as this project writes it: lower-case hex without leading zeros.
pub fn hex_serial(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    match hex.trim_start_matches('0') {
        "" => "0".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("the certificate is not valid DER")]
    Malformed,
    #[error(
        "`{0}` is not a fleet name: 1 to 40 of a-z 0-9 - are allowed, starting and ending with a letter or digit"
    )]
    Fleet(String),
    #[error("the certificate has {0} URI names, exactly one is expected")]
    Uris(usize),
    #[error("`{0}` names no node, operator or controller")]
    Uri(String),
    #[error("the certificate carries a name beside the one of its holder")]
    ForeignName,
    #[error("the certificate's extended key usage is not exactly that of its holder")]
    Usage,
    #[error("the certificate is an authority's")]
    Authority,
}

pub(crate) fn unix_seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(PeerError::Malformed),
    }
}

fn names<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a [GeneralName<'a>], PeerError> {
    let extension = certificate.subject_alternative_name().map_err(|_| PeerError::Malformed)?;
    Ok(extension.map_or(&[], |e| e.value.general_names.as_slice()))
}

fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, PeerError> {
    let uris: Vec<_> = names(certificate)?
        .iter()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris.as_slice() {
        [uri] => Ok(uri),
        others => Err(PeerError::Uris(others.len())),
    }
}

fn check_names(certificate: &X509Certificate<'_>, fleet: &FleetName, peer: &Peer) -> Result<(), PeerError> {
    let dns = (*peer == Peer::Controller).then(|| fleet.controller());
    for name in names(certificate)? {
        let own_dns = matches!(name, GeneralName::DNSName(name) if dns.as_deref() == Some(*name));
        if !own_dns && !matches!(name, GeneralName::URI(_)) {
            return Err(PeerError::ForeignName);
        }
    }
    Ok(())
}

/// webpki takes a certificate without the extension as good for everything, hence this check of our own.
fn check_usage(certificate: &X509Certificate<'_>, peer: &Peer) -> Result<(), PeerError> {
    let usage =
        certificate.extended_key_usage().map_err(|_| PeerError::Malformed)?.ok_or(PeerError::Usage)?;
    let usage = usage.value;
    let server = *peer == Peer::Controller;
    let others = usage.any
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    if usage.server_auth == server && usage.client_auth != server && !others {
        Ok(())
    } else {
        Err(PeerError::Usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_survives_its_own_uri() {
        let fleet = FleetName::parse("main-1").unwrap();
        for peer in [
            Peer::Node(NodeName::parse("c1.stack.test").unwrap()),
            Peer::Operator(OperatorName::parse("ann").unwrap()),
            Peer::Controller,
        ] {
            assert_eq!(Peer::from_uri(&peer.uri(&fleet)), Ok((fleet.clone(), peer)));
        }
    }

    #[test]
    fn uris_that_resemble_an_identity_are_refused() {
        for wrong in [
            "",
            "spiffe://",
            "spiffe://f",
            "spiffe://f/",
            "spiffe://f/node",
            "spiffe://f/node/",
            "spiffe://f/node/a/b",
            "spiffe://f/node/A",
            "spiffe://f/controller/x",
            "spiffe://f/controllers",
            "spiffe://F/controller",
            "https://f/node/a",
            "spiffe://f/operator/../controller",
            "spiffe://f?/node/a",
        ] {
            assert!(Peer::from_uri(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_serial_has_one_spelling() {
        assert_eq!(hex_serial(&[0, 0x8f, 1]), "8f01");
        assert_eq!(hex_serial(&[0x0f]), "f");
        assert_eq!(hex_serial(&[0]), "0");
    }
}
