//! Prints an error with everything that caused it, on one line.

use std::{error::Error, fmt};

use crate::hint;

/// `Display` of an error followed by its sources, joined by `: `, with one hint at the end: the innermost, because the
/// cause knows best what helps.
///
/// Error types here never repeat their source in their own text, so nothing is said twice.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reason, mut last) = hint::split(&self.0.to_string());
        f.write_str(&reason)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let (reason, hint) = hint::split(&error.to_string());
            write!(f, ": {reason}")?;
            if !hint.is_empty() {
                last = hint;
            }
            source = error.source();
        }
        if last.is_empty() { Ok(()) } else { write!(f, " (hint: {last})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not stage production\nhint: look into the log")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_is_printed_with_its_cause_and_its_hint_at_the_end() {
        let error = Outer(std::io::Error::other("disk full"));
        assert_eq!(
            Chain(&error).to_string(),
            "could not stage production: disk full (hint: look into the log)"
        );
    }

    #[test]
    fn of_two_hints_the_cause_s_is_printed() {
        let error = Outer(std::io::Error::other("disk full (hint: df -h)"));
        assert_eq!(Chain(&error).to_string(), "could not stage production: disk full (hint: df -h)");
    }
}
