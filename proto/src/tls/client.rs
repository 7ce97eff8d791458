//! The side that dials: nodes and operators.

use std::{fmt, sync::Arc};

use bunraku_common::Digest;
use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::ServerName,
};

use super::{
    Credentials, Mesh, PuppetAuthorities, TlsError, provider,
    verify::{Holder, NamedServer, PinnedServer},
};
use crate::alpn::Door;

/// A way to dial: the configuration, the name to insist on, and the door. Kept together so that none is forgotten.
#[derive(Clone)]
pub struct ClientTls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    pub(crate) door: Door,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientTls({} at {})", self.door, self.name.to_str())
    }
}

/// With a mesh identity, to the doors [`Door::Node`] and [`Door::H2`]. The server must be this fleet's controller, by
/// the mesh CA; another node's certificate does not do.
pub fn mesh_client(mesh: &Mesh, door: Door) -> Result<ClientTls, TlsError> {
    let server = named(mesh.roots()?, None, "the mesh CA", Holder::Controller(mesh.fleet.clone()))?;
    client(door, server, Some(&mesh.own), &mesh.fleet.controller(), "the own mesh identity")
}

/// Before any identity: only the CA's pin is known. The handshake fails, and nothing of the caller's was sent, unless
/// the server shows a CA with this pin and a controller's certificate signed by it.
pub fn pinned_client(pin: Digest) -> Result<ClientTls, TlsError> {
    let server: Arc<dyn ServerCertVerifier> = Arc::new(PinnedServer::new(pin));
    // The fleet's name is not known yet; the name is not sent (no SNI), and the pin is the check.
    client(Door::Enroll, server, None, "controller.bunraku", "the pinned controller")
}

/// With the node's Puppet certificate, to the main Puppet server. `main` is its *certname*: the alias that all
/// compilers carry in their certificates would let any compiler pose as the main server.
pub fn puppet_client(
    own: &Credentials,
    puppet: &PuppetAuthorities,
    main: &str,
) -> Result<ClientTls, TlsError> {
    let server =
        named(puppet.roots()?, Some(puppet), "Puppet's CA and CRLs", Holder::CommonName(main.into()))?;
    client(Door::EnrollPuppet, server, Some(own), main, "the node's Puppet certificate")
}

fn named(
    roots: Arc<RootCertStore>,
    puppet: Option<&PuppetAuthorities>,
    what: &'static str,
    holder: Holder,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let mut builder = WebPkiServerVerifier::builder_with_provider(roots, provider());
    if let Some(puppet) = puppet {
        builder = builder.with_crls(puppet.crls.iter().cloned()).enforce_revocation_expiration();
    }
    let inner = builder.build().map_err(|source| TlsError::Verifier { what, source })?;
    Ok(Arc::new(NamedServer { inner, holder }))
}

fn client(
    door: Door,
    server: Arc<dyn ServerCertVerifier>,
    own: Option<&Credentials>,
    name: &str,
    what: &'static str,
) -> Result<ClientTls, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| TlsError::Unusable { what, source })?
        .dangerous()
        .with_custom_certificate_verifier(server);
    let mut config = match own.cloned() {
        Some(own) => builder
            .with_client_auth_cert(own.chain, own.key)
            .map_err(|source| TlsError::Unusable { what, source })?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![door.alpn().into()];
    config.resumption = Resumption::disabled();
    // One certificate per door: the name would only tell an eavesdropper which fleet this is.
    config.enable_sni = false;
    let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name { name: name.to_owned() })?;
    Ok(ClientTls { config: Arc::new(config), name, door })
}
