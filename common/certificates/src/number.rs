//! The number that a CRL carries, and that grows with each one of its authority.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{limits::NUMBER_BYTES, names::shown};

/// A whole number of up to 20 octets (RFC 5280, 5.2.3). Puppet's first CRL has 0, and each revocation adds 1.
///
/// Displayed in decimal as far as 128 bits go, and beyond in hex after `0x`; serialised as that text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CrlNumber([u8; NUMBER_BYTES]);

impl CrlNumber {
    /// From big-endian octets, leading zeros or not. `None`: it has more than 20 octets.
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let start = octets.iter().position(|octet| *octet != 0).unwrap_or(octets.len());
        let octets = &octets[start..];
        let mut number = [0; NUMBER_BYTES];
        number.get_mut(NUMBER_BYTES.checked_sub(octets.len())?..)?.copy_from_slice(octets);
        Some(Self(number))
    }

    fn as_u128(&self) -> Option<u128> {
        let (high, low) = self.0.split_first_chunk::<{ NUMBER_BYTES - 16 }>()?;
        let low = <[u8; 16]>::try_from(low).ok()?;
        (*high == [0; NUMBER_BYTES - 16]).then(|| u128::from_be_bytes(low))
    }
}

impl From<u128> for CrlNumber {
    fn from(number: u128) -> Self {
        let mut octets = [0; NUMBER_BYTES];
        octets[NUMBER_BYTES - 16..].copy_from_slice(&number.to_be_bytes());
        Self(octets)
    }
}

impl fmt::Display for CrlNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_u128() {
            Some(number) => fmt::Display::fmt(&number, f),
            None => write!(f, "0x{}", crate::names::hex_serial(&self.0)),
        }
    }
}

/// A text that is not a CRL number in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a CRL number: decimal digits are expected, or 0x and hex digits beyond 128 bits")]
pub struct NotACrlNumber(String);

impl FromStr for CrlNumber {
    type Err = NotACrlNumber;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("0x")
            .map_or_else(|| text.parse().ok().map(u128::into), from_hex)
            .filter(|number: &Self| number.to_string() == text)
            .ok_or_else(|| NotACrlNumber(shown(text.as_bytes())))
    }
}

fn from_hex(digits: &str) -> Option<CrlNumber> {
    if digits.len() > 2 * NUMBER_BYTES {
        return None;
    }
    let mut octets = [0; NUMBER_BYTES];
    for (at, digit) in digits.bytes().rev().enumerate() {
        let value = char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())?;
        octets[NUMBER_BYTES - 1 - at / 2] |= value << (4 * (at % 2));
    }
    Some(CrlNumber(octets))
}

impl Serialize for CrlNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CrlNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_beyond_128_bits_is_shown_in_hex() {
        assert_eq!(CrlNumber::from(u128::MAX).to_string(), "340282366920938463463374607431768211455");
        let mut octets = vec![0; 17];
        octets[0] = 1;
        assert_eq!(
            CrlNumber::from_octets(&octets).unwrap().to_string(),
            "0x100000000000000000000000000000000"
        );
    }

    #[test]
    fn a_number_has_one_spelling() {
        for wrong in
            ["", "-1", "+1", "01", "0x", "0x1", "1 ", "1e3", "0X1000000000000000000000000000000000", "é"]
        {
            assert!(wrong.parse::<CrlNumber>().is_err(), "{wrong:?}");
        }
        assert!(format!("0x1{}", "0".repeat(40)).parse::<CrlNumber>().is_err());
        assert!(format!("0x{}F", "1".repeat(39)).parse::<CrlNumber>().is_err());
    }

    #[test]
    fn a_number_of_21_octets_is_none() {
        assert!(CrlNumber::from_octets(&[1; 20]).is_some());
        assert!(CrlNumber::from_octets(&[1; 21]).is_none());
        assert_eq!(CrlNumber::from_octets(&[0; 40]), Some(CrlNumber::from(0)));
    }

    proptest! {
        #[test]
        fn a_number_survives_its_own_text_and_json(octets in prop::collection::vec(any::<u8>(), 0..=20)) {
            let number = CrlNumber::from_octets(&octets).unwrap();
            prop_assert_eq!(number.to_string().parse(), Ok(number));
            let json = serde_json::to_string(&number).unwrap();
            prop_assert_eq!(serde_json::from_str::<CrlNumber>(&json).unwrap(), number);
        }

        #[test]
        fn numbers_are_ordered_as_integers_are(a: u128, b: u128) {
            prop_assert_eq!(CrlNumber::from(a).cmp(&CrlNumber::from(b)), a.cmp(&b));
            // Shifted by four octets they are beyond 128 bits.
            let shifted = |n: u128| CrlNumber::from_octets(&[&n.to_be_bytes()[..], &[0; 4]].concat()).unwrap();
            prop_assert_eq!(shifted(a).cmp(&shifted(b)), a.cmp(&b));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = text.parse::<CrlNumber>();
        }
    }
}
