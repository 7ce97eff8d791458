//! What the engine decides, one sentence a test.

mod deploys;
mod desk;
mod fleet;
mod holding;
mod takeover;
