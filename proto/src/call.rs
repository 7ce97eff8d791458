//! A call that failed, for people. A `Status` prints itself for programmers: with its code, quotes, and its cause in
//! debug form.

use std::{error::Error, fmt};

use tonic::Status;

/// Prints what the other side said, or what stood in the way of asking it; that has its causes as sources.
#[derive(Debug)]
pub struct CallFailed(Box<Status>);

impl From<Status> for CallFailed {
    fn from(status: Status) -> Self {
        Self(Box::new(status))
    }
}

impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.message() {
            "" => write!(f, "{}", self.0.code()),
            message => f.write_str(message),
        }
    }
}

impl Error for CallFailed {
    /// tonic wraps what its message says several times: the cause stands behind the last of them.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let (mut cause, mut next) = (None, self.0.source());
        while let Some(error) = next {
            next = error.source();
            if error.to_string() == self.0.message() {
                cause = next;
            }
        }
        cause
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use bunraku_common::Chain;
    use hyper_util::rt::TokioIo;
    use tokio::io::DuplexStream;
    use tonic::{Request, transport::Endpoint};

    use super::*;
    use crate::{
        dial::DialError,
        v1::{StatusRequest, control_client::ControlClient},
    };

    fn told(status: Status) -> String {
        Chain(&CallFailed::from(status)).to_string()
    }

    /// Regression: a deploy said only that a handshake had failed, and not that a clock was wrong.
    #[tokio::test]
    async fn what_stood_in_the_way_of_a_call_is_told_with_its_cause_and_nothing_is_said_twice() {
        let channel = Endpoint::from_static("http://controller").connect_with_connector_lazy(
            tower::service_fn(|_| async {
                let source = io::Error::other("it ended 3 days ago (hint: set the clock)");
                let address = "main:8170".to_owned();
                Err::<TokioIo<DuplexStream>, _>(DialError::Handshake { address, source })
            }),
        );
        let status = ControlClient::new(channel).status(Request::new(StatusRequest {})).await.unwrap_err();
        assert_eq!(
            told(status),
            "the TLS handshake with main:8170 failed: it ended 3 days ago (hint: set the clock)"
        );
    }

    /// Regression: a renewal's error was printed as `code: 'Operation is not allowed …', message: "…"`.
    #[test]
    fn what_the_other_side_said_is_told_in_its_own_words() {
        let status = Status::failed_precondition("the clock jumped\nhint: set it right");
        assert_eq!(told(status), "the clock jumped (hint: set it right)");
        assert_eq!(told(Status::unavailable("")), "The service is currently unavailable");
    }
}
