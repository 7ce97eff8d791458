//! The mesh's certificate authority: made by `bunraku init`, opened by `bunraku serve`, asked by the enrolment and
//! renewal calls. Its key never leaves its file and this value. From a signing request it takes the public key and
//! nothing else: rcgen would copy CA:TRUE and foreign names from one.

use std::{
    fmt,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bunraku_common::{Digest, whole};
use bunraku_proto::{
    FleetName, Peer, PeerIdentity,
    peer::{self, PeerError},
    tls::{Credentials, Mesh, TlsError},
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    string::Ia5String,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::request::{self, RequestError};

/// Certificates begin a little in the past, so that a node whose clock is a few minutes behind accepts them; never more
/// than a tenth of their life, because half of that is where they are renewed.
const BACKDATED: Duration = Duration::from_secs(5 * 60);
/// The CA outlives the machines; its rotation is an operator's act.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// The controller's own certificate. Its key lives in memory only, so each start makes a new one; a controller that
/// runs for months makes one every [`CONTROLLER_RENEWAL`].
const CONTROLLER_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
pub(crate) const CONTROLLER_RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) const KEY_FILE: &str = "ca.key";
pub(super) const CERTIFICATE_FILE: &str = "ca.pem";

/// The CA with its key. `Debug` shows the fleet only.
pub(crate) struct MeshCa {
    fleet: FleetName,
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
}

/// A certificate that the CA has just signed.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    /// The leaf alone.
    pub(crate) pem: String,
    pub(crate) identity: PeerIdentity,
}

impl MeshCa {
    /// Makes a new CA in `dir`; refuses to replace one, because every node would have to enrol again.
    pub(crate) fn create(dir: &Path, fleet: &FleetName, now: SystemTime) -> Result<Self, CaError> {
        Self::make(dir, fleet, None, now)
    }

    /// Makes the CA that shall take the place of `before`, in a directory of its own. It names the fleet's first one.
    pub(super) fn succeed(dir: &Path, before: &Self, now: SystemTime) -> Result<Self, CaError> {
        let founder = peer::founder(&before.der).map_err(CaError::Identity)?;
        Self::make(dir, &before.fleet, Some(founder), now)
    }

    fn make(
        dir: &Path,
        fleet: &FleetName,
        founder: Option<Digest>,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let certificate = dir.join(CERTIFICATE_FILE);
        if certificate.exists() {
            return Err(CaError::Exists { path: certificate });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
        let pem = authority(fleet, founder, now).self_signed(&key).map_err(CaError::Make)?.pem();
        let key_pem = Zeroizing::new(key.serialize_pem());
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| CaError::Io {
            what: "make",
            path: dir.into(),
            source,
        })?;
        // The certificate comes last: with it the CA exists.
        write_whole(&dir.join(KEY_FILE), key_pem.as_bytes())?;
        write_whole(&certificate, pem.as_bytes())?;
        Self::open(dir)
    }

    pub(crate) fn open(dir: &Path) -> Result<Self, CaError> {
        let (key_path, certificate_path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        let pem = fs::read_to_string(&certificate_path).map_err(|source| CaError::Io {
            what: "read",
            path: certificate_path.clone(),
            source,
        })?;
        let key = KeyPair::from_pem(&read_private(&key_path)?)
            .map_err(|source| CaError::Key { path: key_path.clone(), source })?;
        let broken = |reason| CaError::Broken { path: certificate_path.clone(), reason };
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| broken("it is not PEM"))?;
        let (fleet, not_after, public) = read_authority(&der).map_err(broken)?;
        if public != key.subject_public_key_info() {
            return Err(CaError::ForeignKey { path: key_path });
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(CaError::Make)?;
        Ok(Self { fleet, pem, der, issuer, not_after })
    }

    /// The pin of the CA certificate that lies in `dir`, if there is one. Its key may be elsewhere.
    pub(super) fn pin_in(dir: &Path) -> Result<Option<Digest>, CaError> {
        let path = dir.join(CERTIFICATE_FILE);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CaError::Io { what: "read", path, source }),
            Ok(pem) => {
                let broken = |_| CaError::Broken { path: path.clone(), reason: "it is not PEM" };
                let der = CertificateDer::from_pem_slice(&pem).map_err(broken)?;
                peer::pin(&der).map(Some).map_err(CaError::Identity)
            }
        }
    }

    pub(super) const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(crate) const fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// The CA's certificate, for [`Identity`](bunraku_proto::v1::Identity).
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// What a node compares before it sends its token.
    pub(crate) fn pin(&self) -> Result<Digest, CaError> {
        peer::pin(&self.der).map_err(CaError::Identity)
    }

    /// A fresh identity of the controller itself, for its doors, which trust `anchors`. Its key is new and stays in
    /// memory.
    pub(super) fn controller(
        &self,
        anchors: Vec<CertificateDer<'static>>,
        now: SystemTime,
    ) -> Result<Mesh, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
        let certificate = self.certify(&key, &Peer::Controller, now, CONTROLLER_LIFE)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        let own = Credentials::from_pem(
            "the controller's identity",
            certificate.pem().as_bytes(),
            key_pem.as_bytes(),
        )?;
        Ok(Mesh { anchors, fleet: self.fleet.clone(), own })
    }

    /// Signs the public key of a request for a node or an operator, good from [`BACKDATED`] ago for `life` from now.
    /// Whatever else the request asks for is not read.
    pub(crate) fn sign(
        &self,
        request_pem: &str,
        subject: &Peer,
        now: SystemTime,
        life: Duration,
    ) -> Result<Issued, CaError> {
        if *subject == Peer::Controller {
            return Err(CaError::Subject);
        }
        let public = request::public_key(request_pem)?;
        let certificate = self.certify(&public, subject, now, life)?;
        let identity = PeerIdentity::from_certificate(certificate.der()).map_err(CaError::Identity)?;
        Ok(Issued { pem: certificate.pem(), identity })
    }

    fn certify(
        &self,
        public: &impl PublicKeyData,
        subject: &Peer,
        now: SystemTime,
        life: Duration,
    ) -> Result<Certificate, CaError> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, subject.to_string());
        parameters.subject_alt_names = vec![SanType::URI(ascii(&subject.uri(&self.fleet))?)];
        let usage = if *subject == Peer::Controller {
            parameters.subject_alt_names.push(SanType::DnsName(ascii(&self.fleet.controller())?));
            ExtendedKeyUsagePurpose::ServerAuth
        } else {
            ExtendedKeyUsagePurpose::ClientAuth
        };
        parameters.extended_key_usages = vec![usage];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.use_authority_key_identifier_extension = true;
        parameters.serial_number = Some(random_serial()?);
        parameters.not_before = OffsetDateTime::from(now - BACKDATED.min(life / 10));
        parameters.not_after = OffsetDateTime::from(now + life).min(self.not_after);
        parameters.signed_by(public, &self.issuer).map_err(CaError::Make)
    }
}

