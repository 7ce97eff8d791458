//! The node agent: dials the controller and serves its orders; and the helpers that Puppet Server calls.
//!
//! `connect` keeps the connection, `service` answers orders (one short function per RPC), `stage` and `commit` are the
//! two halves of a deploy on this node, `turn` is its part in a rollout, `setup` makes a host a compiler, `crl` keeps
//! Puppet's CRLs, `certificate` this host's Puppet certificate and what is copied from it, `background` does what nobody
//! waits for, `memory` is what must not be forgotten. `node` holds what each of them keeps (their files `kept`), and they
//! work on a `Node`. What may happen on this host is for `config` to say.

mod accounts;
mod agent;
mod background;
mod balancer;
mod certificate;
mod changes;
pub mod cli;
mod commit;
mod config;
mod connect;
mod content;
mod crl;
mod doctor;
mod error;
mod files;
mod heal;
mod helpers;
pub mod identity;
mod memory;
mod node;
mod reload;
mod service;
mod setup;
mod stage;
#[cfg(test)]
mod testing;
mod turn;
mod types;
mod watchdog;

pub use agent::Agent;
pub use bunraku_balancer::BalancerConfig;
pub use bunraku_services::service::Grant;
pub use certificate::config::{BundleConfig, CertificatesConfig};
pub use config::{CodeConfig, Config, EnrollConfig, PuppetConfig, RolloutConfig};
pub use crl::config::{CrlConfig, CrlFile};
pub use error::AgentError;
pub use files::Mode;

/// Random bits from the kernel, for jitter and names.
fn random() -> u64 {
    getrandom::u64().expect("the kernel gives random numbers")
}
