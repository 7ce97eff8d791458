//! The wire between controller, node agents and operators: the messages (`v1`), and the mTLS endpoints on both ends.
//!
//! Facts about the reversed connection (the node dials, the controller calls) stand in ARCHITECTURE.md.

pub mod accept;
mod addresses;
pub mod alpn;
pub mod backoff;
mod call;
pub mod channel;
pub mod cut;
mod deadline;
pub mod dial;
pub mod identity;
pub mod link;
pub mod peer;
pub mod serve;
mod stream;
mod term;
pub mod tls;

pub use alpn::Door;
pub use call::CallFailed;
pub use peer::{FleetName, Peer, PeerIdentity};

#[allow(missing_debug_implementations, unreachable_pub, clippy::wildcard_enum_match_arm)]
pub mod v1 {
    //! Generated from `proto/bunraku/v1/*.proto`.
    tonic::include_proto!("bunraku.v1");
}

/// The encoded `FileDescriptorSet` of all `.proto` files, for tests that must see every RPC.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The protocol number that this build speaks. The controller also serves the two before it.
pub const PROTOCOL: u32 = 1;
