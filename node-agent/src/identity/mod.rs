//! How this node gets its mesh identity, with its existing Puppet certificate or with a one-time token, and where it
//! keeps it. Keys, files, checks and renewal are the same for operators and stand in `bunraku_proto::identity`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bunraku_common::{Digest, NodeName, Role};
use bunraku_proto::{
    Peer,
    identity::{self, EnrollError, Identity},
    tls::{Credentials, PuppetAuthorities},
};
use zeroize::Zeroizing;

/// The node's own Puppet files (`puppet config print hostcert hostprivkey localcacert hostcrl`).
#[derive(Debug, Clone)]
pub struct PuppetFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
    pub crl: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not join the controller at {address}")]
    Enroll {
        address: String,
        #[source]
        source: Box<EnrollError>,
    },
}

/// Joins with a one-time token; the controller must show the CA with this pin before the token is sent.
pub async fn enroll_with_token(
    address: &str,
    pin: Digest,
    token: &Zeroizing<String>,
    name: &NodeName,
) -> Result<Identity, JoinError> {
    identity::with_token(address, pin, token, &Peer::Node(name.clone()))
        .await
        .map_err(|source| JoinError::Enroll { address: address.into(), source: Box::new(source) })
}

/// Joins with this node's Puppet certificate. `main` is the certname of the main Puppet server, never the alias that
/// compilers share; `name` is this node's certname; without `roles` the allow-list decides.
pub async fn enroll_with_puppet_certificate(
    address: &str,
    files: &PuppetFiles,
    main: &str,
    name: &NodeName,
    roles: &[Role],
) -> Result<Identity, JoinError> {
    let failed = |source| JoinError::Enroll { address: address.into(), source: Box::new(source) };
    let own = Credentials::from_pem(
        "this node's Puppet certificate",
        &read(&files.certificate)?,
        &read(&files.key)?,
    )
    .map_err(|source| failed(source.into()))?;
    let puppet = PuppetAuthorities::from_pem(&read(&files.ca)?, &read(&files.crl)?)
        .map_err(|source| failed(source.into()))?;
    identity::with_puppet_certificate(address, &own, &puppet, main, &Peer::Node(name.clone()), roles)
        .await
        .map_err(failed)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, JoinError> {
    fs::read(path).map(Zeroizing::new).map_err(|source| JoinError::Read { path: path.into(), source })
}
