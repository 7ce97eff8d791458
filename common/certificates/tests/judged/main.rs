//! Files as Puppet, OpenSSL and rcgen make them, and what becomes of them when somebody meddles.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bundles;
mod certificates;
mod crls;
mod meddling;
mod requests;
mod revoked;
mod world;