impl fmt::Debug for MeshCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshCa({})", self.fleet)
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error(
        "there is a mesh CA already: {path} (hint: to begin anew, move its directory away; every node must then enrol again)"
    )]
    Exists { path: PathBuf },
    #[error("could not {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} can be read by others than its owner (hint: chmod 600 {path})")]
    Exposed { path: PathBuf },
    #[error("could not read the private key {path}")]
    Key {
        path: PathBuf,
        #[source]
        source: rcgen::Error,
    },
    #[error("{path} is not the key of the certificate beside it")]
    ForeignKey { path: PathBuf },
    #[error("{path} is not the certificate of a mesh CA: {reason}")]
    Broken { path: PathBuf, reason: &'static str },
    #[error("could not make a certificate")]
    Make(#[source] rcgen::Error),
    #[error("could not get random bytes from the system: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("certificates of the controller are not issued on request")]
    Subject,
    #[error("the mesh CA made a certificate that it would not accept")]
    Identity(#[source] PeerError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn authority(fleet: &FleetName, founder: Option<Digest>, now: SystemTime) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "Bunraku mesh CA");
    parameters.distinguished_name.push(DnType::OrganizationName, fleet.as_str());
    if let Some(founder) = founder {
        parameters.distinguished_name.push(DnType::OrganizationalUnitName, founder.to_string());
    }
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.not_before = OffsetDateTime::from(now - BACKDATED);
    parameters.not_after = OffsetDateTime::from(now + CA_LIFE);
    parameters
}

/// The fleet that the CA was made for, its end, and its public key.
fn read_authority(der: &CertificateDer<'_>) -> Result<(FleetName, OffsetDateTime, Vec<u8>), &'static str> {
    let Ok(([], parsed)) = X509Certificate::from_der(der) else { return Err("it is not DER") };
    let organization = parsed.subject().iter_organization().next().and_then(|o| o.as_str().ok());
    let fleet = organization.and_then(|text| FleetName::parse(text).ok()).ok_or("it names no fleet")?;
    if !parsed.is_ca() {
        return Err("it may not sign");
    }
    Ok((fleet, parsed.validity().not_after.to_datetime(), parsed.public_key().raw.to_vec()))
}

/// 128 random bits; the two highest are set so that the number is positive and always equally long.
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(CaError::Random)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn ascii(text: &str) -> Result<Ia5String, CaError> {
    text.try_into().map_err(CaError::Make)
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, CaError> {
    let failed = |source| CaError::Io { what: "read", path: path.into(), source };
    if fs::metadata(path).map_err(failed)?.mode() & 0o077 != 0 {
        return Err(CaError::Exposed { path: path.into() });
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(failed)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CaError> {
    whole::replace(path, bytes).map_err(|source| CaError::Io { what: "write", path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use bunraku_common::NodeName;
    use tempfile::TempDir;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_request_gets_the_certificate_that_the_ca_decides() {
        let (_dir, ca) = ca();
        let key = key();
        let issued = ca.sign(&request(&key, |_| {}), &node(), now(), DAY).unwrap();
        assert_eq!(issued.identity.peer, node());
        assert_eq!(issued.identity.fleet, *ca.fleet());
        assert_eq!(issued.identity.key, Digest::of(&key.subject_public_key_info()));
        assert_eq!(issued.identity.not_after, seconds(now() + DAY));
        assert_eq!(issued.identity.not_before, seconds(now() - BACKDATED));
        assert_eq!(issued.identity.serial.len(), 32);
    }

    #[test]
    fn f11_a_node_whose_clock_is_minutes_behind_accepts_its_certificate_and_one_an_hour_off_does_not() {
        let (_dir, ca) = ca();
        let issued = ca.sign(&request(&key(), |_| {}), &node(), now(), DAY).unwrap().identity;
        let good_at = |clock: SystemTime| (issued.not_before..=issued.not_after).contains(&seconds(clock));
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        assert!(good_at(now()) && good_at(now() - 4 * minute) && good_at(now() + 23 * hour));
        assert!(!good_at(now() - hour) && !good_at(now() + 25 * hour));
    }

    #[test]
    fn what_a_request_asks_for_is_not_granted() {
        let (_dir, ca) = ca();
        let hostile: [fn(&mut CertificateParams); 4] = [
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            |p| p.subject_alt_names = vec![SanType::URI("spiffe://f/controller".try_into().unwrap())],
            |p| {
                p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
                p.distinguished_name.push(DnType::CommonName, "the controller");
            },
        ];
        for ask in hostile {
            let issued = ca.sign(&request(&key(), ask), &node(), now(), DAY).unwrap();
            let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
            let (_, certificate) = X509Certificate::from_der(&der).unwrap();
            assert!(!certificate.is_ca());
            assert_eq!(certificate.subject().to_string(), "CN=node c1.stack.test");
            let usage = certificate.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.client_auth && !usage.server_auth);
            assert!(!certificate.key_usage().unwrap().unwrap().value.key_cert_sign());
            let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
            assert_eq!(names.len(), 1);
        }
    }

    #[test]
    fn nobody_gets_a_controller_certificate_by_asking() {
        let (_dir, ca) = ca();
        let refused = ca.sign(&request(&key(), |_| {}), &Peer::Controller, now(), DAY);
        assert!(matches!(refused, Err(CaError::Subject)));
    }

    #[test]
    fn the_controllers_own_identity_serves_and_cannot_call() {
        let (_dir, ca) = ca();
        let mesh = ca.controller(vec![ca.der.clone()], now()).unwrap();
        let identity = PeerIdentity::from_certificate(mesh.own.leaf()).unwrap();
        assert_eq!(identity.peer, Peer::Controller);
        assert!(mesh.own_identity(now()).is_err(), "it passed as a client's certificate");
    }

    #[test]
    fn a_ca_opened_again_has_the_same_pin_and_is_not_made_twice() {
        let (dir, ca) = ca();
        assert_eq!(MeshCa::open(dir.path()).unwrap().pin().unwrap(), ca.pin().unwrap());
        let again = MeshCa::create(dir.path(), ca.fleet(), now());
        assert!(matches!(again, Err(CaError::Exists { .. })));
    }

    #[test]
    fn the_key_is_its_owners_alone_and_is_refused_when_it_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, _ca) = ca();
        let path = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(MeshCa::open(dir.path()), Err(CaError::Exposed { .. })));
    }

    #[test]
    fn a_key_of_another_ca_is_noticed() {
        let ((dir, _), (other, _)) = (ca(), ca());
        fs::copy(other.path().join(KEY_FILE), dir.path().join(KEY_FILE)).unwrap();
        assert!(matches!(MeshCa::open(dir.path()), Err(CaError::ForeignKey { .. })));
    }

    #[test]
    fn no_certificate_outlives_the_ca() {
        let (_dir, ca) = ca();
        let issued = ca.sign(&request(&key(), |_| {}), &node(), now(), CA_LIFE * 2).unwrap();
        assert_eq!(issued.identity.not_after, seconds(now() + CA_LIFE));
    }

    fn ca() -> (TempDir, MeshCa) {
        let dir = tempfile::tempdir().unwrap();
        let ca = MeshCa::create(dir.path(), &FleetName::parse("f").unwrap(), now()).unwrap();
        (dir, ca)
    }

    /// One whole second for a test run: certificates carry no fractions.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn seconds(at: SystemTime) -> u64 {
        at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    fn node() -> Peer {
        Peer::Node(NodeName::parse("c1.stack.test").unwrap())
    }

    fn key() -> KeyPair {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
    }

    fn request(key: &KeyPair, ask: impl Fn(&mut CertificateParams)) -> String {
        let mut parameters = CertificateParams::default();
        ask(&mut parameters);
        parameters.serialize_request(key).unwrap().pem().unwrap()
    }
}
