//! What the engine decides, one sentence a test.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "the whole program is a test")]

mod authority;
mod crl;
mod deploys;
mod desk;
mod fleet;
mod holding;
mod retained;
mod takeover;
