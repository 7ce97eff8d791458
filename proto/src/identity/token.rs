//! One-time tokens come from a file or from standard input, never as an argument that every process could read.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::Secret;

/// No token is longer.
const TOKEN_BYTES: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("could not read the token from {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is longer than any token")]
    Long { path: PathBuf },
    #[error("the token is empty")]
    Empty,
}

/// Reads a one-time token; `-` is standard input. White space around it does not count.
pub fn read_token(path: &Path) -> Result<Secret, TokenError> {
    let read = if path.as_os_str() == "-" { text(io::stdin()) } else { File::open(path).and_then(text) };
    let text = read.map_err(|source| TokenError::Read { path: path.into(), source })?;
    if text.len() as u64 > TOKEN_BYTES {
        return Err(TokenError::Long { path: path.into() });
    }
    let token = Secret::new(text.trim().to_owned());
    if token.is_empty() { Err(TokenError::Empty) } else { Ok(token) }
}

fn text(from: impl Read) -> io::Result<Secret> {
    // Room from the start: a text that grows leaves copies behind that are not wiped.
    let mut text = Secret::new(String::with_capacity(TOKEN_BYTES as usize + 1));
    from.take(TOKEN_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(content: &str) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, content).unwrap();
        read_token(&path).map(|token| token.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_is_read_without_the_white_space_around_it() {
        assert_eq!(told(" abc.def\n"), Ok("abc.def".to_owned()));
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_before_anything_is_sent() {
        assert_eq!(told("\n"), Err("the token is empty".to_owned()));
        assert!(told(&"x".repeat(5000)).unwrap_err().ends_with("is longer than any token"));
        let missing = read_token(Path::new("/nowhere/token")).unwrap_err();
        assert_eq!(missing.to_string(), "could not read the token from /nowhere/token");
    }
}
