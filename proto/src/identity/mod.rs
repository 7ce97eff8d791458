//! The own mesh identity of whoever dials the controller, a node or an operator: made (`key`), obtained (`enroll`),
//! kept (`files`), and renewed in time. Private keys are made here and never leave the machine.

use std::time::{Duration, SystemTime};

use bunraku_common::Digest;
use zeroize::Zeroizing;

use crate::{
    peer::{self, FleetName, Peer, PeerError, PeerIdentity},
    tls::{Credentials, Mesh, TlsError},
};

mod enroll;
mod files;
mod key;
mod token;

pub use enroll::{EnrollError, renew, with_puppet_certificate, with_token};
pub use files::{FilesError, IdentityFiles};
pub use key::{Key, KeyError};
pub use token::{TokenError, read_token};

/// A mesh identity with its key: everything that is needed to dial the controller.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Checked: this key's, signed by this CA, of this fleet.
    certificate: PeerIdentity,
    certificate_pem: String,
    ca_pem: String,
    key: Key,
    mesh: Mesh,
}

impl Identity {
    /// Puts the parts together and checks that they belong together; an expired certificate passes, because it may
    /// still renew itself.
    pub fn new(
        certificate_pem: String,
        ca_pem: String,
        fleet: FleetName,
        key: Key,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let own =
            Credentials::from_pem("the own mesh identity", certificate_pem.as_bytes(), key.pem().as_bytes())?;
        let mesh = Mesh::from_pem(ca_pem.as_bytes(), fleet, own)?;
        let certificate = mesh.own_identity(now)?;
        if certificate.key != key.digest() {
            return Err(IdentityError::ForeignKey);
        }
        Ok(Self { certificate, certificate_pem, ca_pem, key, mesh })
    }

    /// Who this is, and until when.
    pub const fn certificate(&self) -> &PeerIdentity {
        &self.certificate
    }

    pub const fn peer(&self) -> &Peer {
        &self.certificate.peer
    }

    /// For [`tls::mesh_client`](crate::tls::mesh_client).
    pub const fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The pins of the CAs that it trusts, the one that signed it first.
    pub fn anchors(&self) -> Result<Vec<Digest>, PeerError> {
        let issuer = self.mesh.issuer();
        let others = self.mesh.anchors.iter().filter(|anchor| Some(*anchor) != issuer);
        issuer.into_iter().chain(others).map(peer::pin).collect()
    }

    /// What tells its fleet from every other: the pin of the fleet's first CA.
    pub fn fleet_pin(&self) -> Result<Digest, PeerError> {
        let ca = self.mesh.issuer().or_else(|| self.mesh.anchors.first()).ok_or(PeerError::Malformed)?;
        peer::founder(ca)
    }

    /// Unix seconds at which to renew: at half of the certificate's life, or up to a tenth of its life earlier, so that
    /// nodes that enrolled together do not renew together. `random` spreads it. Never later: the other half is how
    /// long the controller may be away.
    pub fn renew_at(&self, random: u64) -> u64 {
        let life = self.certificate.not_after.saturating_sub(self.certificate.not_before);
        let spread = u64::try_from((u128::from(life / 10) * u128::from(random)) >> 64).unwrap_or(0);
        self.certificate.not_before + life / 2 - life / 10 + spread
    }

    /// Whether the time to renew, as told by [`Identity::renew_at`], has come by this host's clock.
    pub fn renewal_due(&self, now: SystemTime, random: u64) -> bool {
        peer::unix_seconds(now) >= self.renew_at(random)
    }

    /// How long to wait for the renewal of an identity that was issued just now, whatever this host's clock says.
    pub fn renewal_after(&self, random: u64) -> Duration {
        Duration::from_secs(self.renew_at(random).saturating_sub(self.certificate.not_before))
    }

    /// How long to wait for the renewal by this host's clock.
    pub fn until_renewal(&self, now: SystemTime, random: u64) -> Duration {
        Duration::from_secs(self.renew_at(random).saturating_sub(peer::unix_seconds(now)))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the identity is not usable")]
    Unusable(#[from] TlsError),
    #[error("the certificate was issued for another key")]
    ForeignKey,
}

/// A secret text that is wiped when dropped and never shown.
pub(crate) type Secret = Zeroizing<String>;
