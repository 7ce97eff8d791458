//! The client of Puppet's CA API on the main server, and the canaries that prove revocations.
//!
//! The controller calls it, with the main server's own Puppet certificate: `puppetserver ca setup` gives that one the
//! extension `pp_cli_auth`, by which Puppet Server's auth.conf knows who may sign and revoke. Puppet's CA key is never
//! read, and nothing is written below Puppet's directories.
//!
//! What the API does is taken from Puppet Server 7.9.5 (`certificate_authority_core.clj`, `certificate_authority.clj`)
//! and measured on it; where other versions are known to differ, the functions say so.

mod ca;
mod ca_conf;
mod call;
mod canaries;
mod dates;
mod door;
mod error;
mod expirations;
mod identity;
#[cfg(test)]
mod stand_in;
mod status;

pub use ca::{Deadlines, Issued, PuppetCa, PuppetCaConfig};
pub use ca_conf::ConfError;
pub use canaries::{Canaries, Canary, CanaryError, PREFIX, RevokedKeys};
pub use error::{CaError, Why};
pub use expirations::Expirations;
pub use identity::IdentityError;
pub use status::{CertificateStatus, State};
