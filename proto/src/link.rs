//! The controller's side of a connection that a node dialled: the roles are swapped, and the controller is the HTTP/2
//! client on it. One [`NodeLink`] is one connection; after a re-dial there is a new one, so take the client from the
//! registry for each call and never store it.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bunraku_common::{Chain, limits};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{Status, body::Body};
use tower::Service;

use crate::{
    cut::Cut,
    deadline::{self, Deadlined},
    v1::node_client::NodeClient,
};

/// HTTP/2 wants scheme and authority; nothing looks at them.
const ORIGIN: &str = "http://node";

/// The tower service under the generated client.
#[derive(Clone)]
pub struct NodeLink {
    requests: http2::SendRequest<Body>,
}

/// A node's answer, with failures of the connection as `Unavailable` and held to the call's deadline.
pub type Answer = Response<Deadlined<Body>>;

impl NodeLink {
    /// False once the future of [`link`] has ended: new calls fail at once.
    pub fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }
}

impl std::fmt::Debug for NodeLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeLink").field("open", &self.is_open()).finish()
    }
}

/// Starts HTTP/2 on an accepted node connection. The future ends with the connection, or with the first call after
/// the node's GOAWAY (measured with hyper 1.12), while calls that run may still finish: stop giving new calls then,
/// and await [`Cut::closed`] for the true end. The future must be polled all the time.
pub async fn link<IO>(
    io: IO,
) -> hyper::Result<(NodeLink, Cut, impl Future<Output = hyper::Result<()>> + Send)>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (cut, tasks) = Cut::new();
    // The windows stay at hyper's default: h2 closes a connection whose small unread frames fill a small window.
    let (requests, connection) = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_header_list_size(crate::serve::HEADER_BYTES)
        .handshake(TokioIo::new(io))
        .await?;
    Ok((NodeLink { requests }, cut, connection))
}

/// The typed client over a link, with the limits of messages in both directions.
pub fn client(link: NodeLink) -> NodeClient<NodeLink> {
    NodeClient::with_origin(link, Uri::from_static(ORIGIN))
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::ORDER_BYTES)
}

impl Service<Request<Body>> for NodeLink {
    type Response = Answer;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send>>;

    /// Always ready: generated clients turn an error from here into `Unknown`, `call` reports it properly.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let deadline = deadline::of(request.headers());
        let answer = self.requests.send_request(request);
        let answer = async { answer.await.map(translated).map_err(broken) };
        Box::pin(async move {
            deadline::keep(deadline, answer)
                .await
                .unwrap_or_else(|| Err(Status::deadline_exceeded(deadline::PASSED)))
        })
    }
}

fn translated(response: Response<Incoming>) -> Response<Body> {
    response.map(|body| Body::new(body.map_err(broken)))
}

/// A broken connection is `Unavailable` (tonic would say `Unknown`); a stream that the node reset keeps tonic's
/// translation of the reset.
fn broken(error: hyper::Error) -> Status {
    let reset =
        error.source().and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(|h2| h2.is_reset());
    if reset {
        Status::from_error(Box::new(error))
    } else {
        Status::unavailable(format!("lost the connection to the node: {}", Chain(&error)))
    }
}
