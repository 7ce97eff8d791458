//! Who may join, and as whom: the mesh CA, one-time tokens, and the door for holders of a Puppet certificate.
//!
//! Used by the enrolment service and the driver. Nothing here decides whether a token is still good or a name is
//! barred: that is journalled state, and the engine's. Puppet's CA key is never read.

mod authorities;
mod ca;
#[cfg(test)]
mod life_test;
mod puppet;
mod request;
mod tokens;

pub(crate) use authorities::Authorities;
pub(crate) use ca::{CONTROLLER_RENEWAL, CaError, Issued, MeshCa};
pub(crate) use puppet::{AllowList, PuppetCertificate, PuppetDoor, PuppetFiles, PuppetTrust, Stamp};
pub(crate) use tokens::{NewToken, token_digest};
