//! The CRL numbers of a whole chain: what decides whether a file of CRLs may replace another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{CrlNumber, IssuerId};

/// The highest number that was seen of each authority of a chain. Serialised as a map.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Numbers(BTreeMap<IssuerId, CrlNumber>);

/// How the numbers that are offered stand to those that are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// All are equal. The bytes need not be: a restored CA counts again from where its backup stood.
    Same,
    /// None is older, and at least one is newer.
    Newer,
    /// At least one is older; the first of those. It stands above everything else, whatever the others are.
    Older { issuer: IssuerId, theirs: CrlNumber, ours: CrlNumber },
    /// They are not of the same authorities. Where authorities are common, none is older.
    OtherIssuers,
}

impl Numbers {
    /// How `theirs` (offered) stands to `self` (ours, in force).
    pub fn compare(&self, theirs: &Self) -> Comparison {
        let pairs =
            || self.0.iter().filter_map(|(issuer, ours)| Some((*issuer, *theirs.0.get(issuer)?, *ours)));
        if let Some((issuer, theirs, ours)) = pairs().find(|(_, theirs, ours)| theirs < ours) {
            Comparison::Older { issuer, theirs, ours }
        } else if !self.0.keys().eq(theirs.0.keys()) {
            Comparison::OtherIssuers
        } else if self == theirs {
            Comparison::Same
        } else {
            Comparison::Newer
        }
    }

    /// The number of one authority.
    pub fn get(&self, issuer: &IssuerId) -> Option<CrlNumber> {
        self.0.get(issuer).copied()
    }

    /// Ordered by authority.
    pub fn iter(&self) -> impl Iterator<Item = (IssuerId, CrlNumber)> {
        self.0.iter().map(|(issuer, number)| (*issuer, *number))
    }
}

impl FromIterator<(IssuerId, CrlNumber)> for Numbers {
    /// Of two numbers of one authority the higher one stays.
    fn from_iter<T: IntoIterator<Item = (IssuerId, CrlNumber)>>(numbers: T) -> Self {
        let mut all = BTreeMap::new();
        for (issuer, number) in numbers {
            let highest = all.entry(issuer).or_insert(number);
            *highest = number.max(*highest);
        }
        Self(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(which: u8) -> IssuerId {
        bunraku_common::Digest::of(&[which]).to_string().parse().unwrap()
    }

    fn numbers(all: &[(u8, u128)]) -> Numbers {
        all.iter().map(|(which, number)| (id(*which), (*number).into())).collect()
    }

    #[test]
    fn one_older_number_outweighs_newer_ones_and_other_issuers() {
        let ours = numbers(&[(1, 5), (2, 5)]);
        let older = Comparison::Older { issuer: id(1), theirs: 4.into(), ours: 5.into() };
        for theirs in [&[(1, 4), (2, 9)][..], &[(1, 4), (3, 9)], &[(1, 4)], &[(1, 4), (2, 5), (3, 1)]] {
            assert_eq!(ours.compare(&numbers(theirs)), older);
        }
    }

    #[test]
    fn numbers_are_the_same_newer_or_of_others() {
        let ours = numbers(&[(1, 5), (2, 5)]);
        assert_eq!(ours.compare(&ours), Comparison::Same);
        assert_eq!(ours.compare(&numbers(&[(1, 5), (2, 6)])), Comparison::Newer);
        assert_eq!(ours.compare(&numbers(&[(1, 6)])), Comparison::OtherIssuers);
        assert_eq!(ours.compare(&numbers(&[(1, 6), (2, 6), (3, 1)])), Comparison::OtherIssuers);
        assert_eq!(Numbers::default().compare(&ours), Comparison::OtherIssuers);
    }

    #[test]
    fn numbers_are_kept_as_a_map_of_texts() {
        let ours = numbers(&[(1, 5)]);
        let json = serde_json::to_string(&ours).unwrap();
        assert_eq!(json, format!("{{\"{}\":\"5\"}}", id(1)));
        assert_eq!(serde_json::from_str::<Numbers>(&json).unwrap(), ours);
    }

    proptest! {
        #[test]
        fn what_is_newer_one_way_is_older_the_other_way(a in 0_u128..4, b in 0_u128..4, c in 0_u128..4, d in 0_u128..4) {
            let (ours, theirs) = (numbers(&[(1, a), (2, b)]), numbers(&[(1, c), (2, d)]));
            if ours.compare(&theirs) == Comparison::Newer {
                let back = theirs.compare(&ours);
                let is_older = matches!(back, Comparison::Older { .. });
                prop_assert!(is_older);
            }
        }
    }
}
