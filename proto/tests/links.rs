//! The reversed connection: the node dials and serves, the controller calls.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bunraku_common::limits;
use bunraku_proto::{
    Door,
    cut::Cut,
    dial::dial,
    link::{NodeLink, client, link},
    serve::{Ended, serve_node},
    v1::{self, node_server::NodeServer},
};
use support::{Fleet, Port, SOON, everybody, node, soon};
use tokio::{
    io::AsyncReadExt,
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tonic::{Code, Request, Response, Status, service::Routes};

/// What the test node's handlers do and what became of them.
#[derive(Default)]
struct Calls {
    running: AtomicUsize,
    finished: AtomicUsize,
    /// Lets one waiting `Heal` answer.
    go: Notify,
}

impl Calls {
    async fn until_running(&self, number: usize) {
        soon(async {
            while self.running.load(Ordering::SeqCst) != number {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

struct Running<'a>(&'a Calls);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct TestNode(Arc<Calls>);

#[tonic::async_trait]
impl v1::node_server::Node for TestNode {
    async fn hello(&self, _: Request<v1::HelloRequest>) -> Result<Response<v1::HelloReply>, Status> {
        Ok(Response::new(v1::HelloReply { version: "test".into(), ..Default::default() }))
    }

    /// Waits until the test lets it answer.
    async fn heal(&self, _: Request<v1::HealRequest>) -> Result<Response<v1::HealReply>, Status> {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(&self.0);
        self.0.go.notified().await;
        self.0.finished.fetch_add(1, Ordering::SeqCst);
        drop(running);
        Ok(Response::new(v1::HealReply::default()))
    }

    async fn stage(&self, _: Request<v1::StageRequest>) -> Result<Response<v1::StageReply>, Status> {
        Err(Status::with_details(Code::FailedPrecondition, "as asked", "detail".into()))
    }

    /// An answer over the limit of messages.
    async fn doctor(&self, _: Request<v1::DoctorRequest>) -> Result<Response<v1::DoctorReply>, Status> {
        let found = v1::Finding { found: "x".repeat(limits::MESSAGE_BYTES), ..Default::default() };
        Ok(Response::new(v1::DoctorReply { findings: vec![found] }))
    }

    async fn observe(&self, _: Request<v1::ObserveRequest>) -> Result<Response<v1::ObserveReply>, Status> {
        Ok(Response::new(v1::ObserveReply::default()))
    }

    async fn commit(&self, _: Request<v1::CommitRequest>) -> Result<Response<v1::CommitReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn discard(&self, _: Request<v1::DiscardRequest>) -> Result<Response<v1::DiscardReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn balance(&self, _: Request<v1::BalanceRequest>) -> Result<Response<v1::BalanceReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn balancer_status(
        &self,
        _: Request<v1::BalancerStatusRequest>,
    ) -> Result<Response<v1::BalancerStatusReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    /// Says how much came.
    async fn install_crl(
        &self,
        request: Request<v1::InstallCrlRequest>,
    ) -> Result<Response<v1::InstallCrlReply>, Status> {
        let refused = request.into_inner().crls.len().to_string();
        Ok(Response::new(v1::InstallCrlReply { refused, ..Default::default() }))
    }

    async fn prove_crl(
        &self,
        _: Request<v1::ProveCrlRequest>,
    ) -> Result<Response<v1::ProveCrlReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn request_certificate(
        &self,
        _: Request<v1::RequestCertificateRequest>,
    ) -> Result<Response<v1::RequestCertificateReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn stage_certificate(
        &self,
        _: Request<v1::StageCertificateRequest>,
    ) -> Result<Response<v1::StageCertificateReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn certificates(
        &self,
        _: Request<v1::CertificatesRequest>,
    ) -> Result<Response<v1::CertificatesReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn set_up_compiler(
        &self,
        _: Request<v1::SetUpCompilerRequest>,
    ) -> Result<Response<v1::SetUpCompilerReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn idle(&self, _: Request<v1::IdleRequest>) -> Result<Response<v1::IdleReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn health(&self, _: Request<v1::HealthRequest>) -> Result<Response<v1::HealthReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn foresee(&self, _: Request<v1::ForeseeRequest>) -> Result<Response<v1::ForeseeReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn prepare(&self, _: Request<v1::PrepareRequest>) -> Result<Response<v1::TurnReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn settle(&self, _: Request<v1::SettleRequest>) -> Result<Response<v1::TurnReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn act(&self, _: Request<v1::ActRequest>) -> Result<Response<v1::TurnReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn verify(&self, _: Request<v1::VerifyRequest>) -> Result<Response<v1::TurnReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

/// A node that dialled, and the controller's link to it.
struct Pair {
    link: NodeLink,
    cut: Cut,
    connection: JoinHandle<hyper::Result<()>>,
    calls: Arc<Calls>,
    serving: JoinHandle<Ended>,
    stop: oneshot::Sender<()>,
    _port: Port,
}

impl Pair {
    async fn new() -> Self {
        let fleet = Fleet::new("f");
        let (port, mut accepted) = Port::open(fleet.doors(everybody(), Duration::ZERO)).await;
        let io = dial(&port.at(), &fleet.client(&node("c1"), Door::Node), SOON).await.unwrap();
        let calls = Arc::new(Calls::default());
        let routes = Routes::new(
            NodeServer::new(TestNode(Arc::clone(&calls))).max_decoding_message_size(limits::ORDER_BYTES),
        );
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve_node(io, routes, limits::HELLO, async {
            let _ = stopped.await;
        }));
        let came = soon(accepted.recv()).await.unwrap();
        let (link, cut, connection) = link(came.stream).await.unwrap();
        let connection = tokio::spawn(connection);
        Self { link, cut, connection, calls, serving, stop, _port: port }
    }

    fn client(&self) -> v1::node_client::NodeClient<NodeLink> {
        client(self.link.clone())
    }

    /// A call that runs until the node's test says so.
    async fn long_call(&self) -> JoinHandle<Result<Response<v1::HealReply>, Status>> {
        let mut client = self.client();
        let call = tokio::spawn(async move { client.heal(v1::HealRequest::default()).await });
        self.calls.until_running(1).await;
        call
    }
}

#[tokio::test]
async fn the_controller_calls_the_node_that_dialled() {
    let pair = Pair::new().await;
    let reply = pair.client().hello(v1::HelloRequest::default()).await.unwrap();
    assert_eq!(reply.into_inner().version, "test");
}

#[tokio::test]
async fn a_status_arrives_with_code_message_and_details() {
    let pair = Pair::new().await;
    let status = pair.client().stage(v1::StageRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "as asked"));
    assert_eq!(status.details(), b"detail");
}

#[tokio::test]
async fn an_answer_over_the_limit_fails_its_call_and_no_other() {
    let pair = Pair::new().await;
    let status = pair.client().doctor(v1::DoctorRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    pair.client().hello(v1::HelloRequest::default()).await.unwrap();
}

#[tokio::test]
async fn the_largest_order_arrives_whole() {
    let pair = Pair::new().await;
    let largest = limits::ORDER_BYTES - (64 << 10);
    let request = v1::InstallCrlRequest { crls: vec![b'x'; largest], ..Default::default() };
    let reply = pair.client().install_crl(request).await.unwrap().into_inner();
    assert_eq!(reply.refused, largest.to_string());
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_on_both_sides() {
    let pair = Pair::new().await;
    let mut request = Request::new(v1::HealRequest::default());
    request.set_timeout(Duration::from_millis(100));
    let status = soon(pair.client().heal(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    pair.calls.until_running(0).await;
    assert_eq!(pair.calls.finished.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_call_that_nobody_awaits_any_more_ends_on_the_node() {
    let pair = Pair::new().await;
    let call = pair.long_call().await;
    call.abort();
    pair.calls.until_running(0).await;
    assert_eq!(pair.calls.finished.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_node_that_stops_finishes_the_running_call_and_takes_no_new_one() {
    let pair = Pair::new().await;
    let call = pair.long_call().await;
    pair.stop.send(()).unwrap();
    // GOAWAY travels to the controller in its own time; until it is there, the node still takes calls.
    let refused = soon(async {
        loop {
            if let Err(status) = client(pair.link.clone()).hello(v1::HelloRequest::default()).await {
                break status;
            }
        }
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    soon(pair.connection).await.unwrap().unwrap();
    assert!(!pair.link.is_open());
    pair.calls.go.notify_one();
    soon(call).await.unwrap().unwrap();
    assert!(matches!(soon(pair.serving).await.unwrap(), Ended::Stopped));
    soon(pair.cut.closed()).await;
}

#[tokio::test]
async fn a_cut_ends_the_call_the_handler_and_the_connection() {
    let pair = Pair::new().await;
    let call = pair.long_call().await;
    pair.cut.cut();
    soon(pair.cut.closed()).await;
    let status = soon(call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    soon(pair.serving).await.unwrap();
    pair.calls.until_running(0).await;
}

#[tokio::test]
async fn a_node_that_dies_is_seen_at_once_and_its_calls_are_unavailable() {
    let pair = Pair::new().await;
    let call = pair.long_call().await;
    let died = tokio::time::Instant::now();
    pair.serving.abort();
    let status = soon(call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let _ = soon(pair.connection).await.unwrap();
    soon(pair.cut.closed()).await;
    assert!(died.elapsed() < limits::KEEPALIVE_INTERVAL, "only keepalive noticed");
}

#[tokio::test]
async fn a_node_leaves_a_controller_that_shakes_hands_and_is_silent() {
    let fleet = Fleet::new("f");
    let (port, mut accepted) = Port::open(fleet.doors(everybody(), Duration::ZERO)).await;
    let io = dial(&port.at(), &fleet.client(&node("c1"), Door::Node), SOON).await.unwrap();
    let routes = Routes::new(NodeServer::new(TestNode(Arc::default())));
    let silent = soon(accepted.recv()).await.unwrap();
    let hello = Duration::from_millis(50);
    let ended = soon(serve_node(io, routes, hello, std::future::pending())).await;
    assert!(matches!(ended, Ended::Silent), "{ended:?}");
    drop(silent);
}

#[tokio::test]
async fn a_node_leaves_a_controller_that_speaks_http2_and_asks_nothing() {
    let fleet = Fleet::new("f");
    let (port, mut accepted) = Port::open(fleet.doors(everybody(), Duration::ZERO)).await;
    let io = dial(&port.at(), &fleet.client(&node("c1"), Door::Node), SOON).await.unwrap();
    let routes = Routes::new(NodeServer::new(TestNode(Arc::default())));
    let hello = Duration::from_millis(200);
    let serving = tokio::spawn(serve_node(io, routes, hello, std::future::pending()));
    let (_link, _cut, connection) = link(soon(accepted.recv()).await.unwrap().stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let ended = soon(serving).await.unwrap();
    assert!(matches!(ended, Ended::Silent), "{ended:?}");
    let _ = soon(connection).await.unwrap();
}

#[tokio::test]
async fn a_node_that_answers_with_headers_only_is_held_to_the_deadline() {
    let fleet = Fleet::new("f");
    let (port, mut accepted) = Port::open(fleet.doors(everybody(), Duration::ZERO)).await;
    let io = dial(&port.at(), &fleet.client(&node("evil"), Door::Node), SOON).await.unwrap();
    let evil = tokio::spawn(async move {
        let mut connection = h2::server::handshake(io).await.unwrap();
        let mut streams = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let headers =
                http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            streams.push(respond.send_response(headers, false).unwrap());
        }
    });
    let (link, _cut, connection) = link(soon(accepted.recv()).await.unwrap().stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::new(v1::HelloRequest::default());
    request.set_timeout(Duration::from_millis(100));
    let status = soon(client(link).hello(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    evil.abort();
    connection.abort();
}

#[tokio::test]
async fn a_refused_node_learns_it_at_its_first_read() {
    let (fleet, foreign) = (Fleet::new("f"), Fleet::new("f"));
    let (port, _accepted) = Port::open(fleet.doors(everybody(), Duration::ZERO)).await;
    let mut mesh = foreign.mesh(&node("c1"));
    mesh.anchors = vec![fleet.ca.der()];
    let tls = bunraku_proto::tls::mesh_client(&mesh, Door::Node).unwrap();
    let mut io = dial(&port.at(), &tls, SOON).await.unwrap();
    let error = soon(io.read_u8()).await.unwrap_err();
    assert!(error.to_string().contains("fatal alert"), "{error}");
}
