//! What the controller serves at the door `h2`, through an ordinary channel.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bunraku_proto::{
    Door, Peer,
    accept::{Caller, Limits},
    channel::{channel, connect, unix_channel},
    cut::Cut,
    identity::{Identity, IdentityFiles, Key, with_puppet_certificate, with_token},
    peer::{self, FleetName},
    serve::{Ended, serve_h2},
    tls,
    v1::{
        self,
        content_client::ContentClient,
        content_server::{Content, ContentServer},
        enrollment_server::{Enrollment, EnrollmentServer},
    },
};
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, SanType};
use support::{DAY, Fleet, Port, Puppet, everybody, node, operator, soon};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, service::Routes};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Streams the caller's own name, again and again, until nobody listens any more.
#[derive(Clone)]
struct TestContent {
    gone: mpsc::UnboundedSender<()>,
}

#[tonic::async_trait]
impl Content for TestContent {
    type PackStream = ReceiverStream<Result<v1::PackChunk, Status>>;

    async fn pack(&self, request: Request<v1::PackRequest>) -> Result<Response<Self::PackStream>, Status> {
        let caller = Caller::of(&request).ok_or_else(|| Status::internal("no caller"))?;
        let name = caller.peer.as_ref().map_or_else(String::new, |peer| peer.peer.to_string());
        let (sender, receiver) = mpsc::channel(1);
        let gone = self.gone.clone();
        tokio::spawn(async move {
            while sender.send(Ok(v1::PackChunk { data: name.clone().into_bytes() })).await.is_ok() {}
            let _ = gone.send(());
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Served {
    port: Port,
    cuts: mpsc::UnboundedReceiver<Cut>,
    ends: mpsc::UnboundedReceiver<Ended>,
    gone: mpsc::UnboundedReceiver<()>,
}

async fn serve(fleet: &Fleet) -> Served {
    let ((cut_sender, cuts), (end_sender, ends)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let (gone_sender, gone) = mpsc::unbounded_channel();
    let routes = Routes::new(ContentServer::new(TestContent { gone: gone_sender }));
    let port = Port::open_with(fleet.doors(everybody(), DAY), Limits::default(), move |accepted| {
        let (cut_sender, end_sender, routes) = (cut_sender.clone(), end_sender.clone(), routes.clone());
        async move {
            let (cut, served) = serve_h2(accepted.stream, accepted.caller, routes, std::future::pending());
            let _ = cut_sender.send(cut);
            let _ = end_sender.send(served.await);
        }
    })
    .await;
    Served { port, cuts, ends, gone }
}

#[tokio::test]
async fn a_handler_knows_who_calls() {
    let fleet = Fleet::new("f");
    let served = serve(&fleet).await;
    for (peer, name) in [(node("c1"), "node c1"), (operator("ann"), "operator ann")] {
        let mut client = ContentClient::new(channel(&served.port.at(), fleet.client(&peer, Door::H2)));
        let mut stream = client.pack(v1::PackRequest::default()).await.unwrap().into_inner();
        let chunk = soon(stream.message()).await.unwrap().unwrap();
        assert_eq!(chunk.data, name.as_bytes());
    }
}

#[tokio::test]
async fn a_cut_ends_the_callers_streams_and_their_producers() {
    let fleet = Fleet::new("f");
    let mut served = serve(&fleet).await;
    let mut client = ContentClient::new(channel(&served.port.at(), fleet.client(&node("c1"), Door::H2)));
    let mut stream = client.pack(v1::PackRequest::default()).await.unwrap().into_inner();
    soon(stream.message()).await.unwrap();
    soon(served.cuts.recv()).await.unwrap().cut();
    soon(async { while let Ok(Some(_)) = stream.message().await {} }).await;
    soon(served.gone.recv()).await.unwrap();
    assert!(matches!(soon(served.ends.recv()).await, Some(Ended::Cut)));
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let fleet = Fleet::new("f");
    let mut served = serve(&fleet).await;
    let mut client = ContentClient::new(channel(&served.port.at(), fleet.client(&node("c1"), Door::H2)));
    let mut request = Request::new(v1::PackRequest::default());
    request.set_timeout(Duration::from_millis(200));
    let mut stream = client.pack(request).await.unwrap().into_inner();
    let status = soon(async {
        loop {
            if let Err(status) = stream.message().await {
                break status;
            }
        }
    })
    .await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    soon(served.gone.recv()).await.unwrap();
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let fleet = Fleet::new("f");
    let mut served = serve(&fleet).await;
    let mesh = fleet.mesh_until(&node("c1"), SystemTime::now() + Duration::from_secs(2));
    let client = tls::mesh_client(&mesh, Door::H2).unwrap();
    let mut client = ContentClient::new(channel(&served.port.at(), client));
    drop(client.pack(v1::PackRequest::default()).await.unwrap());
    assert!(matches!(soon(served.ends.recv()).await, Some(Ended::Expired)));
}

#[tokio::test]
async fn a_peer_that_opens_and_resets_streams_without_end_is_thrown_out() {
    let fleet = Fleet::new("f");
    let mut served = serve(&fleet).await;
    let client = fleet.client(&node("evil"), Door::H2);
    let mut io = bunraku_proto::dial::dial(&served.port.at(), &client, support::SOON).await.unwrap();
    // By hand, because a client library would not even send a stream that it resets at once.
    let mut flood = [PREFACE, SETTINGS].concat();
    for stream in (1_u32..4000).step_by(2).map(u32::to_be_bytes) {
        flood.extend([&[0, 0, 6, 1, 4], &stream[..], &[0x83, 0x86, 0x84, 0x41, 1, b'x']].concat());
        flood.extend([&[0, 0, 4, 3, 0], &stream[..], &[0, 0, 0, 8]].concat());
    }
    let _ = io.write_all(&flood).await;
    let end = soon(served.ends.recv()).await;
    assert!(matches!(end, Some(Ended::Lost(_))), "{end:?}");
}

#[tokio::test]
async fn hostile_http2_closes_the_connection_and_nothing_else() {
    let fleet = Fleet::new("f");
    let served = serve(&fleet).await;
    for hostile in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[PREFACE, &[0xff; 4096]].concat(),
        // A frame of 16 MiB is announced.
        &[PREFACE, SETTINGS, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
        // Headers that are no HPACK.
        &[PREFACE, SETTINGS, &[0, 0, 8, 1, 5, 0, 0, 0, 1], &[0xff; 8]].concat(),
        // A window of zero is widened by zero.
        &[PREFACE, SETTINGS, &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat(),
    ] {
        let client = fleet.client(&node("evil"), Door::H2);
        let mut io = bunraku_proto::dial::dial(&served.port.at(), &client, support::SOON).await.unwrap();
        io.write_all(hostile).await.unwrap();
        let _ = soon(io.read_to_end(&mut Vec::new())).await;
    }
    let mut good = ContentClient::new(channel(&served.port.at(), fleet.client(&node("c1"), Door::H2)));
    good.pack(v1::PackRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_channel_dials_again_after_its_connection_was_lost() {
    let fleet = Fleet::new("f");
    let mut served = serve(&fleet).await;
    let mut client = ContentClient::new(channel(&served.port.at(), fleet.client(&node("c1"), Door::H2)));
    client.pack(v1::PackRequest::default()).await.unwrap();
    soon(served.cuts.recv()).await.unwrap().cut();
    soon(served.ends.recv()).await.unwrap();
    soon(async { while client.pack(v1::PackRequest::default()).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_wrong_pin_is_told_before_the_first_call() {
    let fleet = Fleet::new("f");
    let served = serve(&fleet).await;
    let other = peer::pin(&Fleet::new("f").ca.der()).unwrap();
    let error = connect(&served.port.at(), tls::pinned_client(other).unwrap()).await.unwrap_err();
    assert!(bunraku_common::Chain(&error).to_string().contains("expected pin"), "{error}");
}

#[tokio::test]
async fn the_same_services_answer_on_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (gone, _ended) = mpsc::unbounded_channel();
    let routes = Routes::new(ContentServer::new(TestContent { gone }));
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        bunraku_proto::serve::serve_node(stream, routes, support::SOON, std::future::pending()).await
    });
    let status = ContentClient::new(unix_channel(path)).pack(v1::PackRequest::default()).await.unwrap_err();
    assert_eq!(status.message(), "no caller");
    serving.abort();
}

/// Issues what `answer` makes of a request, and remembers the tokens that came.
#[derive(Clone)]
struct TestEnrollment {
    fleet: Arc<Fleet>,
    name: Peer,
    tokens: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl Enrollment for TestEnrollment {
    async fn with_token(
        &self,
        request: Request<v1::WithTokenRequest>,
    ) -> Result<Response<v1::Identity>, Status> {
        let request = request.into_inner();
        self.tokens.lock().unwrap().push(request.token);
        Ok(Response::new(self.issue(&request.csr)))
    }

    async fn with_puppet_certificate(
        &self,
        request: Request<v1::WithPuppetCertificateRequest>,
    ) -> Result<Response<v1::Identity>, Status> {
        let shown = Caller::of(&request).and_then(|caller| caller.certificate.clone());
        shown.ok_or_else(|| Status::unauthenticated("no certificate came through the door"))?;
        Ok(Response::new(self.issue(&request.into_inner().csr)))
    }
}

impl TestEnrollment {
    fn issue(&self, csr: &str) -> v1::Identity {
        let mut csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        csr.params.subject_alt_names =
            vec![SanType::URI(self.name.uri(&self.fleet.name).try_into().unwrap())];
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        v1::Identity {
            certificate: self.fleet.ca.sign(csr),
            ca: self.fleet.ca.pem.clone(),
            fleet: self.fleet.name.to_string(),
            ..Default::default()
        }
    }
}

async fn enrollment(name: Peer) -> (TestEnrollment, Port) {
    let fleet = Arc::new(Fleet::new("f"));
    let service = TestEnrollment { fleet: Arc::clone(&fleet), name, tokens: Arc::default() };
    let routes = Routes::new(EnrollmentServer::new(service.clone()));
    let doors = fleet.doors(everybody(), Duration::ZERO);
    let port = Port::open_with(doors, Limits::default(), move |accepted| {
        let (_, served) = serve_h2(accepted.stream, accepted.caller, routes.clone(), std::future::pending());
        async move {
            served.await;
        }
    })
    .await;
    (service, port)
}

#[tokio::test]
async fn a_node_enrols_with_a_token_and_keeps_its_identity() {
    let (service, port) = enrollment(node("c1")).await;
    let pin = peer::pin(&service.fleet.ca.der()).unwrap();
    let token = "bnk_canary".to_owned().into();
    let identity = soon(with_token(&port.at(), pin, &token, &node("c1"))).await.unwrap();
    assert_eq!(*service.tokens.lock().unwrap(), ["bnk_canary"]);

    let dir = tempfile::tempdir().unwrap();
    let files = IdentityFiles::new(dir.path().join("identity"));
    assert!(files.load(SystemTime::now()).unwrap().is_none());
    files.save(&identity).unwrap();
    let loaded = files.load(SystemTime::now()).unwrap().unwrap();
    assert_eq!(loaded.certificate(), identity.certificate());
    assert_eq!(*loaded.peer(), node("c1"));
}

#[tokio::test]
async fn a_node_enrols_with_its_puppet_certificate() {
    let (service, port) = enrollment(node("c1.test")).await;
    let puppet = Puppet::new();
    let authorities = puppet.authorities(&[], SystemTime::now() + DAY);
    let main = puppet.certificate("main.test", "puppet", 2);
    let mut doors = service.fleet.doors(everybody(), Duration::ZERO);
    doors.enroll_puppet = Some(tls::puppet_door(&main, &authorities).unwrap());
    port.doors.store(Arc::new(doors));

    let own = puppet.certificate("c1.test", "puppet", 5);
    let (address, asked) = (port.at(), node("c1.test"));
    let enrolling = with_puppet_certificate(&address, &own, &authorities, "main.test", &asked, &[]);
    assert_eq!(*soon(enrolling).await.unwrap().peer(), asked);
}

#[tokio::test]
async fn a_token_is_not_sent_to_a_controller_with_another_ca() {
    let (service, port) = enrollment(node("c1")).await;
    let pin = peer::pin(&Fleet::new("f").ca.der()).unwrap();
    let token = "bnk_canary".to_owned().into();
    soon(with_token(&port.at(), pin, &token, &node("c1"))).await.unwrap_err();
    assert!(service.tokens.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_identity_with_another_name_is_not_taken() {
    let (service, port) = enrollment(node("c2")).await;
    let pin = peer::pin(&service.fleet.ca.der()).unwrap();
    let refused = soon(with_token(&port.at(), pin, &"x".to_owned().into(), &node("c1"))).await.unwrap_err();
    assert_eq!(refused.to_string(), "the controller issued an identity for node c2, asked was node c1");
}

#[test]
fn a_certificate_for_another_key_is_not_taken() {
    let fleet = Fleet::new("f");
    let (pem, _) = fleet.leaf_of(&node("c1"));
    let taken = Identity::new(
        pem,
        fleet.ca.pem.clone(),
        fleet.name.clone(),
        Key::generate().unwrap(),
        SystemTime::now(),
    );
    assert!(taken.is_err());
}

#[test]
fn a_saved_identity_replaces_the_one_before_as_a_set_and_only_its_owner_can_read_it() {
    use std::os::unix::fs::MetadataExt;
    let fleet = Fleet::new("f");
    let dir = tempfile::tempdir().unwrap();
    let files = IdentityFiles::new(dir.path());
    for _ in 0..3 {
        let (pem, key) = fleet.leaf_of(&node("c1"));
        let key = Key::from_pem(key.serialize_pem().into()).unwrap();
        let identity =
            Identity::new(pem, fleet.ca.pem.clone(), fleet.name.clone(), key, SystemTime::now()).unwrap();
        files.save(&identity).unwrap();
        files.save(&identity).unwrap();
        assert_eq!(files.load(SystemTime::now()).unwrap().unwrap().certificate(), identity.certificate());
    }
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let key = dir.path().join("current/key.pem");
    assert_eq!(std::fs::metadata(key).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn identities_that_were_made_together_renew_apart_and_at_half_of_their_life_at_the_latest() {
    let fleet = Fleet::new("f");
    let (pem, key) = fleet.leaf_of(&node("c1"));
    let key = Key::from_pem(key.serialize_pem().into()).unwrap();
    let fleet_name = FleetName::parse("f").unwrap();
    let identity = Identity::new(pem, fleet.ca.pem.clone(), fleet_name, key, SystemTime::now()).unwrap();
    let (from, until) = (identity.certificate().not_before, identity.certificate().not_after);
    let share = |random| (identity.renew_at(random) - from) * 100 / (until - from);
    assert_eq!((share(0), share(u64::MAX / 2), share(u64::MAX)), (40, 44, 49));
}

/// The server's first frame, as its settings.
async fn settings(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<(u16, u32)> {
    let mut head = [0; 9];
    soon(io.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    soon(io.read_exact(&mut body)).await.unwrap();
    let pairs = body.chunks(6).map(|one| {
        let value = u32::from_be_bytes(one[2..6].try_into().unwrap());
        (u16::from_be_bytes([one[0], one[1]]), value)
    });
    pairs.collect()
}

#[tokio::test]
async fn i10_who_enrols_may_open_few_streams_and_who_has_an_identity_many() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let fleet = Fleet::new("f");
    let served = serve(&fleet).await;
    let pin = peer::pin(&fleet.ca.der()).unwrap();
    let (enroll, h2) = (tls::pinned_client(pin).unwrap(), fleet.client(&node("c1"), Door::H2));
    for (client, streams) in [(enroll, 4), (h2, 128)] {
        let mut io = bunraku_proto::dial::dial(&served.port.at(), &client, support::SOON).await.unwrap();
        io.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
        let found = settings(&mut io).await;
        assert!(found.contains(&(MAX_CONCURRENT_STREAMS, streams)), "{found:?}");
    }
}

/// Regression: such a connection stayed until its certificate ended.
#[tokio::test]
async fn i10_a_peer_that_never_speaks_http2_is_left_and_one_that_began_is_not() {
    let fleet = Fleet::new("f");
    let mut served = serve(&fleet).await;
    let client = fleet.client(&node("c1"), Door::H2);
    for (said, silent) in [(&b""[..], true), (&PREFACE[..20], true), (&[PREFACE, SETTINGS].concat(), false)] {
        let mut io = bunraku_proto::dial::dial(&served.port.at(), &client, support::SOON).await.unwrap();
        soon(served.cuts.recv()).await.unwrap();
        io.write_all(said).await.unwrap();
        if !silent {
            settings(&mut io).await;
            // Its answer to our settings says that it took in what was sent.
            soon(io.read_exact(&mut [0; 9])).await.unwrap();
        }
        // From here on time runs as fast as nothing else happens.
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        let end = served.ends.recv().await.unwrap();
        let waited = began.elapsed();
        tokio::time::resume();
        assert_eq!(matches!(end, Ended::Silent), silent, "{end:?}");
        assert_eq!(waited < Duration::from_secs(15), silent, "{waited:?}");
    }
}
