//! Prints an error with everything that caused it, on one line.

use std::{error::Error, fmt};

/// `Display` of an error followed by its sources, joined by `: `.
///
/// Error types here never repeat their source in their own text, so nothing is said twice.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not stage production")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_is_printed_with_its_cause() {
        let error = Outer(std::io::Error::other("disk full"));
        assert_eq!(Chain(&error).to_string(), "could not stage production: disk full");
    }
}
