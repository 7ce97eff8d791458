//! The attacker's client: its own TLS, any certificate, any source address, any bytes. It shares nothing with the
//! programs but the messages.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bunraku_proto::{
    Door, Peer,
    v1::{
        self, content_client::ContentClient, control_client::ControlClient,
        enrollment_client::EnrollmentClient,
    },
};
use bunraku_tests::fleet::MainServer;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// Longest wait for something that must happen; only a failing test waits that long.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Holder {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// One way to a controller's port.
#[derive(Clone)]
pub(crate) struct Client {
    to: SocketAddr,
    from: Ipv4Addr,
    config: Arc<ClientConfig>,
}

impl Client {
    /// Through this door, with this identity, from an address of its own.
    pub(crate) fn new(main: &MainServer, door: Door, holder: Option<&Holder>) -> Self {
        Self::with(main, &[door.alpn().as_bytes()], &[&rustls::version::TLS13], holder)
    }

    /// As no honest client would dial.
    pub(crate) fn with(
        main: &MainServer,
        alpn: &[&[u8]],
        versions: &[&'static SupportedProtocolVersion],
        holder: Option<&Holder>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ca(main)).unwrap();
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match holder {
            None => builder.with_no_client_auth(),
            Some(holder) => {
                let chain = vec![CertificateDer::from_pem_slice(holder.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(holder.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Self { to: main.address(), from: address_in(main, 200), config: Arc::new(config) }
    }

    /// From another address of the fleet's network.
    pub(crate) fn from(self, host: u8) -> Self {
        let [a, b, c, _] = self.from.octets();
        Self { from: Ipv4Addr::new(a, b, c, host), ..self }
    }

    pub(crate) async fn tcp(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((self.from, 0).into())?;
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(crate) async fn dial(&self) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("controller.test.bunraku").unwrap();
        TlsConnector::from(self.config.clone()).connect(name, self.tcp().await?).await
    }

    /// Dials at the first call.
    pub(crate) fn channel(&self) -> Channel {
        self.channel_through(|io| io)
    }

    /// A channel whose every connection goes through something.
    pub(crate) fn channel_through<IO>(
        &self,
        change: impl Fn(TlsStream<TcpStream>) -> IO + Copy + Send + Sync + 'static,
    ) -> Channel
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let client = self.clone();
        Endpoint::from_static("http://controller")
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(65_535)
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let client = client.clone();
                async move { client.dial().await.map(|io| TokioIo::new(change(io))) }
            }))
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel())
    }

    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel())
    }

    pub(crate) fn enrollment(&self) -> EnrollmentClient<Channel> {
        EnrollmentClient::new(self.channel())
    }
}

/// The mesh CA as it lies on the main server.
pub(crate) fn ca(main: &MainServer) -> CertificateDer<'static> {
    let pem = std::fs::read(main.config().data_dir.join("ca/ca.pem")).unwrap();
    CertificateDer::from_pem_slice(&pem).unwrap()
}

pub(crate) fn address_in(main: &MainServer, host: u8) -> Ipv4Addr {
    let IpAddr::V4(address) = main.address().ip() else { panic!("fleets live on 127.0.0.0/8") };
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, host)
}

/// `bunraku token create`.
pub(crate) async fn token_for(main: &MainServer, node: &str, role: &str, ttl_s: u64) -> v1::TokenInfo {
    let request = v1::CreateTokenRequest { node: node.into(), roles: vec![role.into()], ttl_s };
    main.client().create_token(request).await.unwrap().into_inner()
}

/// A key and an honest signing request.
pub(crate) fn key_and_csr() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let csr = parameters.serialize_request(&key).unwrap().pem().unwrap();
    (key, csr)
}

/// Enrols at the token door, from `client`.
pub(crate) async fn enrol(client: &Client, name: &str, token: &str) -> Result<Holder, Status> {
    let (key, csr) = key_and_csr();
    let request = v1::WithTokenRequest { token: token.into(), csr, name: name.into() };
    let identity = client.enrollment().with_token(request).await?.into_inner();
    Ok(Holder { certificate: identity.certificate, key: key.serialize_pem() })
}

/// A compiler that is nothing but a key; put aside, so that no deploy waits for it.
pub(crate) async fn stolen_node(main: &MainServer, name: &str) -> Holder {
    let token = token_for(main, name, "compiler", 0).await.token;
    let holder = enrol(&Client::new(main, Door::Enroll, None), name, &token).await.unwrap();
    let request = v1::HoldNodeRequest { node: name.into(), reason: "it does not answer".into() };
    main.client().hold_node(request).await.unwrap();
    holder
}

/// `bunraku operator add NAME --right RIGHT`, and the login.
pub(crate) async fn operator(main: &MainServer, name: &str, right: &str) -> Holder {
    let request = v1::AddOperatorRequest { name: name.into(), right: right.into() };
    let token = main.client().add_operator(request).await.unwrap().into_inner().token;
    enrol(&Client::new(main, Door::Enroll, None), name, &token).await.unwrap()
}

/// What a certificate says its holder is.
pub(crate) fn node(name: &str) -> Peer {
    Peer::Node(name.parse().unwrap())
}

/// The newest number in the audit: no change, no record.
pub(crate) async fn audit_head(main: &MainServer) -> u64 {
    main.audit().await.last().map_or(0, |record| record.sequence)
}

/// Waits for something that must happen.
pub(crate) async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, happens).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}
