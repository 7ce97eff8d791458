//! Puppet's CRLs on this node: the files that its configuration grants, between the wire, the disk and Puppet Server.

pub(crate) mod config;
mod debts;
mod grants;
pub(crate) mod kept;
mod on_disk;
mod orders;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use self::{
    debts::reload,
    orders::{SUBJECT, install, no_crl, prove},
    watch::watch,
};
