//! Puppet's CA on the main server: what its client needs, and its own command.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use bunraku_certificates::Crls;
use bunraku_common::NodeName;
use bunraku_puppet_ca::{Deadlines, PuppetCa, PuppetCaConfig};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};

use super::{CA_NAME, MAIN_ADDRESS, PuppetServer};
use crate::{process::output_of, visitor::Visitor};

impl PuppetServer {
    /// As the controller asks the CA: with this server's own certificate, which only the main server's may.
    pub fn ca_config(&self) -> PuppetCaConfig {
        let own = |kind: &str| self.ssldir().join(kind).join(format!("{}.pem", self.certname()));
        PuppetCaConfig {
            address: format!("{MAIN_ADDRESS}:8140"),
            name: NodeName::parse(CA_NAME).expect("it is a certname"),
            certificate: own("certs"),
            key: own("private_keys"),
            ca: self.cadir().join("ca_crt.pem"),
            crl: self.crl_file(),
            ca_conf: self.conf_d().join("ca.conf"),
            deadlines: Deadlines::default(),
        }
    }

    /// `cacrl`: where the CA writes what it revokes.
    pub fn crl_file(&self) -> PathBuf {
        self.cadir().join("ca_crl.pem")
    }

    /// Number of the CA's CRL, how many it revokes, and when it was written.
    pub fn crl(&self) -> Result<(u64, usize, SystemTime)> {
        let path = self.crl_file();
        let written = fs::metadata(&path)?.modified()?;
        let crls = Crls::parse(&fs::read(&path)?)?;
        let own = crls.iter().max_by_key(|crl| crl.revoked().len()).context("a file without a CRL")?;
        Ok((own.number().to_string().parse()?, own.revoked().len(), written))
    }

    /// `puppetserver ca revoke`.
    pub fn revoke(&self, certname: &str) -> Result<()> {
        let mut revoke = Command::new("puppetserver");
        revoke.args(["ca", "revoke", "--certname", certname, "--config"]).arg(self.puppet_conf());
        output_of(&mut revoke).context("Puppet's CA does not revoke").map(drop)
    }

    /// Has the CA sign a key that is made here; as an agent's, in a fraction of the time.
    pub async fn sign_visitor(&self, name: &NodeName) -> Result<Visitor> {
        let ca = PuppetCa::new(self.ca_config());
        let key = KeyPair::generate()?;
        ca.submit(name, &request(name, &[], None, &key)?).await?;
        ca.sign(name, Some(Duration::from_secs(86_400))).await?;
        let issued = ca.certificate(name).await?.with_context(|| format!("no certificate for {name}"))?;
        let authorities = fs::read(self.ca_config().ca)?;
        Visitor::new(&authorities, issued.pem.as_bytes(), key.serialize_pem().as_bytes())
    }
}

/// A request (PEM). An extension is the UTF8String `true`.
pub fn request(
    name: &NodeName,
    alt_names: &[&str],
    extension: Option<&str>,
    key: &KeyPair,
) -> Result<String> {
    let names: Vec<String> = alt_names.iter().map(|&it| it.to_owned()).collect();
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name.as_str());
    if let Some(oid) = extension {
        let oid: Vec<u64> = oid.split('.').map(str::parse).collect::<Result<_, _>>()?;
        let value = b"\x0c\x04true".to_vec();
        parameters.custom_extensions.push(CustomExtension::from_oid_content(&oid, value));
    }
    Ok(parameters.serialize_request(key)?.pem()?)
}
