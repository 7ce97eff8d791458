//! What every HTTPS client of a Puppet Server needs, the controller's and the node agent's: who is at fault when there is
//! no answer, and TLS settings that follow the files that Puppet keeps them in.

mod fault;
mod kept;

pub use fault::{Fault, excerpt};
pub use kept::Kept;
