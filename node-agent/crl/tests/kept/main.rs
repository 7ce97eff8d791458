//! Files of CRLs, and everybody who writes them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod crashes;
mod disk;
mod given;
mod meddled;
mod world;
