//! Puppet's CA on the main server, as the configuration names it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use bunraku_certificates::Certificate;
use bunraku_common::NodeName;
use bunraku_puppet_ca::{Deadlines, PuppetCa, PuppetCaConfig};

use crate::config::PuppetConfig;

const PORT: u16 = 8140;
/// Of Debian's packages and of Puppet's.
const CONF_D: [&str; 2] = ["/etc/puppet/puppetserver/conf.d", "/etc/puppetlabs/puppetserver/conf.d"];

/// Known as soon as the main server's certificate can be read: it says whom to ask.
#[derive(Debug)]
pub(crate) struct MainCa {
    config: Option<PuppetConfig>,
    ca: OnceLock<PuppetCa>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MainCaError {
    #[error(
        "the controller's configuration has no [puppet] section\nhint: bunraku init asks Puppet where its files are"
    )]
    NotConfigured,
    #[error("could not read Puppet's CA bundle {}", path.display())]
    Bundle {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not read the main server's certificate {}", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl MainCa {
    pub(crate) fn new(config: Option<PuppetConfig>) -> Self {
        Self { config, ca: OnceLock::new() }
    }

    pub(crate) fn config(&self) -> Option<&PuppetConfig> {
        self.config.as_ref()
    }

    /// The certname of the main server.
    pub(crate) fn server(&self) -> Result<NodeName, MainCaError> {
        let path = &self.config.as_ref().ok_or(MainCaError::NotConfigured)?.certificate;
        certname(path).map_err(|source| MainCaError::Certificate { path: path.clone(), source })
    }

    /// Puppet's CA bundle (PEM).
    pub(crate) fn bundle(&self) -> Result<Vec<u8>, MainCaError> {
        let path = &self.config.as_ref().ok_or(MainCaError::NotConfigured)?.ca;
        fs::read(path).map_err(|source| MainCaError::Bundle { path: path.clone(), source })
    }

    pub(crate) fn get(&self) -> Result<&PuppetCa, MainCaError> {
        if let Some(ca) = self.ca.get() {
            return Ok(ca);
        }
        let config = self.config.as_ref().ok_or(MainCaError::NotConfigured)?;
        let ca = PuppetCa::new(ca_config(config)?);
        Ok(self.ca.get_or_init(|| ca))
    }
}

fn ca_config(config: &PuppetConfig) -> Result<PuppetCaConfig, MainCaError> {
    let path = &config.certificate;
    let name = certname(path).map_err(|source| MainCaError::Certificate { path: path.clone(), source })?;
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
