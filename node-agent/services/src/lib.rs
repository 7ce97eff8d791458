//! The services and commands of this host, and Puppet's own agent on it: what a rollout does to a node.
//!
//! [`service`] is one service with its two drivers (systemd, plain processes), [`order`] runs a command exactly once
//! and keeps its result, [`puppetserver`] and [`puppet_agent`] know the two Puppet programs. The node agent calls it.
//! It decides nothing, speaks to no controller, and touches only what the node's own configuration names.

pub mod order;
pub mod process;
pub mod puppet_agent;
pub mod puppetserver;
pub mod service;
mod systemd;

pub use order::{OrderId, Orders, Outcome};
pub use service::{Acted, Mark, Service, ServiceError, Services, State, Status, UnitName, Verb};
pub use systemd::BusError;
