//! Who may decide, and which decision is the newer one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One run of one controller. Nodes store the highest number that they saw and refuse lower ones, or an equal number
/// with another id (two controllers from one backup).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Term {
    pub number: u64,
    #[serde(with = "hex_id")]
    pub id: u128,
}

/// 32 hex digits, as on the wire: serde's tagged enums and TOML hold no number of 128 bits.
mod hex_id {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(id: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{id:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        u128::from_str_radix(&String::deserialize(deserializer)?, 16).map_err(de::Error::custom)
    }
}

impl Term {
    /// Whether a node that has seen `self` may obey `other`.
    pub fn yields_to(&self, other: &Self) -> bool {
        other.number > self.number || other == self
    }
}

/// With the beginning of the id, which tells two controllers with one number apart.
impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {} ({:08x})", self.number, self.id >> 96)
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Term({}, {:08x})", self.number, self.id >> 96)
    }
}

/// The number of the newest decision about one subject (here: an environment).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default, Hash)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// What every order carries: compared only within one subject, term first.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Fence {
    pub term: Term,
    pub generation: Generation,
}

impl Fence {
    /// Whether a node whose newest order of the same subject carried `self` may obey an order that carries `other`.
    pub fn admits(&self, other: &Self) -> bool {
        if other.term.number == self.term.number {
            other.term.id == self.term.id && other.generation >= self.generation
        } else {
            other.term.number > self.term.number
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(number: u64, id: u128, generation: u64) -> Fence {
        Fence { term: Term { number, id }, generation: Generation(generation) }
    }

    #[test]
    fn a_term_survives_json_inside_a_tagged_enum() {
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        #[serde(tag = "kind")]
        enum Tagged {
            Began { term: Term },
        }
        let began = Tagged::Began { term: Term { number: u64::MAX, id: u128::MAX - 1 } };
        let json = serde_json::to_string(&began).unwrap();
        assert_eq!(serde_json::from_str::<Tagged>(&json).unwrap(), began);
    }

    #[test]
    fn a_newer_term_is_obeyed_whatever_its_generation() {
        assert!(fence(3, 1, 900).admits(&fence(4, 2, 1)));
    }

    #[test]
    fn the_same_order_may_come_again_and_an_older_one_may_not() {
        assert!(fence(3, 1, 7).admits(&fence(3, 1, 7)));
        assert!(!fence(3, 1, 7).admits(&fence(3, 1, 6)));
        assert!(!fence(3, 1, 7).admits(&fence(2, 1, 8)));
    }

    #[test]
    fn an_equal_term_of_another_controller_is_refused() {
        assert!(!fence(3, 1, 7).admits(&fence(3, 2, 8)));
    }
}
