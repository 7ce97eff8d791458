//! Packages of this host at an exact version, with a way back.
//!
//! [`Packages::prepare`] changes nothing: it simulates the transaction, refuses what this node's configuration does not
//! allow, and fetches the wanted and the present packages of everything that would change. The [`Plan`] is on disk
//! before it is answered. The transaction itself is a command for the caller to run once ([`Plan::act`]), and
//! [`Plan::revert`] is the command back; both need neither network nor repository.
//!
//! What differs between apt and dnf stands behind [`Manager`]: it builds commands and reads what they print.

mod apt;
mod call;
mod dnf;
mod manager;
mod plan;
mod prepare;

pub use apt::Apt;
pub use call::{CallError, Called};
pub use dnf::Dnf;
pub use manager::{Change, Manager, Refusal, Simulated, of_this_host};
pub use plan::{Plan, PlanError, Planned};
pub use prepare::{Allowed, Foreseen, Packages, PrepareError, Target};
