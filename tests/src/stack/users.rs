//! The users that the stack's programs run as. Puppet's comes with its package; the builder's exists only in the
//! private /etc/passwd.

use std::{os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::{Context, Result};

use super::read_file;
use crate::process::output_of;

/// A user's ids; the group is its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// The user `name` of /etc/passwd.
    pub fn named(name: &str) -> Result<Self> {
        let users = read_file(Path::new("/etc/passwd"))?;
        find(&users, name).with_context(|| format!("there is no user {name}"))
    }

    /// Lets a command run as this user, without further groups.
    pub(super) fn runs(self, command: &mut Command) -> &mut Command {
        command.uid(self.uid).gid(self.gid)
    }

    /// Makes this user the owner of `path` and all below; links themselves, not their targets.
    pub fn owns(self, path: &Path) -> Result<()> {
        output_of(Command::new("chown").args(["-hR", &format!("{}:{}", self.uid, self.gid)]).arg(path))
            .map(drop)
    }
}

fn find(users: &str, name: &str) -> Option<User> {
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| fields.first() == Some(&name))?;
    Some(User { uid: found.get(2)?.parse().ok()?, gid: found.get(3)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0::/root:/bin/sh\npuppet-x:x:7:8::/:/bin/sh\npuppet:x:103:106::/:/bin/sh\n";
        assert_eq!(find(users, "puppet"), Some(User { uid: 103, gid: 106 }));
        assert_eq!(find(users, "pup"), None);
    }
}
