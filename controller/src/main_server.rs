//! What is installed on the controller's own host: the main Puppet server.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

/// Puppet wants the main server to be the first that gets a new version: a newer compiler talks to an older CA.
const PUPPETS: [&str; 6] =
    ["puppetserver", "openvox-server", "puppet-agent", "openvox-agent", "puppet", "puppet-common"];

/// dpkg reads one file.
const DEADLINE: Duration = Duration::from_secs(10);

/// The version of one of Puppet's packages on this host, where it is older than `version`. None also where dpkg does not
/// know it: a host of another distribution, or another name of the package.
pub(crate) async fn older(package: &str, version: &str) -> Option<String> {
    if !PUPPETS.contains(&package) {
        return None;
    }
    let asked = dpkg("dpkg-query", &["-W", "-f", "${db:Status-Status} ${Version}", "--", package]).await?;
    let installed = asked.strip_prefix("installed ")?.to_owned();
    dpkg("dpkg", &["--compare-versions", &installed, "lt", version]).await?;
    Some(installed)
}

/// What it printed, when it succeeded.
async fn dpkg(program: &str, words: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(words).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
