//! How a command ends when it does not end well: one table of exit codes, one way to print an error.

use std::{error::Error, fmt, process::ExitCode};

use bunraku_common::hint;
use tonic::{Code, Status};

/// Exit codes: stable, for scripts. `docs/exit-codes.md` and `bunraku --help` show the same table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Failed = 1,
    WrongUse = 2,
    NoAnswer = 3,
    NotAllowed = 4,
    NotFound = 5,
    Refused = 6,
    Behind = 7,
    Unknown = 8,
    Halted = 9,
    Interrupted = 130,
}

/// Code and meaning of every way a command can end.
pub const EXIT_CODES: [(u8, &str); 11] = [
    (0, "done"),
    (
        Exit::Failed as u8,
        "failed: the deploy failed or was abandoned, the rollout did not reach every compiler, a check found an error",
    ),
    (Exit::WrongUse as u8, "wrong use: an argument or the config file is not right"),
    (Exit::NoAnswer as u8, "no answer from the controller"),
    (Exit::NotAllowed as u8, "not allowed: your right does not cover this"),
    (
        Exit::NotFound as u8,
        "not found: no such node, environment, snapshot, deploy, rollout, token or operator",
    ),
    (Exit::Refused as u8, "refused in this state: the message says why and what to do first"),
    (Exit::Behind as u8, "live, but a compiler is behind (it follows when it can)"),
    (Exit::Unknown as u8, "outcome unknown: ask again with the command that is shown"),
    (Exit::Halted as u8, "halted: a compiler of the rollout failed, and somebody must decide"),
    (Exit::Interrupted as u8, "interrupted (Ctrl-C): what was ordered goes on"),
];

/// Why a command ends with something other than 0.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        let (message, hint) = hint::split(&message.to_string());
        Self { exit, message, hint: (!hint.is_empty()).then_some(hint) }
    }

    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Of a call that changes something: where to look whether it did, when nobody knows.
    pub(crate) fn of_change(status: Status, look: &str) -> Self {
        let failure = Self::from(status);
        if failure.exit == Exit::Unknown { failure.hint(look) } else { failure }
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Ends with this code and prints nothing more: the command already said all.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { exit, message: String::new(), hint: None }
    }

    /// `error: …` and, below it, `hint: …`.
    pub(crate) fn text(&self) -> String {
        let error =
            if self.message.is_empty() { String::new() } else { format!("error: {}\n", self.message) };
        let hint = self.hint.as_ref().map(|hint| format!("hint: {hint}\n"));
        error + &hint.unwrap_or_default()
    }

    pub(crate) fn code(&self) -> u8 {
        self.exit as u8
    }

    pub(crate) fn report(&self) -> ExitCode {
        eprint!("{}", self.text());
        ExitCode::from(self.code())
    }
}

/// What a gRPC status means for the one who typed the command.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if is_broken_off(&status) {
            return Self::new(Exit::Unknown, BROKEN_OFF).hint("bunraku status");
        }
        let exit = match status.code() {
            Code::NotFound => Exit::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Exit::NotAllowed,
            Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => Exit::Refused,
            Code::InvalidArgument | Code::OutOfRange => Exit::WrongUse,
            Code::Unavailable => Exit::NoAnswer,
            Code::DeadlineExceeded | Code::Cancelled => Exit::Unknown,
            Code::Ok
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => Exit::Failed,
        };
        Self::new(exit, status.message())
    }
}

const BROKEN_OFF: &str =
    "the controller was gone before it answered: whether it did what was asked is not known";

/// The call left, and the connection broke. A status that the controller sent has no source, and a controller that was
/// not reached is `Unavailable`.
fn is_broken_off(status: &Status) -> bool {
    status.source().is_some() && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_broken_off_is_unknown_and_says_where_to_look() {
        let cut = || Status::from_error(Box::new(std::io::Error::other("connection closed")));
        assert_eq!(Failure::from(cut()).exit, Exit::Unknown);
        let failure = Failure::of_change(cut(), "bunraku rollout list");
        assert_eq!(failure.text(), format!("error: {BROKEN_OFF}\nhint: bunraku rollout list\n"));
        let refused = Failure::of_change(Status::failed_precondition("no"), "bunraku rollout list");
        assert_eq!(refused.text(), "error: no\n");
    }

    #[test]
    fn a_hint_in_a_status_becomes_a_hint_line() {
        let failure =
            Failure::from(Status::failed_precondition("held by alice\nhint: bunraku release production"));
        assert_eq!(failure.message, "held by alice");
        assert_eq!(failure.hint.as_deref(), Some("bunraku release production"));
    }
}
