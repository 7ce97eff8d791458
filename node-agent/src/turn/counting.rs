//! What [`super::health`] goes on counting from.

use bunraku_puppetserver::access_log::AccessLog;

/// Counts that go on as long as this process.
#[derive(Debug)]
pub(super) struct Counting {
    pub(super) log: AccessLog,
    /// Of Puppet Server's own count at the last look, which begins anew when it starts.
    pub(super) pool: u64,
    pub(super) borrow_timeouts: u64,
    pub(super) epoch: u64,
}
