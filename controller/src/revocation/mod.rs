//! Puppet's CRLs on the controller: the CA's own file is watched, what it holds is judged and kept, and handed out by the
//! driver. Puppet's CA key is never read, and its file never written.

mod files;
mod report;
mod stock;
mod watch;

pub(crate) use self::{
    files::CrlFiles,
    stock::{Stock, StockError},
    watch::CrlWatch,
};
