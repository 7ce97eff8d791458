//! Load balancers as a node agent drives them.
//!
//! `driver` says what a balancer can be asked (implemented by `haproxy`, `nginx` and `hook`); above it one `keeper`
//! remembers what is wanted of each compiler, holds the floor, and tells the balancer again what it forgot. Called by the
//! node agent's service. Never touches a server that its configuration maps to no compiler.

mod command;
mod config;
mod driver;
mod file;
mod haproxy;
mod hook;
mod keeper;
mod name;
mod nginx;

pub use config::{BalancerConfig, DriverKind, HaproxyConfig, HookConfig, Misconfigured, NginxConfig};
pub use driver::{Admin, Driver, Health, NewServer, Observed, Server, Trouble, Wanted};
pub use haproxy::Haproxy;
pub use hook::Hook;
pub use keeper::{
    Asked, BackendStatus, BalanceError, BelowFloor, Keeper, KeeperError, ServerStatus, Status, Wish,
    WishesError,
};
pub use name::{BadServer, ServerName};
pub use nginx::Nginx;

use std::sync::Arc;

/// The balancer that the configuration names. Nothing is asked or told yet.
pub fn driver(config: &BalancerConfig) -> Result<Arc<dyn Driver>, Misconfigured> {
    config.check()?;
    match config.driver {
        DriverKind::Haproxy => Ok(Arc::new(Haproxy::new(&config.haproxy))),
        DriverKind::Nginx => Ok(Arc::new(Nginx::new(config))),
        DriverKind::Hook => Ok(Arc::new(Hook::new(config))),
    }
}
