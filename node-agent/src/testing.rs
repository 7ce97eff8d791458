//! A compiler as its agent finds it: a `puppet` program that answers, a CA of rcgen, a Puppet Server that checks CRLs.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock, atomic::AtomicU32},
    time::{Duration, Instant},
};

use bunraku_common::Digest;
use bunraku_proto::v1::{self, node_server::Node as _};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
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

const DAY: time::Duration = time::Duration::DAY;

pub(crate) const CANARY: u64 = 7;

pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Puppet CA: test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key.
    pub(crate) fn issue(&self, name: &str, serial: u64) -> (String, String) {
        self.issue_for(name, serial, DAY)
    }

    pub(crate) fn issue_for(&self, name: &str, serial: u64, life: time::Duration) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params(&[name], serial, life).signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// For the key of a request. `life`: from now on.
    pub(crate) fn sign_for(
        &self,
        request: &[u8],
        names: &[&str],
        serial: u64,
        life: time::Duration,
    ) -> String {
        let request = std::str::from_utf8(request).unwrap();
        let request = CertificateSigningRequestParams::from_pem(request).unwrap();
        let mut params = params(names, serial, life);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.signed_by(&request.public_key, &self.0).unwrap().pem()
    }

    pub(crate) fn crl(&self, number: u64, revoked: &[u64]) -> String {
        let now = OffsetDateTime::now_utc();
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now - time::Duration::HOUR,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now - time::Duration::HOUR,
            next_update: now + DAY,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

fn params(names: &[&str], serial: u64, life: time::Duration) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = OffsetDateTime::now_utc() - time::Duration::HOUR;
    params.not_after = OffsetDateTime::now_utc() + life;
    params
}

/// A Puppet Server that reads its CRL file for every connection.
///
/// It shows the pair in `served.pem`, where a start of the service beside has put it, else what it had at first.
async fn puppet_server(listener: TcpListener, ca: String, own: (String, String), dir: PathBuf) {
    let crl = dir.join("crl.pem");
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let served = fs::read_to_string(dir.join("served.pem"));
        let shown = served.map_or_else(|_| own.clone(), |both| (both.clone(), both));
        let crls = fs::read(&crl).ok().map(|pem| CertificateRevocationListDer::from_pem_slice(&pem).unwrap());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.with_crls(crls).build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(shown.0.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(shown.1.as_bytes()).unwrap(),
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

pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ca: Ca,
    pub(crate) service: Service,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) address: SocketAddr,
}

impl Host {
    pub(crate) async fn new(change: impl FnOnce(&mut Config)) -> Self {
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
        tasks.spawn(puppet_server(listener, ca.0.pem(), own, dir.path().into()));
        let service = open(dir.path(), address, change).await;
        Self { service, dir, ca, tasks, address }
    }

    /// The agent ends, and is started again.
    pub(crate) async fn again(self, between: impl FnOnce(&Path), change: impl FnOnce(&mut Config)) -> Self {
        let Self { dir, ca, service, tasks, address } = self;
        drop(service);
        between(dir.path());
        let service = open(dir.path(), address, change).await;
        Self { dir, ca, service, tasks, address }
    }

    /// As `Agent::start` does.
    pub(crate) fn watch(&mut self) {
        self.tasks.spawn(crate::crl::watch(self.service.node.clone()));
        self.tasks.spawn(crate::crl::reload(self.service.node.clone()));
    }

    pub(crate) fn crl(&self) -> PathBuf {
        self.dir.path().join("crl.pem")
    }

    pub(crate) async fn install(&self, crls: &str, generation: u64) -> Result<v1::InstallCrlReply, Status> {
        let order = Some(order("crl", generation));
        let request = v1::InstallCrlRequest { order, crls: crls.into(), number_reset: false };
        self.service.install_crl(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn prove(&self, canary: &(String, String)) -> Result<v1::ProveCrlReply, Status> {
        let order = Some(order("crl", 1));
        let (certificate, key) = (canary.0.clone().into(), canary.1.clone().into());
        let request = v1::ProveCrlRequest { order, certificate, key };
        self.service.prove_crl(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn seen(&self) -> Option<v1::CrlOnNode> {
        self.service.observe(Request::new(v1::ObserveRequest {})).await.unwrap().into_inner().crl
    }
}

pub(crate) fn order(subject: &str, generation: u64) -> v1::Order {
    let term = Some(v1::Term { number: 1, id: format!("{:032x}", 7) });
    v1::Order { term, generation, subject: subject.to_owned(), ..v1::Order::default() }
}

/// Until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, so: impl Fn() -> F) {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The agent of a host that lies in `dir`.
pub(crate) async fn open(dir: &Path, address: SocketAddr, change: impl FnOnce(&mut Config)) -> Service {
    service(Arc::new(Node::open(config(dir, address, change)).await.unwrap()))
}

fn config(dir: &Path, address: SocketAddr, change: impl FnOnce(&mut Config)) -> Config {
    let at = dir.display();
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
