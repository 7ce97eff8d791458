//! What the engine decides about load balancers and rollouts.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "the whole program is a test")]

mod balance;
mod balancer;
mod certificate;
mod compiler;
mod crl;
mod follow;
mod ghost;
mod histories;
mod kept_out;
mod regressions;
mod renewal;
mod rollouts;
mod site;
mod verdict;
mod waves;
mod world;
