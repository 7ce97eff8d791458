//! SHA-256 over the DER of a certificate or request, as people compare it.

use std::{fmt, str::FromStr};

/// Displayed as Puppet does in `certificate_status` and `puppet ssl`: pairs of upper-case hex digits joined by colons
/// (`certificate_authority.clj`, `fingerprint`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// 64 lower-case hex digits, as `sha256sum` prints them.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no SHA-256 fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a fingerprint: 32 pairs of hex digits are expected, joined by `:` or by nothing")]
pub struct NotAFingerprint(String);

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    /// Either form, in either case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotAFingerprint(crate::names::shown(text.as_bytes()));
        let step = match text.len() {
            64 => 2,
            95 => 3,
            _ => return Err(wrong()),
        };
        let mut bytes = [0; 32];
        for (pair, byte) in text.as_bytes().chunks(step).zip(&mut bytes) {
            if pair.get(2).is_some_and(|colon| *colon != b':') {
                return Err(wrong());
            }
            let digit =
                |at: usize| char::from(pair[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = digit(0).zip(digit(1)).map(|(high, low)| high << 4 | low).ok_or_else(wrong)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_texts_of_a_fingerprint_are_read_back() {
        let fingerprint = Fingerprint::of(b"bunraku");
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!(fingerprint.hex().parse(), Ok(fingerprint));
        assert_eq!(fingerprint.to_string().len(), 95);
    }

    #[test]
    fn what_is_no_fingerprint_is_refused() {
        let good = Fingerprint::of(b"x");
        let wrong = [
            String::new(),
            "é".repeat(32),
            good.hex()[1..].to_owned(),
            good.to_string().replace(':', "-"),
            good.to_string().replacen(':', "0", 1),
            good.hex().replace(|c: char| c.is_ascii_digit(), "+"),
        ];
        for text in wrong {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }
}
