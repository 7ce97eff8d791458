//! What the exit code of `puppet agent --test` means.

use std::fmt;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunResult {
    /// Nothing was to be changed.
    Unchanged,
    Changed,
    /// Some resources failed.
    Failures {
        changed: bool,
    },
    /// There was no run: no catalog, disabled, or another run was going on.
    CouldNotRun,
    /// No code of Puppet's: ended by a signal, or its program is missing.
    Strange(i32),
}

impl RunResult {
    pub fn of(code: i32) -> Self {
        match code {
            0 => Self::Unchanged,
            2 => Self::Changed,
            4 => Self::Failures { changed: false },
            6 => Self::Failures { changed: true },
            1 => Self::CouldNotRun,
            other => Self::Strange(other),
        }
    }

    pub fn is_success(self) -> bool {
        matches!(self, Self::Unchanged | Self::Changed)
    }
}

impl fmt::Display for RunResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("the Puppet run changed nothing"),
            Self::Changed => f.write_str("the Puppet run made changes"),
            Self::Failures { .. } => {
                f.write_str("the Puppet run had failures (hint: its output names the resources)")
            }
            Self::CouldNotRun => f.write_str("Puppet could not run (hint: its output says why)"),
            Self::Strange(code @ 129..) => write!(f, "the Puppet run was ended by signal {}", code - 128),
            Self::Strange(code) => write!(f, "the Puppet run ended with exit code {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_0_and_2_are_success() {
        let good: Vec<i32> = (0..=255).filter(|code| RunResult::of(*code).is_success()).collect();
        assert_eq!(good, [0, 2]);
        assert_eq!(RunResult::of(137).to_string(), "the Puppet run was ended by signal 9");
        assert_eq!(RunResult::of(6), RunResult::Failures { changed: true });
    }
}
