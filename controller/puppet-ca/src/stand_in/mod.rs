//! A stand-in for the main server in unit tests: real TLS, a CA that signs, and faults on demand.

mod authority;

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use bunraku_common::NodeName;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use self::authority::Authority;
use crate::{Deadlines, PuppetCa, PuppetCaConfig};

pub(crate) const MAIN: &str = "ca.example.com";

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// As Puppet's CA would.
    Work,
    /// Carries it out, and breaks the connection before the answer.
    WorkAndBreak,
    /// These bytes, and the end of the connection.
    Say(Vec<u8>),
    /// This answer of Puppet Server.
    Answer(u16, String),
    /// An answer that does not end.
    Endless,
    /// Nothing at all.
    Silence,
}

/// Decides by method and path, and may change what the CA has before it does its work.
type Script = Box<dyn FnMut(&mut Authority, &str, &str) -> Act + Send>;

pub(crate) struct StandIn {
    pub(crate) dir: TempDir,
    pub(crate) address: String,
    pub(crate) state: Arc<Mutex<Authority>>,
    _task: JoinSet<()>,
}

impl StandIn {
    pub(crate) async fn start() -> Self {
        Self::with_server_name(MAIN).await
    }

    /// Shows a certificate of another host.
    pub(crate) async fn with_server_name(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = authority("Puppet CA: test", &dir.path().join("ca.pem"));
        let mut state = Authority {
            script: Box::new(|_, _, _| Act::Work),
            requests: BTreeMap::new(),
            certificates: BTreeMap::new(),
            revoked: Vec::new(),
            autosign: false,
            asked: Vec::new(),
            issuer,
            serial: 0,
        };
        let (shown, shown_key) = state.host(name, &[name, MAIN]);
        let (own, own_key) = state.host(MAIN, &[MAIN]);
        for (file, text) in [("cert.pem", &own), ("key.pem", &own_key), ("crl.pem", &state.crl())] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let config =
            server_config(&fs::read_to_string(dir.path().join("ca.pem")).unwrap(), &shown, &shown_key);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(state));
        let mut task = JoinSet::new();
        task.spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), state.clone()));
        Self { dir, address, state, _task: task }
    }

    pub(crate) fn act(&self, script: impl FnMut(&mut Authority, &str, &str) -> Act + Send + 'static) {
        self.state.lock().unwrap().script = Box::new(script);
    }

    pub(crate) fn always(&self, act: Act) {
        self.act(move |_, _, _| act.clone());
    }

    pub(crate) fn config(&self) -> PuppetCaConfig {
        let path = |file: &str| self.dir.path().join(file);
        PuppetCaConfig {
            address: self.address.clone(),
            name: NodeName::parse(MAIN).unwrap(),
            certificate: path("cert.pem"),
            key: path("key.pem"),
            ca: path("ca.pem"),
            crl: path("crl.pem"),
            ca_conf: path("ca.conf"),
            deadlines: Deadlines { read: Duration::from_secs(30), write: Duration::from_secs(30) },
        }
    }

    pub(crate) fn ca(&self) -> PuppetCa {
        PuppetCa::new(self.config())
    }

    /// The CRL as the CA has it.
    pub(crate) fn crl(&self) -> String {
        self.state.lock().unwrap().crl()
    }
}

/// Another authority than the server's.
pub(crate) fn authority(name: &str, pem: &std::path::Path) -> Issuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    fs::write(pem, parameters.self_signed(&key).unwrap().pem()).unwrap();
    Issuer::new(parameters, key)
}

/// A request (PEM) of a key of its own.
pub(crate) fn request(name: &str, alt_names: &[&str]) -> String {
    let mut parameters =
        CertificateParams::new(alt_names.iter().map(|&it| it.to_owned()).collect::<Vec<_>>()).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn server_config(ca: &str, certificate: &str, key: &str) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap()
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<Mutex<Authority>>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, state) = (acceptor.clone(), state.clone());
        connections.spawn(async move {
            let Ok(mut tls) = acceptor.accept(tcp).await else { return };
            let Some((head, body)) = read_request(&mut tls).await else { return };
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
            let (act, answer) = {
                let mut state = state.lock().unwrap();
                state.asked.push(format!("{method} {path}"));
                let act = state.decide(&method, &path);
                let works = matches!(act, Act::Work | Act::WorkAndBreak);
                (act, works.then(|| state.work(&method, &path, &body)))
            };
            let said = match (act, answer) {
                (Act::Work, Some((status, text))) | (Act::Answer(status, text), _) => {
                    answer_of(status, &text)
                }
                (Act::Say(bytes), _) => bytes,
                (Act::Endless, _) => endless(&mut tls).await,
                (Act::Silence, _) => {
                    tls.read_u8().await.ok();
                    return;
                }
                (Act::WorkAndBreak | Act::Work, _) => return,
            };
            tls.write_all(&said).await.ok();
            tls.shutdown().await.ok();
        });
    }
}

fn answer_of(status: u16, text: &str) -> Vec<u8> {
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", text.len()) };
    format!(
        "HTTP/1.1 {status} X\r\nX-Puppet-Version: 7.9.5\r\nLocation: https://elsewhere/\r\n{length}\r\n{text}"
    )
    .into_bytes()
}

async fn endless(tls: &mut (impl AsyncWriteExt + Unpin)) -> Vec<u8> {
    let mut chunk = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    while tls.write_all(&chunk).await.is_ok() {
        chunk = vec![b' '; 64 << 10];
    }
    Vec::new()
}

async fn read_request(tls: &mut (impl AsyncReadExt + Unpin)) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let length = tls.read(&mut chunk).await.ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&chunk[..length]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let wanted = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0_usize);
        if body.len() >= wanted {
            return Some((head.to_owned(), body.to_owned()));
        }
    }
}
