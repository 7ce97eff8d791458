//! The checks of certificates that webpki alone does not make. Signatures, dates, usage and chains stay webpki's.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bunraku_common::Digest;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, provider};
use crate::peer::{self, FleetName, Peer, PeerIdentity};

/// Whether an identity may still come in: asked at every handshake of the mesh doors, with the controller's deny-list
/// behind it. It must answer at once (a lookup in memory).
#[derive(Clone)]
pub struct Standing(Arc<dyn Fn(&PeerIdentity) -> bool + Send + Sync>);

impl Standing {
    /// `admitted` says true for an identity that was not revoked.
    pub fn new(admitted: impl Fn(&PeerIdentity) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(admitted))
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

/// Checks the certificates that come to a mesh door: signed directly by the mesh CA, of this fleet, of the kind that
/// belongs there, and in good standing.
#[derive(Debug)]
pub(super) struct MeshPeers {
    inner: Arc<dyn ClientCertVerifier>,
    fleet: FleetName,
    standing: Standing,
    operators: bool,
    grace: Duration,
}

impl MeshPeers {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        fleet: FleetName,
        standing: Standing,
    ) -> Result<Self, TlsError> {
        let inner = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|source| TlsError::Verifier { what: "the mesh CA", source })?;
        Ok(Self { inner, fleet, standing, operators: true, grace: Duration::ZERO })
    }

    pub(super) fn nodes_only(self) -> Self {
        Self { operators: false, ..self }
    }

    pub(super) fn expired_nodes_for(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// The instant at which webpki shall judge the certificate: now, or its own last one where it is in its grace.
    fn judged_at(&self, identity: &PeerIdentity, now: UnixTime) -> UnixTime {
        let late = now.as_secs().saturating_sub(identity.not_after);
        let node = matches!(identity.peer, Peer::Node(_));
        if node && late > 0 && late <= self.grace.as_secs() {
            UnixTime::since_unix_epoch(Duration::from_secs(identity.not_after))
        } else {
            now
        }
    }

    fn belongs_here(&self, identity: &PeerIdentity) -> bool {
        identity.fleet == self.fleet
            && match identity.peer {
                Peer::Node(_) => true,
                Peer::Operator(_) => self.operators,
                Peer::Controller => false,
            }
    }
}

impl ClientCertVerifier for MeshPeers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let identity = PeerIdentity::from_certificate(end_entity).map_err(not_acceptable)?;
        // Leaves are signed by the CA itself, so what else the peer sends is not looked at.
        let verified = self.inner.verify_client_cert(end_entity, &[], self.judged_at(&identity, now))?;
        if !self.belongs_here(&identity) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        if !(self.standing.0)(&identity) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Who exactly must hold a server certificate whose chain, dates and DNS name are good.
#[derive(Debug)]
pub(super) enum Holder {
    Controller(FleetName),
    /// The subject's only common name: Puppet's certname.
    CommonName(String),
}

impl Holder {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let right = match self {
            Self::Controller(fleet) => {
                let identity = PeerIdentity::from_certificate(certificate).map_err(not_acceptable)?;
                identity.peer == Peer::Controller && identity.fleet == *fleet
            }
            Self::CommonName(name) => has_common_name(certificate, name),
        };
        if right { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}

/// webpki's verification, and then the holder.
#[derive(Debug)]
pub(super) struct NamedServer {
    pub(super) inner: Arc<WebPkiServerVerifier>,
    pub(super) holder: Holder,
}

impl ServerCertVerifier for NamedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.holder.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A controller of whom only the CA's pin is known.
#[derive(Debug)]
pub(super) struct PinnedServer {
    pin: Digest,
}

impl PinnedServer {
    pub(super) const fn new(pin: Digest) -> Self {
        Self { pin }
    }

    fn pinned_root(&self, shown: &[CertificateDer<'_>]) -> Result<RootCertStore, Error> {
        let ca = shown
            .iter()
            .find(|certificate| peer::pin(certificate) == Ok(self.pin))
            .ok_or_else(|| not_acceptable(PinMismatch))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        Ok(roots)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the controller's CA does not have the expected pin (hint: compare it with the one that \
     `bunraku token create` prints on the controller)"
)]
struct PinMismatch;

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.pinned_root(intermediates)?;
        let algorithms = provider().signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)?;
        let identity = PeerIdentity::from_certificate(end_entity).map_err(not_acceptable)?;
        if identity.peer == Peer::Controller {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Whether one of the `anchors` signed this leaf. Judged at the leaf's last good instant when it has expired, because an expired
/// identity may still renew itself.
pub(super) fn signed_by(
    anchors: &[CertificateDer<'static>],
    leaf: &CertificateDer<'_>,
    identity: &PeerIdentity,
    now: SystemTime,
) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(anchor.clone())?;
    }
    let seconds = peer::unix_seconds(now).min(identity.not_after);
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    verifier.verify_client_cert(leaf, &[], at).map(|_| ())
}

fn has_common_name(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let names: Vec<_> = parsed.subject().iter_common_name().map(|cn| cn.as_str().ok()).collect();
    names == [Some(name)]
}

/// Keeps the reason for the own log; the peer sees only an alert.
fn not_acceptable(reason: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(reason))).into()
}
