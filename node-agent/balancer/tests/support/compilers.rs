//! Stand-ins for compilers: they answer Puppet Server's status over TLS, with certificates of a CA of their own.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// What agents call the balancer.
const PUPPET: &str = "puppet.example";

/// Compilers that run, and a client that trusts their CA.
pub(crate) struct Compilers {
    client: TlsConnector,
    /// Whether each says that it runs.
    pub(crate) well: Vec<Arc<AtomicBool>>,
}

impl Compilers {
    /// Each by its certname and its address; the CA goes to `ca`.
    pub(crate) async fn start(ca: &Path, compilers: &[(&'static str, String)]) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // OpenSSL takes a certificate whose issuer has its own name for one that nobody signed.
        params.distinguished_name.push(DnType::CommonName, "Puppet CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        std::fs::write(ca, own.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let mut well = Vec::new();
        for (name, address) in compilers {
            let key = KeyPair::generate().unwrap();
            let names = vec![(*name).to_owned(), PUPPET.into()];
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(DnType::CommonName, *name);
            let certificate = params.signed_by(&key, &issuer).unwrap();
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let server = rustls::ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key);
            let is_well = Arc::new(AtomicBool::new(true));
            well.push(is_well.clone());
            let listener = TcpListener::bind(address).await.unwrap();
            tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(server.unwrap())), name, is_well));
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own.der().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { client: TlsConnector::from(Arc::new(client)), well }
    }

    /// Through a balancer: TLS to whichever compiler it chose.
    pub(crate) async fn session(&self, front: SocketAddr) -> TlsStream<TcpStream> {
        let name = ServerName::try_from(PUPPET).unwrap();
        self.client.connect(name, TcpStream::connect(front).await.unwrap()).await.unwrap()
    }

    /// The compilers that answer ten new sessions.
    pub(crate) async fn serving(&self, front: SocketAddr) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..10 {
            names.push(ask(self.session(front).await).await);
        }
        names.sort();
        names.dedup();
        names
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, name: &'static str, well: Arc<AtomicBool>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, well) = (tls.clone(), well.clone());
        tokio::spawn(async move {
            let Ok(mut stream) = tls.accept(stream).await else { return };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                request.push(byte);
            }
            let status = if well.load(Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
            let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{name}");
            let _it_may_be_gone = stream.write_all(answer.as_bytes()).await;
            let _it_may_be_gone = stream.shutdown().await;
        });
    }
}

/// The name of the compiler at the other end.
pub(crate) async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text.rsplit_once("\r\n").unwrap().1.to_owned()
}
