//! This host's Puppet certificate: asked for, judged, put in the place of the one before and back, and copied to where
//! other programs want it.
//!
//! The node agent calls it with what the controller orders. It has no clock, no socket and no wire, and touches only its
//! own directory and the files that it is given. A key is made here and stays here: it is in no message and no log.

mod bundle;
mod judge;
mod kept;
mod names;
mod pair;
mod place;
mod request;

pub use bundle::{Bundle, Bundles, Sources, What};
pub use judge::World;
pub use kept::{Kept, KeptError};
pub use names::alt_names;
pub use pair::{Pair, PairError};
pub use place::{Fallback, Files, PlaceError, Served};
pub use request::{Order, Refused};
