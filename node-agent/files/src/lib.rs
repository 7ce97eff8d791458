//! Files of other programs that this agent keeps: CRLs, certificates, keys.
//!
//! Each is replaced by a rename, so that it is whole at every moment, with its owner and mode before anybody sees it.
//! Nothing is ever read or written through a link that another user of this host could have laid.

mod directory;
mod place;
mod read;
mod reload;

pub use place::{FileError, Found, Place};
pub use read::read;
pub use reload::{Reload, Reloads};
