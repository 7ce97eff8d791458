//! The controller's side: one configuration per door.

use std::{sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    server::{NoClientAuth, NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{
    Credentials, Mesh, PuppetAuthorities, TlsError, provider,
    verify::{MeshPeers, Standing},
};
use crate::alpn::Door;

/// Nodes, to be called. An expired certificate is refused: it must be renewed at the door `h2` first.
pub fn node_door(mesh: &Mesh, standing: Standing) -> Result<Arc<ServerConfig>, TlsError> {
    let peers = MeshPeers::new(mesh.roots()?, mesh.fleet.clone(), standing)?.nodes_only();
    config(Door::Node, Arc::new(peers), &mesh.own, "the controller's identity")
}

/// Nodes and operators, to call. A node whose certificate expired at most `grace` ago is let in; whoever serves the
/// call must look at [`PeerIdentity::expired`](crate::peer::PeerIdentity::expired) and allow it `Renew` only.
pub fn h2_door(mesh: &Mesh, standing: Standing, grace: Duration) -> Result<Arc<ServerConfig>, TlsError> {
    let peers = MeshPeers::new(mesh.roots()?, mesh.fleet.clone(), standing)?.expired_nodes_for(grace);
    config(Door::H2, Arc::new(peers), &mesh.own, "the controller's identity")
}

/// Nobody yet. The CAs travel in the chain, so that the caller can compare them with its pin.
pub fn enroll_door(mesh: &Mesh) -> Result<Arc<ServerConfig>, TlsError> {
    let mut own = mesh.own.clone();
    own.chain.extend(mesh.anchors.iter().cloned());
    config(Door::Enroll, Arc::new(NoClientAuth), &own, "the controller's identity")
}

/// Holders of a Puppet certificate that Puppet's CA and CRLs accept; an expired CRL accepts nobody. `own` is the main
/// server's own Puppet certificate.
pub fn puppet_door(own: &Credentials, puppet: &PuppetAuthorities) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(puppet.roots()?, provider())
        .with_crls(puppet.crls.iter().cloned())
        .enforce_revocation_expiration()
        .build()
        .map_err(|source| TlsError::Verifier { what: "Puppet's CA bundle and CRLs", source })?;
    config(Door::EnrollPuppet, verifier, own, "the main server's Puppet certificate")
}

fn config(
    door: Door,
    verifier: Arc<dyn ClientCertVerifier>,
    own: &Credentials,
    what: &'static str,
) -> Result<Arc<ServerConfig>, TlsError> {
    let own = own.clone();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| TlsError::Unusable { what, source })?
        .with_client_cert_verifier(verifier)
        .with_single_cert(own.chain, own.key)
        .map_err(|source| TlsError::Unusable { what, source })?;
    config.alpn_protocols = vec![door.alpn().into()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
