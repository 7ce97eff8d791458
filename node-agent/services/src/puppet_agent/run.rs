//! A run of Puppet's agent that is going on, seen by its lock, and the words with which a rollout starts one.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use bunraku_puppetserver::Puppet;

use super::LockFiles;
use crate::process::Process;

/// A run that holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub process: Process,
    /// When it took the lock.
    pub since: SystemTime,
}

impl Run {
    /// The run that is going on; a lock whose process has ended, or is no Puppet, is stale, as it is for Puppet.
    pub fn going_on(locks: &LockFiles) -> io::Result<Option<Self>> {
        let read = || -> io::Result<_> {
            Ok((fs::read_to_string(&locks.run)?, fs::metadata(&locks.run)?.modified()?))
        };
        let (text, since) = match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let process = text.trim().parse().ok().and_then(Process::with_pid);
        Ok(process.filter(is_puppet).map(|process| Self { process, since }))
    }

    pub fn lasts(&self) -> Duration {
        SystemTime::now().duration_since(self.since).unwrap_or_default()
    }

    /// The words of a run for a rollout, also while the agent is disabled by us: `spare` is a file that is never there.
    /// `server`: whom it asks; empty: whom puppet.conf names.
    pub fn command(puppet: &Puppet, server: &str, spare: &Path) -> Vec<String> {
        let (program, always) = puppet.program();
        let words = [program.as_os_str()].into_iter().map(|word| word.to_string_lossy().into_owned());
        let fixed = ["agent", "--test", "--color=false"].map(str::to_owned);
        let always = always.iter().map(|word| word.to_string_lossy().into_owned());
        let spare = ["--agent_disabled_lockfile".to_owned(), spare.display().to_string()];
        let asked = ["--server".to_owned(), server.to_owned()];
        let asked = asked.into_iter().filter(|_| !server.is_empty());
        words.chain(fixed).chain(always).chain(asked).chain(spare).collect()
    }
}

/// Puppet's own rule (`puppet/util/pidlock.rb`): another program may have got the id of a run that was killed.
fn is_puppet(process: &Process) -> bool {
    process.command_line().iter().any(|word| word.contains("puppet"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::waiting_shell;

    #[test]
    fn a_run_is_going_on_while_its_lock_names_a_living_puppet() {
        let dir = tempfile::tempdir().unwrap();
        let locks =
            LockFiles { run: dir.path().join("run.lock"), disabled: dir.path().join("disabled.lock") };
        assert_eq!(Run::going_on(&locks).unwrap(), None);
        let mut puppet = waiting_shell(&["puppet agent: applying configuration"]);
        let mut other = waiting_shell(&["cron"]);
        fs::write(&locks.run, other.id().to_string()).unwrap();
        assert_eq!(Run::going_on(&locks).unwrap(), None, "a stranger with the id of a run that was killed");
        fs::write(&locks.run, puppet.id().to_string()).unwrap();
        let run = Run::going_on(&locks).unwrap().unwrap();
        assert_eq!(run.process.pid(), puppet.id());
        assert!(run.lasts() < Duration::from_secs(60));
        for child in [&mut puppet, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(Run::going_on(&locks).unwrap(), None, "a lock that was left behind");
    }
}
