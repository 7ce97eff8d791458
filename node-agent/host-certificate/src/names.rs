//! The alternative names that an order may ask for.

use std::collections::BTreeSet;

use bunraku_certificates::AltName;
use bunraku_common::{NodeName, limits};

use crate::Refused;

/// The longest part between two dots, by DNS.
const LABEL: usize = 63;

/// Names under which Puppet's agents reach a server: lower-case host names and nothing else.
pub fn alt_names(names: &[String]) -> Result<BTreeSet<AltName>, Refused> {
    if names.len() > limits::ALT_NAMES {
        return Err(Refused::TooManyNames { found: names.len() });
    }
    names.iter().map(|name| one(name)).collect()
}

fn one(name: &str) -> Result<AltName, Refused> {
    let shown = || name.chars().take(80).flat_map(char::escape_debug).collect();
    let parsed = NodeName::parse(name).map_err(|_| Refused::Name { name: shown() })?;
    if name.split('.').all(is_label) && !is_address(name) {
        Ok(AltName::dns(&parsed))
    } else {
        Err(Refused::Name { name: shown() })
    }
}

fn is_label(label: &str) -> bool {
    (1..=LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

/// A last part of digits alone: readers differ in whether it is a name.
fn is_address(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| last.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(name: &str) -> Result<BTreeSet<AltName>, Refused> {
        alt_names(&[name.to_owned()])
    }

    #[test]
    fn host_names_are_taken_and_what_only_looks_like_one_is_not() {
        for good in ["puppet", "puppet.example.com", "a-b.c_d.example", "1.example"] {
            assert_eq!(names(good).unwrap(), BTreeSet::from([AltName::Dns(good.to_owned())]));
        }
        let long = format!("{}.example", "a".repeat(64));
        for bad in [
            "",
            "Puppet",
            "10.0.0.5",
            "::1",
            "DNS:puppet",
            "IP:10.0.0.5",
            "*.example.com",
            "a b",
            "a\0b",
            "a.",
            ".a",
            "a..b",
            "a-.b",
            "-a.b",
            "puppet\n",
            "puppét",
            "a,b",
            &long,
            &"a.".repeat(130),
        ] {
            assert!(matches!(names(bad), Err(Refused::Name { .. })), "{bad:?}");
        }
    }

    #[test]
    fn more_names_than_the_limit_are_refused() {
        let many = |count: usize| (0..count).map(|n| format!("p{n}.example")).collect::<Vec<_>>();
        assert_eq!(alt_names(&many(limits::ALT_NAMES)).unwrap().len(), limits::ALT_NAMES);
        assert!(matches!(alt_names(&many(limits::ALT_NAMES + 1)), Err(Refused::TooManyNames { .. })));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_a_plain_host_name(name in "[ -~\\x00\\n]{0,80}|[a-z0-9.*:_-]{1,300}") {
            if let Ok(taken) = names(&name) {
                prop_assert_eq!(taken, BTreeSet::from([AltName::Dns(name.clone())]));
                prop_assert!(name.len() <= 253 && name.parse::<std::net::IpAddr>().is_err());
                prop_assert!(name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')));
                prop_assert!(name.split('.').all(|label| !label.is_empty() && label.len() <= 63));
            }
        }

        #[test]
        fn no_name_is_a_panic(names in proptest::collection::vec(".{0,40}", 0..80)) {
            let _either = alt_names(&names);
        }
    }
}
