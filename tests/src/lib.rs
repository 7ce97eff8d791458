//! What the tests, the demo and the benchmark share: a real Puppet stack on one machine, in private namespaces.
//!
//! [`namespace::run`] puts a program into its own world, [`stack::Stack::up`] builds the stack there, and
//! [`suite::run`] runs named tests against it. Nothing outside `target/bunraku` is changed.

pub mod bench;
pub mod fleet;
pub mod http;
pub mod installed;
pub mod load;
pub mod machine;
pub mod namespace;
pub mod own_apt;
pub mod packages;
pub mod process;
pub mod progress;
pub mod running;
pub mod stack;
pub mod suite;
pub mod visitor;
pub mod watch;
