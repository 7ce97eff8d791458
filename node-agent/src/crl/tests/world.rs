//! A compiler as its agent finds it: a `puppet` program that answers, a CA of rcgen, a Puppet Server that checks CRLs.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex, RwLock, atomic::AtomicU32},
    time::{Duration, Instant},
};

use bunraku_common::Digest;
use bunraku_proto::v1::{self, node_server::Node as _};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Status, transport::Endpoint};

use crate::{config::Config, node::Node, service::Service};

pub(super) const CANARY: u64 = 7;

pub(super) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Puppet CA: test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key.
    pub(super) fn issue(&self, name: &str, serial: u64) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = OffsetDateTime::now_utc() - time::Duration::HOUR;
        params.not_after = OffsetDateTime::now_utc() + time::Duration::DAY;
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    pub(super) fn crl(&self, number: u64, revoked: &[u64]) -> String {
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
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A Puppet Server that reads its CRL file for every connection.
async fn puppet_server(listener: TcpListener, ca: String, own: (String, String), crl: PathBuf) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let crls = fs::read(&crl).ok().map(|pem| CertificateRevocationListDer::from_pem_slice(&pem).unwrap());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.with_crls(crls).build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(own.0.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(own.1.as_bytes()).unwrap(),
            )
            .unwrap();
        connections.spawn(async move {
            let Ok(mut tls) = TlsAcceptor::from(Arc::new(config)).accept(tcp).await else { return };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(byte) = tls.read_u8().await else { return };
                request.push(byte);
            }
            tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nrunning").await.ok();
            tls.shutdown().await.ok();
        });
    }
}

pub(super) struct Host {
    pub(super) dir: tempfile::TempDir,
    pub(super) ca: Ca,
    pub(super) service: Service,
    pub(super) tasks: JoinSet<()>,
}

impl Host {
    pub(super) async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
        let path = |name: &str| dir.path().join(name);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        fs::create_dir(path("environments")).unwrap();
        let own = ca.issue("c1.example", 1);
        for (name, text) in [("cert.pem", &own.0), ("key.pem", &own.1), ("ca.pem", &ca.0.pem())] {
            fs::write(path(name), text).unwrap();
        }
        write_puppet(&dir);
        let mut tasks = JoinSet::new();
        tasks.spawn(puppet_server(listener, ca.0.pem(), own, path("crl.pem")));
        let node = Arc::new(Node::open(config(&dir, address, change)).await.unwrap());
        Self { service: service(node), dir, ca, tasks }
    }

    /// As `Agent::start` does.
    pub(super) fn watch(&mut self) {
        self.tasks.spawn(crate::crl::watch(self.service.node.clone()));
        self.tasks.spawn(crate::crl::reload(self.service.node.clone()));
    }

    pub(super) fn crl(&self) -> PathBuf {
        self.dir.path().join("crl.pem")
    }

    pub(super) async fn install(&self, crls: &str, generation: u64) -> Result<v1::InstallCrlReply, Status> {
        let order = Some(order("crl", generation));
        let request = v1::InstallCrlRequest { order, crls: crls.into(), number_reset: false };
        self.service.install_crl(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    pub(super) async fn prove(&self, canary: &(String, String)) -> Result<v1::ProveCrlReply, Status> {
        let order = Some(order("crl", 1));
        let (certificate, key) = (canary.0.clone().into(), canary.1.clone().into());
        let request = v1::ProveCrlRequest { order, certificate, key };
        self.service.prove_crl(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    pub(super) async fn seen(&self) -> Option<v1::CrlOnNode> {
        self.service.observe(Request::new(v1::ObserveRequest {})).await.unwrap().into_inner().crl
    }
}

pub(super) fn order(subject: &str, generation: u64) -> v1::Order {
    let term = Some(v1::Term { number: 1, id: format!("{:032x}", 7) });
    v1::Order { term, generation, subject: subject.to_owned(), ..v1::Order::default() }
}

/// Until it is so.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, so: impl Fn() -> F) {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn config(dir: &tempfile::TempDir, address: SocketAddr, change: impl FnOnce(&mut Config)) -> Config {
    let at = dir.path().display();
    let text = format!(
        "controller = 'main:8170'\nname = 'c1.example'\ndata_dir = '{at}/data'\n\
         [code]\nversions_dir = '{at}/versions'\nenvironments_dir = '{at}/environments'\ngroup = ''\n\
         [puppet]\nprogram = '{at}/puppet'\nserver = '{address}'\n"
    );
    let mut config = toml::from_str(&text).unwrap();
    change(&mut config);
    config
}

fn service(node: Arc<Node>) -> Service {
    let fleet = Digest::of(b"a fleet");
    node.memory().belong_to(fleet).unwrap();
    Service {
        node,
        fleet,
        content: Arc::new(RwLock::new(Endpoint::from_static("http://127.0.0.1:1").connect_lazy())),
        redial_spread_ms: Arc::new(AtomicU32::new(0)),
        greeted: Arc::new(watch::channel(true).0),
        anchors: Vec::new(),
    }
}

fn write_puppet(dir: &tempfile::TempDir) {
    // A program that was just written cannot be run while another thread's child still holds it open.
    static WRITING: Mutex<()> = Mutex::new(());
    let _one = WRITING.lock();
    let at = dir.path().display().to_string();
    let path = |name: &str| format!("{at}/{name}");
    let settings = serde_json::json!({
        "confdir": at, "config": path("puppet.conf"), "codedir": at, "environmentpath": path("environments"),
        "ssldir": at, "hostcert": path("cert.pem"), "hostprivkey": path("key.pem"), "localcacert": path("ca.pem"),
        "hostcrl": path("crl.pem"), "certname": "c1.example", "serverport": 8140, "user": "puppet",
        "group": "puppet", "versioned_environment_dirs": true, "static_catalogs": true,
    });
    fs::write(dir.path().join("settings.json"), settings.to_string()).unwrap();
    fs::write(dir.path().join("puppet.conf"), "").unwrap();
    let script = format!("#!/bin/sh\nexec cat {at}/settings.json\n");
    fs::write(dir.path().join("puppet"), script).unwrap();
    fs::set_permissions(dir.path().join("puppet"), fs::Permissions::from_mode(0o755)).unwrap();
}
