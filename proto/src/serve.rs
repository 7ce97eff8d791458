//! gRPC served on one connection: by the node on the connection that it dialled ([`serve_node`]), and by the
//! controller on every connection to its other doors ([`serve_h2`]).
//!
//! tonic's `Server` would serve a listener, and tells neither that nor why a connection ended; hyper's does both.

use std::{
    convert::Infallible,
    future::{Future, pending},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bunraku_common::limits;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{sleep, timeout},
};
use tonic::{Status, body::Body, service::Routes};
use tower::ServiceExt;

use crate::{
    accept::Caller,
    alpn::Door,
    cut::{Cut, Tasks},
    deadline::{self, Deadlined},
    stream::Opening,
};

/// All headers of one request or response. Ours are below 1 KiB; a trace header needs room.
pub(crate) const HEADER_BYTES: u32 = 16 << 10;
/// Streams that a peer opened and reset before we looked at them; more is the "rapid reset" attack, and hyper ends
/// the connection.
const PENDING_RESETS: usize = 20;
/// The preface and the header of the first frame, which must be SETTINGS.
const FIRST_BYTES: usize = 24 + 9;
/// How long calls may finish after a connection was told to end.
pub const FINISH: Duration = Duration::from_secs(60);

/// Why a served connection ended.
#[derive(Debug)]
pub enum Ended {
    /// This side stopped; running calls had their time to finish.
    Stopped,
    /// The other side closed properly.
    Closed,
    /// The other side opened the connection and said nothing, or asked nothing, within the limit.
    Silent,
    /// The other side's certificate is no longer good.
    Expired,
    /// This side ended it at once.
    Cut,
    /// The connection broke, or the other side broke the protocol.
    Lost(hyper::Error),
}

/// Serves `routes` on a connection that this node dialled, until it ends or `stop` resolves; then calls that run may
/// finish for [`FINISH`]. A controller that asks nothing within `hello` is left: HTTP/2 keepalive begins only after
/// the peer's first bytes, so it would be waited for without end. Dropping the future ends everything at once.
pub async fn serve_node<IO>(
    io: IO,
    routes: Routes,
    hello: Duration,
    stop: impl Future<Output = ()> + Send,
) -> Ended
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (cut, tasks) = Cut::new();
    let asked = Arc::new(First::default());
    let routes = Served { routes: routes.prepare(), caller: None, asked: Arc::clone(&asked) };
    let end = async {
        tokio::select! {
            () = stop => End::Gently(Ended::Stopped),
            () = asked.missing_for(hello) => End::AtOnce(Ended::Silent),
        }
    };
    serve(io, routes, limits::STREAMS, cut, tasks, end).await
}

/// Serves `routes` to `caller` on an accepted connection. Every request carries `Arc<Caller>` among its extensions
/// ([`Caller::of`]). The connection ends with the caller's certificate, when `stop` resolves (both let running calls
/// finish for [`FINISH`]), and at once when it is cut or the future is dropped. A caller whose certificate has expired
/// already has [`FINISH`] to renew it.
pub fn serve_h2<IO>(
    io: IO,
    caller: Caller,
    routes: Routes,
    stop: impl Future<Output = ()> + Send,
) -> (Cut, impl Future<Output = Ended> + Send)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (cut, tasks) = Cut::new();
    let life = caller.peer.as_ref().map(|peer| match peer.remaining(SystemTime::now()) {
        Duration::ZERO => FINISH,
        remaining => remaining,
    });
    let streams = match caller.door {
        Door::Node | Door::H2 => limits::STREAMS,
        Door::Enroll | Door::EnrollPuppet => limits::ENROLL_STREAMS,
    };
    let routes = Served { routes: routes.prepare(), caller: Some(Arc::new(caller)), asked: Arc::default() };
    // HTTP/2 keepalive begins only with the peer's first frame: who never sends it would stay as long as its
    // certificate.
    let spoken = Arc::new(First::default());
    let tell = Arc::clone(&spoken);
    let io = Opening::new(io, FIRST_BYTES, move || tell.came());
    let end = async move {
        tokio::select! {
            () = stop => End::Gently(Ended::Stopped),
            () = elapsed(life) => End::Gently(Ended::Expired),
            () = spoken.missing_for(limits::PREFACE) => End::AtOnce(Ended::Silent),
        }
    };
    (cut.clone(), serve(io, routes, streams, cut, tasks, end))
}

enum End {
    Gently(Ended),
    AtOnce(Ended),
}

async fn serve<IO>(
    io: IO,
    routes: Served,
    streams: u32,
    cut: Cut,
    mut tasks: Tasks,
    end: impl Future<Output = End> + Send,
) -> Ended
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The handlers of running calls are tasks of their own, which must not outlive this future.
    let _all = CutOnDrop(cut);
    let connection = http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(streams)
        .max_header_list_size(HEADER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .serve_connection(TokioIo::new(io), service_fn(move |request| routes.call(request)));
    let mut connection = pin!(connection);
    let why = tokio::select! {
        result = connection.as_mut() => return Ended::from(result),
        () = tasks.cut() => return Ended::Cut,
        end = end => match end {
            End::Gently(why) => why,
            End::AtOnce(why) => return why,
        },
    };
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = timeout(FINISH, connection) => why,
        () = tasks.cut() => Ended::Cut,
    }
}

impl From<hyper::Result<()>> for Ended {
    fn from(result: hyper::Result<()>) -> Self {
        result.map_or_else(Self::Lost, |()| Self::Closed)
    }
}

struct CutOnDrop(Cut);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// What one connection serves.
struct Served {
    routes: Routes,
    caller: Option<Arc<Caller>>,
    asked: Arc<First>,
}

impl Served {
    fn call(
        &self,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Deadlined<Body>>, Infallible>> + Send + use<> {
        self.asked.came();
        if let Some(caller) = &self.caller {
            request.extensions_mut().insert(Arc::clone(caller));
        }
        let deadline = deadline::of(request.headers());
        let answer = self.routes.clone().oneshot(request.map(Body::new));
        async move {
            match deadline::keep(deadline, answer).await {
                Some(answer) => answer,
                None => Ok(Deadlined::status(Status::deadline_exceeded(deadline::PASSED))),
            }
        }
    }
}

/// Whether the peer has called anything, or spoken at all, yet.
#[derive(Default)]
struct First {
    came: AtomicBool,
    news: Notify,
}

impl First {
    fn came(&self) {
        if !self.came.swap(true, Ordering::Relaxed) {
            self.news.notify_one();
        }
    }

    /// Resolves when nothing came within `limit`, else never.
    async fn missing_for(&self, limit: Duration) {
        if timeout(limit, self.news.notified()).await.is_ok() {
            pending::<()>().await;
        }
    }
}

async fn elapsed(life: Option<Duration>) {
    match life {
        Some(life) => sleep(life).await,
        None => pending().await,
    }
}
