//! The controller: the daemon (`bunraku serve`) and every operator command.
//!
//! `serve` wires everything; `driver` is the one loop over the pure engine; `api` answers calls; `nodes` are the live
//! connections; `balancers` what the load balancers show; `turns` what compilers say during a rollout; `identity` holds the
//! mesh CA and the ways to join; `report` shows the state to people.

mod api;
mod audit;
mod balancers;
mod certificates;
pub mod cli;
mod clock;
pub mod config;
mod driver;
mod identities;
mod identity;
mod main_server;
mod nodes;
mod provenance;
mod report;
mod revocation;
mod serve;
mod turns;
mod watchdog;
mod words;

pub use serve::{Controller, ServeError};
