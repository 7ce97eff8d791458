//! What an operator may do: four rights, each including the ones before it.

use std::{fmt, str::FromStr};

use bunraku_common::EnvironmentName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An operator's right. `Deployer` counts for environments that match its pattern (`*` stands for any text).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    Viewer,
    Deployer { pattern: String },
    Operator,
    Admin,
}

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    View,
    /// Deploy, roll back or release one environment.
    Deploy,
    /// Hold and release nodes, heal.
    Operate,
    /// Identities: enrol, revoke, tokens, operators, takeover.
    Admin,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a right: viewer, deployer, deployer:PATTERN, operator and admin are known")]
pub struct BadRight(String);

impl Right {
    pub fn parse(text: &str) -> Result<Self, BadRight> {
        match text.split_once(':') {
            None if text == "viewer" => Ok(Self::Viewer),
            None if text == "deployer" => Ok(Self::Deployer { pattern: "*".to_owned() }),
            None if text == "operator" => Ok(Self::Operator),
            None if text == "admin" => Ok(Self::Admin),
            Some(("deployer", pattern)) if is_pattern(pattern) => {
                Ok(Self::Deployer { pattern: pattern.to_owned() })
            }
            None | Some(_) => Err(BadRight(text.chars().take(80).flat_map(char::escape_debug).collect())),
        }
    }

    /// Whether this right covers `need`, in `environment` where the call names one. A call for all environments at
    /// once names none, and a deployer with a pattern may not make it.
    pub fn allows(&self, need: Need, environment: Option<&EnvironmentName>) -> bool {
        match self {
            Self::Viewer => need == Need::View,
            Self::Deployer { pattern } => match need {
                Need::View => true,
                Need::Deploy => {
                    pattern == "*" || environment.is_some_and(|name| matches_glob(pattern, name.as_str()))
                }
                Need::Operate | Need::Admin => false,
            },
            Self::Operator => need <= Need::Operate,
            Self::Admin => true,
        }
    }
}

fn is_pattern(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'*'))
}

/// `*` matches any text, also none. Linear in the text for each star, so no pattern is slow.
pub(crate) fn matches_glob(pattern: &str, text: &str) -> bool {
    let Some((head, mut stars)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut rest) = text.strip_prefix(head) else {
        return false;
    };
    while let Some((middle, later)) = stars.split_once('*') {
        let Some(at) = rest.find(middle) else {
            return false;
        };
        rest = &rest[at + middle.len()..];
        stars = later;
    }
    rest.ends_with(stars)
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Viewer => f.write_str("viewer"),
            Self::Deployer { pattern } if pattern == "*" => f.write_str("deployer"),
            Self::Deployer { pattern } => write!(f, "deployer:{pattern}"),
            Self::Operator => f.write_str("operator"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

impl FromStr for Right {
    type Err = BadRight;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for Right {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Right {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(right: &str, need: Need, environment: &str) -> bool {
        Right::parse(right).unwrap().allows(need, Some(&EnvironmentName::parse(environment).unwrap()))
    }

    #[test]
    fn a_deployer_deploys_only_what_its_pattern_names() {
        assert!(may("deployer:prod*", Need::Deploy, "production"));
        assert!(may("deployer:*_eu*x", Need::Deploy, "web_eu_7x"));
        assert!(!may("deployer:prod*", Need::Deploy, "test_prod"));
        assert!(!may("deployer:a*a", Need::Deploy, "a"));
        assert!(!may("deployer", Need::Operate, "production"));
        assert!(!Right::parse("deployer:prod*").unwrap().allows(Need::Deploy, None));
    }

    #[test]
    fn each_right_includes_the_ones_before_it_and_no_more() {
        assert!(may("viewer", Need::View, "a") && !may("viewer", Need::Deploy, "a"));
        assert!(may("operator", Need::Deploy, "a") && !may("operator", Need::Admin, "a"));
        assert!(may("admin", Need::Admin, "a"));
    }

    #[test]
    fn a_right_survives_its_own_text_and_nonsense_is_refused() {
        for text in ["viewer", "deployer", "deployer:prod*", "operator", "admin"] {
            assert_eq!(Right::parse(text).unwrap().to_string(), text);
        }
        for wrong in ["", "root", "deployer:", "deployer:A", "admin:x", "viewer "] {
            assert!(Right::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
