//! The words that controller and node agent share: names and digests, snapshots, limits, configuration files,
//! telemetry, and how an error is printed.
//!
//! Nothing here talks to a network, and only `objects`, `config`, `changes` and `whole` know files.

pub mod alone;
pub mod chain;
pub mod changes;
pub mod config;
pub mod crash;
pub mod descriptors;
pub mod digest;
pub mod fence;
pub mod hint;
pub mod limits;
pub mod names;
pub mod objects;
pub mod snapshot;
pub mod telemetry;
pub mod whole;

pub use alone::Alone;
pub use chain::Chain;
pub use changes::Changes;
pub use digest::Digest;
pub use fence::{Fence, Generation, Term};
pub use names::{EnvironmentName, Label, NodeName, OperatorName, Role};
