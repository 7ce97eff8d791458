//! systemd over D-Bus: a job's result is waited for, not guessed from text.
//!
//! Every operation opens a connection of its own, so that a restart of the bus leaves nothing stale behind.

mod bus;
mod unit;

pub use bus::BusError;
pub(crate) use bus::{Bus, Properties, Property};
pub(crate) use unit::SystemdUnit;
