//! A host's Puppet certificate from the request to its place, and what is copied from it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bundles;
mod crashes;
mod placed;
mod requested;
mod staged;
mod world;
