//! All that a node agent knows about the Puppet Server beside it: its settings and files, its HTTPS door, the two
//! helpers it runs for static catalogs, and what a doctor looks at.
//!
//! The node agent calls it. It never starts, reloads or restarts Puppet Server, and it writes only where the agent
//! asked for it: a staged version's `.resource_types`, a lock file, and (doctor --fix) configuration with a copy kept.

pub mod access_log;
pub mod account;
pub mod canary;
mod catalog;
pub mod code_content;
pub mod code_id;
pub mod command;
pub mod doctor;
mod identity;
pub mod lock;
pub mod places;
pub mod pool;
mod request;
pub mod server;
pub mod settings;
mod shown;
pub mod types;

pub use account::Account;
pub use bunraku_common::snapshot::ruby as changes;
pub use canary::{Canary, NotRefused};
pub use lock::SwapLock;
pub use places::Places;
pub use pool::Pool;
pub use server::{PuppetServer, ServerError};
pub use settings::{Puppet, Settings, SettingsError};
pub use shown::{NotShown, Shown, shown};
