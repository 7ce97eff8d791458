//! The name of a systemd unit, checked at the door.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

/// A unit such as `puppetserver.service`; without an ending it is a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UnitName(String);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a systemd service (hint: such as puppetserver.service)")]
pub struct InvalidUnitName(String);

/// systemd's own limit.
const LONGEST: usize = 255;

impl UnitName {
    pub fn parse(text: &str) -> Result<Self, InvalidUnitName> {
        let name = if text.contains('.') { text.to_owned() } else { format!("{text}.service") };
        let known = |character: char| character.is_ascii_alphanumeric() || ":-_.\\@".contains(character);
        let service = name.strip_suffix(".service").is_some_and(|stem| !stem.is_empty());
        // `name@.service` is a template, which cannot run.
        if service && name.len() <= LONGEST && name.chars().all(known) && !name.contains("@.") {
            Ok(Self(name))
        } else {
            Err(InvalidUnitName(text.chars().take(80).collect()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UnitName {
    type Err = InvalidUnitName;

    fn from_str(text: &str) -> Result<Self, InvalidUnitName> {
        Self::parse(text)
    }
}

impl<'de> Deserialize<'de> for UnitName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_services_with_a_plain_name_are_units() {
        assert_eq!(UnitName::parse("puppetserver").unwrap().as_str(), "puppetserver.service");
        assert_eq!(UnitName::parse("pe@a.service").unwrap().as_str(), "pe@a.service");
        for bad in ["", ".service", "a b", "poweroff.target", "x@.service", "a/b.service", "é.service"] {
            assert!(UnitName::parse(bad).is_err(), "{bad}");
        }
    }
}
