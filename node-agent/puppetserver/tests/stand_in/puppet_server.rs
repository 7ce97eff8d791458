//! A stand-in for Puppet Server: TLS with a Puppet-like CA, and whatever answer a test wants.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bunraku_puppetserver::{PuppetServer, Settings};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

pub(crate) const CERTNAME: &str = "c1.example";
/// The serial number of the host's own certificates.
pub(crate) const OWN: u64 = 1;

/// What happens after a request was read.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// These bytes, then the end of the connection.
    Bytes(String),
    /// Nothing, with the connection open.
    Never,
    /// A body without end.
    Endless,
    /// Not even TLS.
    PlainText,
}

pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    config: Config,
    versions: Vec<&'static SupportedProtocolVersion>,
    _accepting: JoinSet<()>,
}

/// What the next connection meets.
type Config = Arc<Mutex<Arc<ServerConfig>>>;

impl StandIn {
    pub(crate) async fn start(ca: &Ca, answer: Answer) -> Self {
        Self::start_with(ca, ca, answer, rustls::ALL_VERSIONS).await
    }

    /// From now on it refuses whom these CRLs revoke.
    pub(crate) fn load(&self, ca: &Ca, crl: &str) {
        *self.config.lock().unwrap() = Arc::new(ca.server_config(ca, &self.versions, Some(crl)));
    }

    /// `of` signed the server's certificate, `trusts` must have signed the client's.
    pub(crate) async fn start_with(
        of: &Ca,
        trusts: &Ca,
        answer: Answer,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let config = Arc::new(Mutex::new(Arc::new(of.server_config(trusts, versions, None))));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, config.clone(), answer, requests.clone()));
        Self { address, requests, config, versions: versions.into(), _accepting: accepting }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, config: Config, answer: Answer, requests: Arc<Mutex<Vec<String>>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut tcp, _)) = listener.accept().await {
        let acceptor = TlsAcceptor::from(config.lock().unwrap().clone());
        let (answer, requests) = (answer.clone(), requests.clone());
        connections.spawn(async move {
            if matches!(answer, Answer::PlainText) {
                tcp.write_all(b"220 mail.example ESMTP\r\n").await.ok();
                return;
            }
            let Ok(mut tls) = acceptor.accept(tcp).await else { return };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(byte) = tls.read_u8().await else { return };
                request.push(byte);
            }
            requests.lock().unwrap().push(String::from_utf8(request).unwrap());
            match answer {
                Answer::Bytes(bytes) => {
                    tls.write_all(bytes.as_bytes()).await.ok();
                    tls.shutdown().await.ok();
                }
                Answer::Never | Answer::PlainText => std::future::pending().await,
                Answer::Endless => {
                    let mut sent = tls.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
                    while sent.is_ok() {
                        sent = tls.write_all(&[b' '; 65536]).await;
                    }
                }
            }
        });
    }
}

/// A CA such as Puppet's, with its certificate in a directory like Puppet's ssldir.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Puppet CA: test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for `name` and its key, in PEM.
    fn issue(&self, name: &str) -> (String, String) {
        self.issue_numbered(name, OWN)
    }

    pub(crate) fn issue_numbered(&self, name: &str, serial: u64) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The files of a node in `dir`, with a fresh certificate of this CA.
    pub(crate) fn settings(&self, dir: &Path) -> Settings {
        let path = |name: &str| dir.join(name);
        let (cert, key) = self.issue(CERTNAME);
        for (name, text) in [("cert.pem", &cert), ("key.pem", &key), ("ca.pem", &self.pem)] {
            let new = path(&format!("{name}.new"));
            fs::write(&new, text).unwrap();
            fs::rename(new, path(name)).unwrap();
        }
        Settings {
            confdir: path("etc"),
            config: path("etc/puppet.conf"),
            codedir: path("code"),
            environmentpath: path("code/environments"),
            ssldir: dir.into(),
            hostcert: path("cert.pem"),
            hostprivkey: path("key.pem"),
            localcacert: path("ca.pem"),
            hostcrl: path("crl.pem"),
            cadir: None,
            certname: CERTNAME.into(),
            serverport: 8140,
            user: "puppet".into(),
            group: "puppet".into(),
            versioned_environment_dirs: Some(true),
            static_catalogs: true,
        }
    }

    pub(crate) fn crl(&self, revoked: &[u64]) -> String {
        let now = OffsetDateTime::now_utc();
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now - time::Duration::HOUR,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now - time::Duration::HOUR,
            next_update: now + time::Duration::DAY,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn server_config(
        &self,
        trusts: &Self,
        versions: &[&'static SupportedProtocolVersion],
        crl: Option<&str>,
    ) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let (cert, key) = self.issue(CERTNAME);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusts.pem.as_bytes()).unwrap()).unwrap();
        let crls = crl.map(|crl| CertificateRevocationListDer::from_pem_slice(crl.as_bytes()).unwrap());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .with_crls(crls)
            .build()
            .unwrap();
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap()
    }
}

/// A node beside a stand-in.
pub(crate) struct Node {
    dir: tempfile::TempDir,
    pub(crate) ca: Ca,
    pub(crate) settings: Settings,
}

impl Node {
    pub(crate) fn new() -> Self {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
        let settings = ca.settings(dir.path());
        Self { dir, ca, settings }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().into()
    }

    pub(crate) fn asks(&self, server: &StandIn) -> PuppetServer {
        PuppetServer::new(&self.settings, server.address)
    }
}
