//! What the engine decides about load balancers and rollouts.

#![expect(clippy::unwrap_used, reason = "the whole program is a test")]

mod balance;
mod balancer;
mod site;
