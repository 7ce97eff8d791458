//! The deadline of a call, kept by both ends. tonic's own covers the response headers only, and `Routes` has none: a
//! peer that answers with headers and falls silent, or a stream that never ends, would outlive every deadline.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

/// Longest deadline that is believed; more is no deadline (and would overflow the clock).
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The caller's `grpc-timeout`, counted from now. A header that cannot be read is no deadline, as in tonic.
pub(crate) fn of(headers: &HeaderMap) -> Option<Instant> {
    let limit = parse(headers.get("grpc-timeout")?.to_str().ok()?)?;
    (limit <= LONGEST).then(|| Instant::now() + limit)
}

/// Digits and a unit, from the gRPC specification ("PROTOCOL-HTTP2"): at most 8 digits.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Waits for the response headers, at most until the deadline, and then holds the body to it.
pub(crate) async fn keep<F, B, E>(
    deadline: Option<Instant>,
    call: F,
) -> Option<Result<Response<Deadlined<B>>, E>>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    let answer = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, call).await.ok()?,
        None => call.await,
    };
    Some(answer.map(|response| response.map(|body| Deadlined::new(body, deadline))))
}

/// A body that ends with the status `DeadlineExceeded` when its deadline passes.
pub struct Deadlined<B> {
    body: Pin<Box<B>>,
    deadline: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl<B> Deadlined<B> {
    fn new(body: B, deadline: Option<Instant>) -> Self {
        Self { body: Box::pin(body), deadline: deadline.map(|at| Box::pin(sleep_until(at))), over: false }
    }
}

impl Deadlined<tonic::body::Body> {
    /// An answer that is a status and nothing else.
    pub(crate) fn status(status: Status) -> Response<Self> {
        status.into_http::<tonic::body::Body>().map(|body| Self::new(body, None))
    }
}

impl<B> std::fmt::Debug for Deadlined<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deadlined").field("over", &self.over).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes>> Body for Deadlined<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        // The deadline comes first: a producer that is always ready must not outrun it.
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.over = true;
            return Poll::Ready(Some(Ok(Frame::trailers(exceeded()))));
        }
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.deadline.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}

fn exceeded() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    Status::deadline_exceeded(PASSED)
        .add_header(&mut trailers)
        .expect("a short ASCII message is a valid header");
    trailers
}

/// What both ends say when the deadline of a call has passed.
pub(crate) const PASSED: &str = "the deadline of the call has passed";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_specification_writes_them() {
        assert_eq!(parse("3H"), Some(Duration::from_secs(10_800)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn what_is_no_timeout_is_none() {
        for wrong in ["", "m", "5", "+5m", "-1S", "123456789m", "5x", "5 m", "é"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
