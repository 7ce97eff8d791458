//! Names in certificates and requests, and how foreign text is shown.

use std::{fmt, net::IpAddr, str::FromStr};

use bunraku_common::NodeName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use x509_parser::{prelude::FromDer, x509::X509Name};

use crate::{
    der::{Element, NotDer, SEQUENCE},
    limits::{NAME_BYTES, SHOWN_CHARS},
};

/// A subject alternative name, displayed as Puppet does in `certificate_status`: `DNS:puppet`, `IP:10.0.0.5`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AltName {
    /// As it is written: names that differ in case differ.
    Dns(String),
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A mail address, a URI, or one of the other kinds, for people. It equals nothing that can be declared.
    Other(String),
}

impl AltName {
    /// The name under which a host is reached.
    pub fn dns(name: &NodeName) -> Self {
        Self::Dns(name.as_str().to_owned())
    }

    fn read(name: Element<'_>) -> Self {
        let text = || shown(name.content);
        match name.tag {
            0x82 => match std::str::from_utf8(name.content) {
                Ok(dns) if !dns.is_empty() && dns.bytes().all(|b| b.is_ascii_graphic()) => {
                    Self::Dns(dns.to_owned())
                }
                Ok(_) | Err(_) => Self::Other(format!("a DNS name `{}`", text())),
            },
            0x87 => match (<[u8; 4]>::try_from(name.content), <[u8; 16]>::try_from(name.content)) {
                (Ok(four), _) => Self::Ip(four.into()),
                (_, Ok(sixteen)) => Self::Ip(sixteen.into()),
                (Err(_), Err(_)) => Self::Other(format!("an IP address of {} octets", name.content.len())),
            },
            0x81 => Self::Other(format!("the mail address `{}`", text())),
            0x86 => Self::Other(format!("the URI `{}`", text())),
            other => Self::Other(format!("a name of the kind {}", other & 0x1f)),
        }
    }
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{}", shown(name.as_bytes())),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// A text that cannot be declared as an alternative name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an alternative name: a host name of a-z 0-9 . _ - or `IP:` and an address are expected, \
     and Puppet's CA signs no wildcards"
)]
pub struct NotAnAltName(String);

impl FromStr for AltName {
    type Err = NotAnAltName;

    /// What an operator declares, in the form of Puppet's `dns_alt_names`: `puppet`, `DNS:puppet`, `IP:10.0.0.5`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotAnAltName(shown(text.as_bytes()));
        if let Some(address) = text.strip_prefix("IP:") {
            return address.parse().map(Self::Ip).map_err(|_| wrong());
        }
        let name = text.strip_prefix("DNS:").unwrap_or(text);
        NodeName::parse(name).map(|name| Self::dns(&name)).map_err(|_| wrong())
    }
}

impl Serialize for AltName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AltName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The names in the value of a subject alternative name extension, as they stand.
pub(crate) fn alt_names(value: &[u8]) -> Result<Vec<AltName>, NotDer> {
    let mut reader = Element::only(value, SEQUENCE)?.inside();
    let mut names = Vec::new();
    while !reader.is_empty() {
        names.push(AltName::read(reader.next()?));
    }
    Ok(names)
}

/// The common name, when a distinguished name (DER) consists of exactly one and of nothing else.
pub(crate) fn common_name(name: &[u8]) -> Option<String> {
    let name = parse(name).ok()?;
    let (mut attributes, mut names) = (name.iter_attributes(), name.iter_common_name());
    match (attributes.next(), attributes.next(), names.next()) {
        (Some(_), None, Some(common)) => common.as_str().ok().map(str::to_owned),
        _ => None,
    }
}

/// A distinguished name (DER) for people.
pub(crate) fn show_name(name: &[u8]) -> Result<String, NotDer> {
    parse(name).map(|name| shown(name.to_string().as_bytes()))
}

fn parse(name: &[u8]) -> Result<X509Name<'_>, NotDer> {
    if name.len() > NAME_BYTES {
        return Err(NotDer);
    }
    match X509Name::from_der(name) {
        Ok(([], name)) => Ok(name),
        Ok(_) | Err(_) => Err(NotDer),
    }
}

/// Foreign text, fit for a terminal and for a log.
pub(crate) fn shown(text: &[u8]) -> String {
    // A character has at most four bytes.
    let start = &text[..text.len().min(4 * SHOWN_CHARS)];
    String::from_utf8_lossy(start).chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

/// A serial number as this project writes it: lower-case hex without leading zeros (`bunraku_proto::peer::hex_serial`).
pub(crate) fn hex_serial(octets: &[u8]) -> String {
    let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    match hex.trim_start_matches('0') {
        "" => "0".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}
