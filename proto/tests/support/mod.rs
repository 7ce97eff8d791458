//! A mesh and a Puppet PKI for tests, and a controller's port on a loopback address.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bunraku_common::{NodeName, OperatorName};
use bunraku_proto::{
    Door, FleetName, Peer,
    accept::{Accepted, Doors, Limits, accept},
    tls::{self, ClientTls, Credentials, Mesh, PuppetAuthorities, Standing},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Longest wait for something that must happen; only a failing test waits that long.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn node(name: &str) -> Peer {
    Peer::Node(NodeName::parse(name).unwrap())
}

pub(crate) fn operator(name: &str) -> Peer {
    Peer::Operator(OperatorName::parse(name).unwrap())
}

pub(crate) fn everybody() -> Standing {
    Standing::new(|_| true)
}

/// A certificate authority.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let (parameters, key) = authority(name);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), issuer: Issuer::new(parameters, key) }
    }

    pub(crate) fn below(&self, name: &str) -> Self {
        let (parameters, key) = authority(name);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Self { pem: certificate.pem(), issuer: Issuer::new(parameters, key) }
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }

    /// A leaf as `change` makes it.
    pub(crate) fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.not_before = at(SystemTime::now() - HOUR);
        parameters.not_after = at(SystemTime::now() + DAY);
        parameters.use_authority_key_identifier_extension = true;
        change(&mut parameters);
        (parameters.signed_by(&key, &self.issuer).unwrap().pem(), key)
    }

    /// Signs a request as it came.
    pub(crate) fn sign(&self, request: rcgen::CertificateSigningRequestParams) -> String {
        request.signed_by(&self.issuer).unwrap().pem()
    }

    pub(crate) fn crl(&self, revoked: &[u64], next: SystemTime) -> String {
        CertificateRevocationListParams {
            this_update: at(SystemTime::now() - 2 * DAY),
            next_update: at(next),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: at(SystemTime::now() - HOUR),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .unwrap()
        .pem()
        .unwrap()
    }
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.not_before = at(SystemTime::now() - DAY);
    parameters.not_after = at(SystemTime::now() + 100 * DAY);
    (parameters, KeyPair::generate().unwrap())
}

fn at(when: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(when)
}

/// A fleet with its CA.
pub(crate) struct Fleet {
    pub(crate) ca: Authority,
    pub(crate) name: FleetName,
}

impl Fleet {
    pub(crate) fn new(name: &str) -> Self {
        Self { ca: Authority::root("mesh"), name: FleetName::parse(name).unwrap() }
    }

    pub(crate) fn leaf_of(&self, peer: &Peer) -> (String, KeyPair) {
        self.ca.leaf(|parameters| {
            parameters.subject_alt_names = vec![SanType::URI(peer.uri(&self.name).try_into().unwrap())];
            parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    pub(crate) fn mesh(&self, peer: &Peer) -> Mesh {
        self.mesh_until(peer, SystemTime::now() + DAY)
    }

    pub(crate) fn mesh_until(&self, peer: &Peer, end: SystemTime) -> Mesh {
        self.mesh_with(peer, |parameters| {
            parameters.not_before = at(end - 2 * DAY);
            parameters.not_after = at(end);
        })
    }

    pub(crate) fn mesh_with(&self, peer: &Peer, change: impl FnOnce(&mut CertificateParams)) -> Mesh {
        let (pem, key) = self.ca.leaf(|parameters| {
            parameters.subject_alt_names = vec![SanType::URI(peer.uri(&self.name).try_into().unwrap())];
            parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            if *peer == Peer::Controller {
                let dns = SanType::DnsName(self.name.controller().try_into().unwrap());
                parameters.subject_alt_names.push(dns);
                parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
            change(parameters);
        });
        let own = Credentials::from_pem("a test", pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        Mesh { anchors: vec![self.ca.der()], fleet: self.name.clone(), own }
    }

    pub(crate) fn client(&self, peer: &Peer, door: Door) -> ClientTls {
        tls::mesh_client(&self.mesh(peer), door).unwrap()
    }

    pub(crate) fn doors(&self, standing: Standing, grace: Duration) -> Doors {
        let mesh = self.mesh(&Peer::Controller);
        Doors {
            node: Some(tls::node_door(&mesh, standing.clone()).unwrap()),
            h2: Some(tls::h2_door(&mesh, standing, grace).unwrap()),
            enroll: Some(tls::enroll_door(&mesh).unwrap()),
            enroll_puppet: None,
        }
    }
}

/// Puppet's root and issuing CA, as `puppetserver ca setup` makes them: two CRLs, serials of both count from 1.
pub(crate) struct Puppet {
    pub(crate) root: Authority,
    pub(crate) issuing: Authority,
}

impl Puppet {
    pub(crate) fn new() -> Self {
        let root = Authority::root("Puppet Root CA");
        let issuing = root.below("Puppet CA: main.test");
        Self { root, issuing }
    }

    pub(crate) fn authorities(&self, revoked: &[u64], next: SystemTime) -> PuppetAuthorities {
        let ca = format!("{}{}", self.issuing.pem, self.root.pem);
        let crls = format!("{}{}", self.issuing.crl(revoked, next), self.root.crl(&[], next));
        PuppetAuthorities::from_pem(ca.as_bytes(), crls.as_bytes()).unwrap()
    }

    pub(crate) fn certificate(&self, certname: &str, alias: &str, serial: u64) -> Credentials {
        let (pem, key) = self.issuing.leaf(|parameters| {
            parameters.distinguished_name.push(DnType::CommonName, certname);
            parameters.subject_alt_names = [certname, alias]
                .into_iter()
                .map(|name| SanType::DnsName(name.try_into().unwrap()))
                .collect();
            parameters.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            parameters.serial_number = Some(SerialNumber::from(serial));
        });
        Credentials::from_pem("a test", pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }
}

/// A controller's port. What comes through its doors is handed out, or handled by `open_with`'s handler.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    pub(crate) doors: Arc<ArcSwap<Doors>>,
    task: AbortHandle,
}

impl Port {
    pub(crate) async fn open(doors: Doors) -> (Self, mpsc::UnboundedReceiver<Accepted>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let port = Self::open_with(doors, Limits::default(), move |accepted| {
            let _ = sender.send(accepted);
            async {}
        })
        .await;
        (port, receiver)
    }

    pub(crate) async fn open_with<H, F>(doors: Doors, limits: Limits, handler: H) -> Self
    where
        H: Fn(Accepted) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let doors = Arc::new(ArcSwap::from_pointee(doors));
        let task: JoinHandle<()> = tokio::spawn(accept(listener, Arc::clone(&doors), limits, handler));
        Self { address, doors, task: task.abort_handle() }
    }

    pub(crate) fn at(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits for what must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it did not happen in time")
}
