//! The stock of canaries, and Puppet's CA that signs and revokes them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use bunraku_certificates::{Certificate, Crls, Revoked};
use bunraku_common::{Chain, NodeName};
use bunraku_engine::{CrlEvent, Revocations};
use bunraku_puppet_ca::{
    Canaries, Canary, CanaryError, Deadlines, PuppetCa, PuppetCaConfig, RevokedKeys, State as CaState,
};

use crate::config::PuppetConfig;

/// Half a year: a node that was away for longer is proven with a fresh one.
const LIFE: Duration = Duration::from_secs(180 * 86_400);
const PORT: u16 = 8140;
/// Of Debian's packages and of Puppet's.
const CONF_D: [&str; 2] = ["/etc/puppet/puppetserver/conf.d", "/etc/puppetlabs/puppetserver/conf.d"];

#[derive(Debug)]
pub(crate) struct Stock {
    config: PuppetConfig,
    /// Known as soon as the main server's certificate can be read.
    ca: OnceLock<PuppetCa>,
    canaries: Canaries,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum StockError {
    #[error("could not read the main server's certificate {path}")]
    Certificate {
        path: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(transparent)]
    Canary(#[from] CanaryError),
}

impl Stock {
    pub(crate) fn open(config: &PuppetConfig, data_dir: &Path) -> Result<Self, StockError> {
        let canaries = Canaries::open(&data_dir.join("canaries"))?;
        Ok(Self { config: config.clone(), ca: OnceLock::new(), canaries })
    }

    fn ca(&self) -> Result<&PuppetCa, StockError> {
        if let Some(ca) = self.ca.get() {
            return Ok(ca);
        }
        let ca = PuppetCa::new(ca_config(&self.config)?);
        Ok(self.ca.get_or_init(|| ca))
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
        let ca = self.ca()?;
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

    /// What the CA then writes is seen in its file.
    pub(crate) async fn revoke(&self, name: &str) -> CrlEvent {
        let Ok(name) = NodeName::parse(name) else { return CrlEvent::CanaryGone { name: name.to_owned() } };
        let revoked = match self.ca() {
            Ok(ca) => ca.revoke(&name).await,
            Err(error) => return trouble(&error),
        };
        match revoked {
            Ok(()) => CrlEvent::CanaryTrouble { reason: String::new() },
            Err(error) => trouble(&error),
        }
    }

    pub(crate) async fn forget(&self, name: &str, certificate: &Revoked) -> CrlEvent {
        let ca = match self.ca() {
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

fn ca_config(config: &PuppetConfig) -> Result<PuppetCaConfig, StockError> {
    let name = certname(&config.certificate).map_err(|source| StockError::Certificate {
        path: config.certificate.display().to_string(),
        source,
    })?;
    let [debian, upstream] = CONF_D.map(PathBuf::from);
    let known = if debian.is_dir() { debian } else { upstream };
    let conf_d = config.conf_d.clone().unwrap_or(known);
    Ok(PuppetCaConfig {
        address: config.server.clone().unwrap_or_else(|| format!("{name}:{PORT}")),
        name,
        certificate: config.certificate.clone(),
        key: config.key.clone(),
        ca: config.ca.clone(),
        crl: config.crl.clone(),
        ca_conf: conf_d.join("ca.conf"),
        deadlines: Deadlines::default(),
    })
}

fn certname(path: &Path) -> Result<NodeName, Box<dyn std::error::Error + Send + Sync>> {
    let certificate = Certificate::parse(&fs::read(path)?)?;
    let name = certificate.common_name().ok_or("it names nobody")?;
    Ok(NodeName::parse(name)?)
}
