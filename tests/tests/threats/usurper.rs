//! A controller with a true certificate and bad intentions: what is left when the main server itself is in other hands.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use bunraku_common::{Digest, snapshot::Tree};
use bunraku_proto::{
    Door, Peer,
    accept::{Accepted, Doors, Limits, accept},
    link::{self, NodeLink},
    serve::serve_h2,
    tls::{self, Credentials, Mesh, Standing},
    v1::{
        self,
        content_server::{Content, ContentServer},
        node_client::NodeClient,
    },
};
use bunraku_tests::fleet::{MainServer, Node};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, service::Routes};

use super::raw::{address_in, ca, soon};

/// Above every honest controller's.
pub(crate) const TERM: u64 = 1_000_000;

pub(crate) struct Usurper {
    address: SocketAddr,
    links: mpsc::UnboundedReceiver<NodeLink>,
    content: Packs,
    task: JoinHandle<()>,
}

impl Usurper {
    /// With the CA of this fleet: its key was stolen, too.
    pub(crate) async fn rise(main: &MainServer) -> Self {
        let mesh = mesh(main);
        let admitted = || Standing::new(|_| true);
        let doors = Doors {
            node: Some(tls::node_door(&mesh, admitted()).unwrap()),
            h2: Some(tls::h2_door(&mesh, admitted(), Duration::ZERO).unwrap()),
            enroll: None,
            enroll_puppet: None,
        };
        let listener = TcpListener::bind((address_in(main, 99), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connected, links) = mpsc::unbounded_channel();
        let content = Packs::default();
        let routes = Routes::new(ContentServer::new(content.clone()));
        let handler = move |accepted: Accepted| {
            let (connected, routes) = (connected.clone(), routes.clone());
            async move {
                if accepted.caller.door == Door::H2 {
                    let (_, served) =
                        serve_h2(accepted.stream, accepted.caller, routes, std::future::pending());
                    let _end = served.await;
                } else if let Ok((node, _, connection)) = link::link(accepted.stream).await {
                    let _the_test_may_be_over = connected.send(node);
                    let _end = connection.await;
                }
            }
        };
        let doors = Arc::new(ArcSwap::from_pointee(doors));
        let task = tokio::spawn(accept(listener, doors, Limits::default(), handler));
        Self { address, links, content, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node dials here from now on.
    pub(crate) async fn capture(&mut self, node: &Node) -> NodeClient<NodeLink> {
        node.link().lead_to(self.address);
        self.next_link().await
    }

    /// The client of the next connection that comes in.
    pub(crate) async fn next_link(&mut self) -> NodeClient<NodeLink> {
        link::client(soon("a node dials", self.links.recv()).await.unwrap())
    }

    /// What every `Pack` answers from now on: the bytes of the zstd stream.
    pub(crate) fn serve(&self, pack: Vec<u8>) {
        *self.content.0.lock().unwrap() = pack;
    }
}

impl Drop for Usurper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone, Default)]
struct Packs(Arc<Mutex<Vec<u8>>>);

#[tonic::async_trait]
impl Content for Packs {
    type PackStream = Pin<Box<dyn Stream<Item = Result<v1::PackChunk, Status>> + Send>>;

    async fn pack(&self, _: Request<v1::PackRequest>) -> Result<Response<Self::PackStream>, Status> {
        let bytes = self.0.lock().unwrap().clone();
        let chunks: Vec<_> =
            bytes.chunks(64 << 10).map(|data| Ok(v1::PackChunk { data: data.to_vec() })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

fn mesh(main: &MainServer) -> Mesh {
    let dir = main.config().data_dir.join("ca");
    let read = |file| std::fs::read_to_string(dir.join(file)).unwrap();
    let issuer =
        Issuer::from_ca_cert_pem(&read("ca.pem"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let fleet = "test".parse().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["controller.test.bunraku".into()]).unwrap();
    parameters.subject_alt_names.push(SanType::URI(Peer::Controller.uri(&fleet).try_into().unwrap()));
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = parameters.signed_by(&key, &issuer).unwrap().pem();
    let own = Credentials::from_pem("the usurper", certificate.as_bytes(), key.serialize_pem().as_bytes());
    Mesh { anchors: vec![ca(main)], fleet, own: own.unwrap() }
}

pub(crate) fn term(number: u64) -> v1::Term {
    v1::Term { number, id: format!("{number:032x}") }
}

pub(crate) fn order(number: u64, generation: u64) -> Option<v1::Order> {
    let id = format!("{number}-{generation}");
    Some(v1::Order {
        id,
        term: Some(term(number)),
        generation,
        environment: "production".into(),
        subject: String::new(),
    })
}

/// A hello as an honest controller of this term says it.
pub(crate) fn hello(number: u64) -> v1::HelloRequest {
    v1::HelloRequest {
        term: Some(term(number)),
        controller: "0.0.0".into(),
        protocol_oldest: 1,
        protocol_newest: bunraku_proto::PROTOCOL,
        ..Default::default()
    }
}

pub(crate) fn stage(number: u64, generation: u64, snapshot: &Digest) -> v1::StageRequest {
    v1::StageRequest {
        order: order(number, generation),
        snapshot: snapshot.to_string(),
        ..Default::default()
    }
}

pub(crate) fn commit(number: u64, generation: u64, snapshot: &Digest) -> v1::CommitRequest {
    v1::CommitRequest { order: order(number, generation), snapshot: snapshot.to_string() }
}

/// One entry of a directory's listing, with nothing checked.
pub(crate) fn entry(kind: u8, name: &[u8], rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], name, rest].concat()
}

pub(crate) fn file(name: &[u8], content: &[u8]) -> Vec<u8> {
    let size = (content.len() as u64).to_be_bytes();
    entry(b'f', name, &[Digest::of(content).as_bytes(), &size[..]].concat())
}

pub(crate) fn directory(name: &[u8], listing: &[u8]) -> Vec<u8> {
    entry(b'd', name, Tree::digest_of(listing).as_bytes())
}

pub(crate) fn symlink(name: &[u8], target: &str) -> Vec<u8> {
    let length = u16::try_from(target.len()).unwrap().to_be_bytes();
    entry(b'l', name, &[&length[..], target.as_bytes()].concat())
}

/// A pack under construction, with nothing checked.
#[derive(Default)]
pub(crate) struct Forged {
    frames: Vec<u8>,
    objects: u64,
}

impl Forged {
    pub(crate) fn tree(self, listing: &[u8]) -> Self {
        self.frame(b'T', &Tree::digest_of(listing), listing.len() as u64, listing)
    }

    pub(crate) fn blob(self, content: &[u8]) -> Self {
        self.frame(b'B', &Digest::of(content), content.len() as u64, content)
    }

    pub(crate) fn frame(mut self, kind: u8, digest: &Digest, length: u64, content: &[u8]) -> Self {
        self.frames.push(kind);
        self.frames.extend_from_slice(digest.as_bytes());
        self.frames.extend_from_slice(&length.to_be_bytes());
        self.frames.extend_from_slice(content);
        self.objects += 1;
        self
    }

    /// The zstd stream of what was forged.
    pub(crate) fn end(mut self) -> Vec<u8> {
        let objects = self.objects;
        self = self.frame(b'E', &Digest::from_bytes([0; 32]), objects, &[]);
        zstd::encode_all(&self.frames[..], 1).unwrap()
    }
}
