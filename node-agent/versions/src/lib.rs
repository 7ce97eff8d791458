//! Whole versions of environments on a node's disk: staged beside what is served, sealed when complete and on disk,
//! swapped in by one rename.
//!
//! The node agent calls this on blocking threads. It never talks to a network (packs come from a [`PackSource`]),
//! never flushes Puppet Server, and never writes below the path that Puppet Server reads except by rename.
//!
//! ```text
//! root/versions/<env>/<env>_<digest>/      a whole tree; counts only together with its seal
//! root/versions/<env>/<env>_<digest>.seal  written last
//! root/spare/<env>, <env>.seal             a tree that the next stage changes and takes; <env>.dirty: being changed
//! root/trees/                              encoded directories of the versions here, verified whenever read
//! root/incoming/                           files received and verified, not yet in a version
//! root/tmp/, root/trash/, root/adopted/    names for rename; what is to be deleted; directories found at adoption
//! environments_dir/<env>                   absolute link to a version
//! ```

mod adopt;
mod ages;
mod apply;
mod below;
mod collect;
mod error;
mod fail_point;
mod fetch;
mod guard;
mod heal;
mod layout;
mod live;
mod plan;
mod resource_types;
mod retain;
mod retained;
mod room;
mod scrub;
mod seal;
mod spare;
mod stage;
#[doc(hidden)]
pub mod testing;
mod versions;

pub use adopt::ForeignFile;
pub use error::{Fault, StageError, VersionsError};
pub use fetch::PackSource;
pub use heal::Healed;
pub use layout::{Layout, RESOURCE_TYPES};
pub use live::{Replaced, Swapped};
pub use retain::Policy;
pub use retained::Retained;
pub use scrub::{Budget, Drift, Scrubbed, What};
pub use spare::Prepared;
pub use stage::Staged;
pub use versions::{EnvironmentState, Versions};
