//! `backend/server`: how a balancer's server is named. Parsed once; what was parsed may be sent to any balancer.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// HAProxy itself allows no other characters; none of them means anything to its socket, to nginx or to a shell.
const RULE: &str = "BACKEND/SERVER is expected, each 1 to 100 of a-z A-Z 0-9 . _ - :";
/// Longest name of a backend or of a server.
const LONGEST: usize = 100;

/// A server in a backend (nginx: in an upstream).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName {
    backend: Box<str>,
    server: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a balancer's server: {RULE}")]
pub struct BadServer(String);

impl ServerName {
    pub fn parse(text: &str) -> Result<Self, BadServer> {
        let bad = || BadServer(text.chars().take(80).flat_map(char::escape_debug).collect());
        let (backend, server) = text.split_once('/').ok_or_else(bad)?;
        if is_plain(backend) && is_plain(server) {
            Ok(Self { backend: backend.into(), server: server.into() })
        } else {
            Err(bad())
        }
    }

    pub fn backend(&self) -> &str {
        &self.backend
    }

    pub fn server(&self) -> &str {
        &self.server
    }
}

/// Whether it may stand in a command to a balancer.
pub(crate) fn is_plain(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'))
}

impl FromStr for ServerName {
    type Err = BadServer;
    fn from_str(text: &str) -> Result<Self, BadServer> {
        Self::parse(text)
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backend, self.server)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ServerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_end_or_split_a_command_are_refused() {
        for wrong in [
            "",
            "c1",
            "/c1",
            "p/",
            "p/c1;quit",
            "p/c1\nquit",
            "p/c 1",
            "p/c/1",
            "p/$c",
            "p/c\0",
            "p/é",
            "a b/c",
        ] {
            assert!(ServerName::parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(ServerName::parse("puppet_8140/c1.example:8140").unwrap().server(), "c1.example:8140");
    }
}
