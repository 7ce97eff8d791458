//! The stock of canaries, and Puppet's CA that signs and revokes them.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bunraku_certificates::{Crls, Revoked};
use bunraku_common::{Chain, NodeName};
use bunraku_engine::{CrlEvent, Revocations};
use bunraku_puppet_ca::{Canaries, Canary, CanaryError, PuppetCa, RevokedKeys, State as CaState, Why};

use crate::certificates::{MainCa, MainCaError};

/// Half a year: a node that was away for longer is proven with a fresh one.
const LIFE: Duration = Duration::from_secs(180 * 86_400);
/// The CA writes its file before it answers; the watch looks every ten seconds at the latest.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Stock {
    ca: Arc<MainCa>,
    canaries: Canaries,
    /// The canary that was revoked last, and when that was first told.
    revoked: Mutex<Option<(String, Instant)>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum StockError {
    #[error(transparent)]
    Ca(#[from] MainCaError),
    #[error(transparent)]
    Canary(#[from] CanaryError),
}

impl Stock {
    pub(crate) fn open(ca: Arc<MainCa>, data_dir: &Path) -> Result<Self, StockError> {
        let canaries = Canaries::open(&data_dir.join("canaries"))?;
        Ok(Self { ca, canaries, revoked: Mutex::default() })
    }

    /// One more: of those that a lost journal does not know, or a new one.
    pub(crate) async fn make(&self, known: &Revocations) -> CrlEvent {
        match self.one_more(known).await {
            Ok(Canary { name, issuer, serial, ends_s }) => CrlEvent::CanaryReady {
                name: name.to_string(),
                certificate: Revoked { issuer, serial },
                ends_s,
            },
            Err(error) => trouble(&error),
        }
    }

    async fn one_more(&self, known: &Revocations) -> Result<Canary, StockError> {
        let ca = self.ca.get()?;
        match self.unknown(ca, known).await? {
            Some(found) => Ok(found),
            None => Ok(self.canaries.stock(ca, LIFE).await?),
        }
    }

    async fn unknown(&self, ca: &PuppetCa, known: &Revocations) -> Result<Option<Canary>, CanaryError> {
        let held = self.canaries.held()?;
        for canary in held.into_iter().filter(|held| !known.canaries.contains_key(held.name.as_str())) {
            match ca.status(&canary.name).await? {
                Some(status) if status.state == CaState::Signed => return Ok(Some(canary)),
                Some(_) | None => {
                    self.canaries.discard(ca, canary.issuer, &canary.serial).await?;
                }
            }
        }
        Ok(None)
    }

    /// What the CA then writes is seen in its file. One that the CA does not know any more (it was restored, or somebody
    /// deleted it) is of no use.
    pub(crate) async fn revoke(&self, canary: &str, certificate: &Revoked) -> CrlEvent {
        let Ok(name) = NodeName::parse(canary) else {
            return CrlEvent::CanaryGone { name: canary.to_owned() };
        };
        let revoked = match self.ca.get() {
            Ok(ca) => ca.revoke(&name).await,
            Err(error) => return trouble(&error),
        };
        match revoked {
            Ok(()) => CrlEvent::CanaryTrouble { reason: self.unseen(canary) },
            Err(error) if matches!(error.why(), Why::NoCertificate { .. }) => {
                self.forget(canary, certificate).await
            }
            Err(error) => trouble(&error),
        }
    }

    /// Why its revocation is not seen though the CA made it a while ago; empty: it is about to be.
    fn unseen(&self, canary: &str) -> String {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match revoked.take() {
            Some((name, since)) if name == canary => since,
            Some(_) | None => Instant::now(),
        };
        let is_late = since.elapsed() > SEEN_WITHIN;
        *revoked = Some((canary.to_owned(), since));
        let path = self.ca.config().map(|config| config.crl.display().to_string()).unwrap_or_default();
        if !is_late {
            return String::new();
        }
        format!(
            "{path} does not show what Puppet's CA has revoked\nhint: [puppet] crl must be the CA's own file: puppet config print \
             --section server cacrl"
        )
    }

    pub(crate) async fn forget(&self, name: &str, certificate: &Revoked) -> CrlEvent {
        let ca = match self.ca.get() {
            Ok(ca) => ca,
            Err(error) => return trouble(&error),
        };
        match self.canaries.discard(ca, certificate.issuer, &certificate.serial).await {
            Ok(()) | Err(CanaryError::Unknown { .. }) => CrlEvent::CanaryGone { name: name.to_owned() },
            Err(error) => trouble(&error),
        }
    }

    /// Only what `crls` revokes leaves this host.
    pub(crate) fn keys(&self, certificate: &Revoked, crls: &Crls) -> Result<RevokedKeys, CanaryError> {
        self.canaries.keys(certificate.issuer, &certificate.serial, crls)
    }
}

fn trouble(error: &(dyn std::error::Error + 'static)) -> CrlEvent {
    CrlEvent::CanaryTrouble { reason: Chain(error).to_string() }
}
