//! Puppet's CA, and a compiler with its certificate.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use bunraku_certificates::Certificate;
use bunraku_common::{Digest, Fence, Generation, NodeName, Term};
use bunraku_host_certificate::{Fallback, Files, Kept, Order, PlaceError, Refused, World, alt_names};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

pub(crate) const NAME: &str = "c1.example";
pub(crate) const NOW_S: u64 = 1_795_900_000;
/// Of every certificate that is signed for a request.
pub(crate) const SERIAL: u64 = 77;

pub(crate) fn at(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap()
}

pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Puppet CA: test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// For the key of a request, with whatever a test wants otherwise than it was asked for.
    pub(crate) fn sign(&self, request: &[u8], change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let request =
            CertificateSigningRequestParams::from_pem(std::str::from_utf8(request).unwrap()).unwrap();
        let mut params = params(&["puppet.example"], SERIAL);
        change(&mut params);
        params.signed_by(&request.public_key, &self.0).unwrap().pem().into()
    }

    /// For a key of its own.
    pub(crate) fn issue(&self, serial: u64) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params(&[], serial).signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    pub(crate) fn crl(&self, revoked: &[u64]) -> String {
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: at(NOW_S),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: at(NOW_S),
            next_update: at(NOW_S + 86_400),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

fn params(names: &[&str], serial: u64) -> CertificateParams {
    let names = names.iter().chain(&[NAME]).map(|name| (*name).to_owned());
    let mut params = CertificateParams::new(names.collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.serial_number = Some(SerialNumber::from(serial));
    (params.not_before, params.not_after) = (at(NOW_S - 3600), at(NOW_S + 86_400));
    params
}

pub(crate) fn order(generation: u64) -> Order {
    let fence = Fence { term: Term { number: 1, id: 1 }, generation: Generation(generation) };
    Order { fleet: Some(Digest::of(b"a fleet")), fence }
}

pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ca: Ca,
    pub(crate) kept: Kept,
    /// This host's clock.
    pub(crate) now_s: u64,
}

impl Host {
    /// With a certificate and a key, as they were before.
    pub(crate) fn new() -> Self {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
        fs::create_dir(dir.path().join("ssl")).unwrap();
        let kept = Kept::open(&dir.path().join("data")).unwrap();
        let host = Self { dir, ca, kept, now_s: NOW_S };
        fs::write(host.path("ssl/ca.pem"), host.ca.pem()).unwrap();
        let (certificate, key) = host.ca.issue(1);
        fs::write(host.path("ssl/cert.pem"), certificate).unwrap();
        fs::write(host.path("ssl/key.pem"), key).unwrap();
        fs::set_permissions(host.path("ssl/key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        host
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn start_again(&mut self) {
        self.kept = Kept::open(&self.path("data")).unwrap();
    }

    pub(crate) fn files(&self) -> Files {
        files(self.dir.path())
    }

    pub(crate) fn read(&self) -> (Vec<u8>, Vec<u8>) {
        (fs::read(self.path("ssl/cert.pem")).unwrap(), fs::read(self.path("ssl/key.pem")).unwrap())
    }

    pub(crate) fn request(&mut self, generation: u64, names: &[&str]) -> Result<Vec<u8>, Refused> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.kept.request(order(generation), &NodeName::parse(NAME).unwrap(), alt_names(&names)?)
    }

    pub(crate) fn stage(&mut self, generation: u64, pem: &[u8]) -> Result<(), Refused> {
        let (ca, crl) = (self.path("ssl/ca.pem"), self.path("ssl/crl.pem"));
        self.kept.stage(order(generation), pem, &World { ca: &ca, crl: &crl, now_s: self.now_s })
    }

    pub(crate) fn can_place(&self, fingerprint: &str) -> Result<(), String> {
        let (ca, crl) = (self.path("ssl/ca.pem"), self.path("ssl/crl.pem"));
        let world = World { ca: &ca, crl: &crl, now_s: self.now_s };
        let can = self.kept.can_place(fingerprint, &self.files(), &world);
        can.map_err(|error| bunraku_common::Chain(&error).to_string())
    }

    pub(crate) fn place(&mut self, fingerprint: &str) -> Result<(), PlaceError> {
        self.place_at(fingerprint, &self.files())
    }

    pub(crate) fn place_at(&mut self, fingerprint: &str, files: &Files) -> Result<(), PlaceError> {
        let (ca, crl) = (self.path("ssl/ca.pem"), self.path("ssl/crl.pem"));
        self.kept.place(fingerprint, files, &World { ca: &ca, crl: &crl, now_s: self.now_s })
    }

    /// What was asked for, signed and lying beside, with its fingerprint.
    pub(crate) fn ready(&mut self, generation: u64) -> (Vec<u8>, String) {
        let request = self.request(generation, &["puppet.example"]).unwrap();
        let certificate = self.ca.sign(&request, |_| ());
        self.stage(generation, &certificate).unwrap();
        let fingerprint = fingerprint(&certificate);
        (certificate, fingerprint)
    }

    /// Keys that lie anywhere in the agent's own directory.
    pub(crate) fn keys(&self) -> usize {
        let dirs = fs::read_dir(self.path("data")).unwrap().map(|entry| entry.unwrap().path());
        let files = dirs.filter(|path| path.is_dir()).flat_map(|dir| fs::read_dir(dir).unwrap());
        files.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().contains("key")).count()
    }
}

pub(crate) fn files(dir: &Path) -> Files {
    let path = |name: &str| dir.join("ssl").join(name);
    Files { certificate: path("cert.pem"), key: path("key.pem"), fallback: Fallback::default() }
}

pub(crate) fn fingerprint(pem: &[u8]) -> String {
    Certificate::parse(pem).unwrap().fingerprint().hex()
}
