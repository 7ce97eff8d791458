//! Configuration files: TOML, with unknown keys refused and the nearest known key named.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}{line}: {message}{hint}")]
    Parse { path: PathBuf, line: Line, message: String, hint: Hint },
}

/// ` line 12`, or nothing where the place is not known.
#[derive(Debug)]
pub struct Line(Option<usize>);

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, " line {line}"))
    }
}

/// The nearest known key, if one is near.
#[derive(Debug)]
pub struct Hint(Option<String>);

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |key| write!(f, " (hint: did you mean `{key}`?)"))
    }
}

/// Reads a TOML file into a type that has `#[serde(deny_unknown_fields)]`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    parse(&text, path)
}

/// Parses TOML; `path` only names it in errors.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        ConfigError::Parse {
            path: path.into(),
            line: Line(line),
            message: first_line(error.message()),
            hint: Hint(nearest(error.message())),
        }
    })
}

/// For `deserialize_with`: a number that must not be zero.
pub fn positive<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + PartialEq + From<u8>,
{
    let number = T::deserialize(deserializer)?;
    if number == T::from(0) {
        Err(D::Error::custom("0 is not possible here: at least 1"))
    } else {
        Ok(number)
    }
}

/// For `deserialize_with`: `HOST:PORT`. The host need not be known yet.
pub fn host_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_host_port(&text) {
        Ok(text)
    } else {
        Err(D::Error::custom(format!("`{}` is not HOST:PORT", text.escape_debug())))
    }
}

/// The same, where the key may be left out.
pub fn host_port_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    host_port(deserializer).map(Some)
}

pub fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    })
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

/// serde says: unknown field `lisen`, expected one of `listen`, `data_dir`.
fn nearest(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown field `")?.split('`').step_by(2);
    let wrong = quoted.next()?;
    nearest_of(wrong, quoted).map(str::to_owned)
}

/// Which of the known names was meant, if one is near.
pub fn nearest_of<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|key| (strsim::damerau_levenshtein(wrong, key), key))
        .filter(|(distance, key)| *distance <= key.len().max(3) / 2)
        .min()
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Sample {
        listen: String,
        #[serde(default)]
        data_dir: String,
        #[serde(default, deserialize_with = "positive")]
        deadline_s: u64,
        #[serde(default, deserialize_with = "host_port")]
        address: String,
    }

    #[test]
    fn a_zero_and_an_address_without_a_port_are_refused_by_line() {
        let read = |text: &str| parse::<Sample>(text, Path::new("b.toml")).unwrap_err().to_string();
        assert_eq!(
            read("listen = 'x'\ndeadline_s = 0\n"),
            "b.toml line 2: 0 is not possible here: at least 1"
        );
        assert_eq!(read("listen = 'x'\naddress = 'main'\n"), "b.toml line 2: `main` is not HOST:PORT");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_file_line_and_the_nearest_key() {
        let error = parse::<Sample>("data_dir = 'x'\nlisen = 'y'\n", Path::new("/etc/b.toml")).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("/etc/b.toml line 2: unknown field `lisen`"), "{text}");
        assert!(text.ends_with("(hint: did you mean `listen`?)"), "{text}");
    }

    #[test]
    fn a_key_that_resembles_nothing_gets_no_guess() {
        let text = parse::<Sample>("zzzzzzzzzz = 1\n", Path::new("b.toml")).unwrap_err().to_string();
        assert!(!text.contains("hint"), "{text}");
    }
}
