//! rustls configurations: TLS 1.3 only, ring, and no session resumption on either end, because rustls runs no
//! certificate verifier on a resumed handshake and a revoked peer would get back in (measured, dependencies: rustls 0.23).
//!
//! `server` makes one configuration per door, `client` one per way to dial, `verify` holds the checks both insist on.

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem, pem::PemObject},
    server::VerifierBuilderError,
};

use crate::peer::{FleetName, PeerError, PeerIdentity};

mod client;
mod disowned;
mod server;
mod verify;
mod wrong_time;

pub use client::{ClientTls, mesh_client, pinned_client, puppet_client};
pub use disowned::is_disowned;
pub use server::{enroll_door, h2_door, node_door, puppet_door};
pub use verify::Standing;
pub use wrong_time::WrongTime;

/// One provider for the process; nothing is installed globally, so tests and programs cannot disagree about it.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// A certificate chain, leaf first, with its private key. `Debug` shows no key.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// `what` names the holder in errors: "the node's Puppet certificate".
    pub fn from_pem(what: &'static str, chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates(what, chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsError::Key { what, source })?;
        Ok(Self { chain, key })
    }

    /// The certificate that names the holder.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        self.chain.first().expect("`certificates` returns at least one")
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} certificates, key hidden)", self.chain.len())
    }
}

/// What either end of a mesh connection brings: the mesh CAs, the fleet's name, and its own identity.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Whom it trusts: the mesh CA, and while that is rotated its successor, too. Never empty.
    pub anchors: Vec<CertificateDer<'static>>,
    pub fleet: FleetName,
    pub own: Credentials,
}

impl Mesh {
    /// `anchors`: one CA certificate or several.
    pub fn from_pem(anchors: &[u8], fleet: FleetName, own: Credentials) -> Result<Self, TlsError> {
        Ok(Self { anchors: certificates("the mesh CA", anchors)?, fleet, own })
    }

    /// The anchor that signed the own certificate, whatever the time.
    pub fn issuer(&self) -> Option<&CertificateDer<'static>> {
        let identity = PeerIdentity::from_certificate(self.own.leaf()).ok()?;
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(identity.not_after);
        let signed = |anchor: &&CertificateDer<'static>| {
            verify::signed_by(std::slice::from_ref(*anchor), self.own.leaf(), &identity, at).is_ok()
        };
        self.anchors.iter().find(signed)
    }

    /// Reads the own identity and makes sure that a mesh CA signed it, for this fleet.
    pub fn own_identity(&self, now: SystemTime) -> Result<PeerIdentity, TlsError> {
        let what = "the own certificate";
        let identity = PeerIdentity::from_certificate(self.own.leaf())
            .map_err(|source| TlsError::Identity { what, source })?;
        verify::signed_by(&self.anchors, self.own.leaf(), &identity, now).map_err(|source| {
            match WrongTime::of(what, &source) {
                Some(wrong) => TlsError::Time(wrong),
                None => TlsError::Unusable { what, source },
            }
        })?;
        if identity.fleet == self.fleet {
            Ok(identity)
        } else {
            Err(TlsError::Fleet { fleet: identity.fleet })
        }
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        roots("the mesh CA", &self.anchors)
    }
}

/// Puppet's CA bundle and its CRLs, as Puppet writes them (`ca.pem`, `crl.pem`: root and intermediates in one file).
#[derive(Clone, Debug)]
pub struct PuppetAuthorities {
    pub certificates: Vec<CertificateDer<'static>>,
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

impl PuppetAuthorities {
    /// Without a CRL nobody is let in: an empty file is an error, never "nothing is revoked".
    pub fn from_pem(ca: &[u8], crls: &[u8]) -> Result<Self, TlsError> {
        let certificates = certificates("Puppet's CA bundle", ca)?;
        let crls: Vec<_> = CertificateRevocationListDer::pem_slice_iter(crls)
            .collect::<Result<_, _>>()
            .map_err(|source| TlsError::Crls { source })?;
        if crls.is_empty() {
            return Err(TlsError::NoCrl);
        }
        Ok(Self { certificates, crls })
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        roots("Puppet's CA bundle", &self.certificates)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("could not read the certificate of {what} as PEM")]
    Certificates {
        what: &'static str,
        #[source]
        source: pem::Error,
    },
    #[error("there is no certificate in the PEM of {what}")]
    NoCertificate { what: &'static str },
    #[error("could not read the private key of {what} as PEM")]
    Key {
        what: &'static str,
        #[source]
        source: pem::Error,
    },
    #[error("could not read Puppet's CRLs as PEM")]
    Crls {
        #[source]
        source: pem::Error,
    },
    #[error("there is no CRL in the file of Puppet's CRLs")]
    NoCrl,
    #[error("{what} cannot be used for TLS")]
    Unusable {
        what: &'static str,
        #[source]
        source: rustls::Error,
    },
    #[error(transparent)]
    Time(WrongTime),
    #[error("could not make a verifier from {what}")]
    Verifier {
        what: &'static str,
        #[source]
        source: VerifierBuilderError,
    },
    #[error("the own certificate belongs to the fleet {fleet}")]
    Fleet { fleet: FleetName },
    #[error("`{name}` is not a host name")]
    Name { name: String },
    #[error("{what} is not a mesh identity")]
    Identity {
        what: &'static str,
        #[source]
        source: PeerError,
    },
}

/// The fleet that a mesh certificate names. Nobody's signature is checked.
pub(crate) fn fleet_in(what: &'static str, pem: &[u8]) -> Result<FleetName, TlsError> {
    let certificates = certificates(what, pem)?;
    let leaf = certificates.first().ok_or(TlsError::NoCertificate { what })?;
    PeerIdentity::from_certificate(leaf)
        .map(|identity| identity.fleet)
        .map_err(|source| TlsError::Identity { what, source })
}

fn certificates(what: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Certificates { what, source })?;
    if found.is_empty() { Err(TlsError::NoCertificate { what }) } else { Ok(found) }
}

fn roots<'a>(
    what: &'static str,
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone()).map_err(|source| TlsError::Unusable { what, source })?;
    }
    Ok(Arc::new(store))
}
