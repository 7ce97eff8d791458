//! This compiler's Puppet certificate between the wire and the disk, what is copied from it for other programs, and every
//! certificate of this host that matters.

mod bundles;
pub(crate) mod config;
pub(crate) mod copies;
mod grants;
mod host;
pub(crate) mod kept;
mod list;
mod on_disk;
mod orders;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    bundles::{keep, reload},
    host::seen,
    list::list,
    on_disk::{files, on_kept},
    orders::{SUBJECT, request, stage},
};
