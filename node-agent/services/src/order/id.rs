//! The name of an order, safe as a file name and inside the name of a systemd unit.

use std::{fmt, str::FromStr};

/// Letters, digits, `-`, `_`, `.` and `:`; the first is a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderId(String);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the id of an order")]
pub struct InvalidOrderId(String);

/// systemd allows 255 bytes for a unit, and the file system as many for a name.
const LONGEST: usize = 200;

impl OrderId {
    pub fn parse(text: &str) -> Result<Self, InvalidOrderId> {
        let known = |character: char| character.is_ascii_alphanumeric() || "-_.:".contains(character);
        let begins = text.starts_with(|character: char| character.is_ascii_alphanumeric());
        if begins && text.len() <= LONGEST && text.chars().all(known) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidOrderId(text.chars().take(80).collect()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for OrderId {
    type Err = InvalidOrderId;

    fn from_str(text: &str) -> Result<Self, InvalidOrderId> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_its_directory_or_its_unit() {
        assert!(OrderId::parse("rollout-7:c1.example_restart-3").is_ok());
        for bad in ["", ".", "..", "a/b", "-a", "a b", "a@b", "a%n", "a\nb", &"a".repeat(201)] {
            assert!(OrderId::parse(bad).is_err(), "{bad}");
        }
    }
}
