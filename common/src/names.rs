//! Names that people give: parsed once at the door, trusted inside.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not {what}: {rule}")]
pub struct BadName {
    shown: String,
    what: &'static str,
    rule: &'static str,
}

fn bad(text: &str, what: &'static str, rule: &'static str) -> BadName {
    BadName { shown: text.chars().take(80).flat_map(char::escape_debug).collect(), what, rule }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            pub fn parse(text: &str) -> Result<Self, BadName> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(bad(text, $what, $rule)) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// A host with a node agent: a certname (lower-case letters, digits, `.`, `_`, `-`).
    NodeName,
    "a node name",
    "1 to 253 of a-z 0-9 . _ - are allowed, starting and ending with a letter or digit",
    |t| is_host_like(t, 253)
);
name!(
    /// A Puppet environment. Stricter than Puppet's `\w+`: upper case would clash on some file systems.
    EnvironmentName,
    "an environment name",
    "1 to 128 of a-z 0-9 _ are allowed",
    |t| (1..=128).contains(&t.len()) && t.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
);
name!(
    /// A person (or a pipeline) that may call the controller.
    OperatorName,
    "an operator name",
    "1 to 64 of a-z 0-9 . _ - are allowed, starting and ending with a letter or digit",
    |t| is_host_like(t, 64)
);
name!(
    /// A word that operators put on nodes, to choose them by it: a data centre, `rack=b2`.
    Label,
    "a label",
    "1 to 64 of a-z 0-9 . _ = - are allowed, starting and ending with a letter or digit",
    |t| is_host_like(&t.replace('=', "-"), 64)
);

fn is_host_like(text: &str, longest: usize) -> bool {
    let inner = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= longest
        && bytes.iter().copied().all(inner)
        && edge(bytes.first())
        && edge(bytes.last())
        && !text.contains("..")
}

/// What a node is for. A role grants nothing by itself: the node's own config has the last word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Compiler,
    LoadBalancer,
    Puppetdb,
    Service,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Compiler, Self::LoadBalancer, Self::Puppetdb, Self::Service];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compiler => "compiler",
            Self::LoadBalancer => "load-balancer",
            Self::Puppetdb => "puppetdb",
            Self::Service => "service",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| bad(text, "a role", "compiler, load-balancer, puppetdb and service are known"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_names_that_a_shell_git_or_a_path_could_misread_are_refused() {
        for wrong in ["", "a-b", "A", "a b", "a;b", "$(x)", "..", "a/b", "--upload-pack=x", "-h", "a\nb", "é"]
        {
            assert!(EnvironmentName::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(EnvironmentName::parse(&"a".repeat(129)).is_err());
        assert!(EnvironmentName::parse("production_2").is_ok());
    }

    #[test]
    fn node_names_are_certnames() {
        assert!(NodeName::parse("c1.stack.test").is_ok());
        for wrong in ["", ".c1", "c1.", "C1", "a..b", "a/b", "a b", "-a"] {
            assert!(NodeName::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn labels_are_words_with_or_without_a_value() {
        for right in ["paris", "dc=paris", "rack-b2", "a"] {
            assert_eq!(Label::parse(right).unwrap().as_str(), right);
        }
        for wrong in ["", "=a", "a=", "a b", "A", "-x", "a,b", "a*", "a\nb"] {
            assert!(Label::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_bad_name_is_shown_without_its_control_characters() {
        let error = EnvironmentName::parse("a\u{1b}[2Jb").unwrap_err().to_string();
        assert!(!error.contains('\u{1b}'), "{error}");
    }
}
