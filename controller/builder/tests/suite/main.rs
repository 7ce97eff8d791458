//! The builder with real programs: git, r10k and g10k, as an unprivileged user. Needs root.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod builds;
mod hardening;
mod runs;
mod secrets;
mod snapshots;
mod world;
