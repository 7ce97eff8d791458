//! From a git branch to a snapshot: the controller's builder.
//!
//! The controller calls [`Builder::branches`] to learn which environments there are, and [`Builder::build`] to have
//! one built by r10k or g10k and taken into the [`ObjectStore`]. Programs run as an unprivileged user in a private
//! root that Puppet Server never reads. Nothing here deploys, decides, or writes outside that root and the store.
//!
//! `git` mirrors the control repository, `tool` knows the two builders, `run` starts programs, `snapshot` takes a
//! built tree into the store, `store` keeps and sweeps objects, `summary` tells what changed between two snapshots.

mod account;
mod branches;
mod builder;
mod config;
mod credentials;
mod error;
mod git;
mod kind;
mod manifest;
mod output;
mod place;
mod remotes;
mod run;
mod seed;
mod snapshot;
mod store;
mod summary;
mod tool;

pub use account::AccountError;
pub use branches::{Branch, Branches, RefusedBranch, environment_of};
pub use builder::{Builder, Built};
pub use config::BuildConfig;
pub use error::BuildError;
pub use kind::Kind;
pub use manifest::{Module, modules};
pub use snapshot::{BadPattern, Exclude, Offence, Snapshot, SnapshotError, take};
pub use store::{ObjectStore, Pin, Swept};
pub use summary::{Summary, summarize};
