//! Users and groups of this host, by their names.

use bunraku_common::Chain;
use bunraku_puppetserver::Account;

/// The user that Puppet Server runs as, where this agent may become it.
pub(crate) fn puppet_account(name: &str) -> Result<Option<Account>, String> {
    if !rustix::process::getuid().is_root() {
        return Ok(None);
    }
    Account::find(name).map(Some).map_err(|error| Chain(&error).to_string())
}

pub(crate) fn group_id(name: &str) -> Option<u32> {
    id("group", name)
}

pub(crate) fn user_id(name: &str) -> Option<u32> {
    id("passwd", name)
}

fn id(database: &str, name: &str) -> Option<u32> {
    let asked = std::process::Command::new("getent").args([database, "--", name]).output().ok()?;
    String::from_utf8(asked.stdout).ok()?.split(':').nth(2)?.parse().ok()
}
