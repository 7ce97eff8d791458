//! Keeps files of Puppet's CRLs on this host: always complete, genuine, and never older than before (I11).
//!
//! The node agent calls it with what the controller sent, and whenever a file may have changed: others write these
//! files, too, first of all the host's own Puppet agent. It has no clock, no socket and no wire, touches only the files
//! it was given and its own directory, and never writes through a link.

mod copy;
mod judge;
mod keeper;
mod place;

pub use bunraku_files::{FileError, Reload};
pub use copy::CopyError;
pub use judge::{Refused, authorities};
pub use keeper::{InstallError, Keeper, Offer, Seen};
pub use place::Place;
