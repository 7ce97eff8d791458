//! A local user, and what its mode bits let it do: which user runs Puppet, and may it read and run our files?
//!
//! Asked through `getent` and `id`, so that users from LDAP are found too. POSIX ACLs are not looked at.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A user with its groups, as `getent` and `id` name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// All groups, the primary one included.
    pub groups: Vec<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("could not run `{command}`")]
    Run {
        command: String,
        #[source]
        source: io::Error,
    },
    #[error("no user `{0}` on this host")]
    Unknown(String),
    #[error("`{command}` said `{output}`, which is not what it should say")]
    Strange { command: String, output: String },
}

/// What a user wants to do with a file or directory, as in its mode bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read = 0o4,
    Run = 0o1,
    /// List a directory and open what is in it.
    Enter = 0o5,
}

impl Account {
    pub fn find(name: &str) -> Result<Self, AccountError> {
        let unknown = || AccountError::Unknown(name.chars().take(80).collect());
        let line = ask(&["getent", "passwd", "--", name])?.ok_or_else(unknown)?;
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [_, _, uid, gid, ..] = fields.as_slice() else { return Err(strange("getent passwd", &line)) };
        let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
            return Err(strange("getent passwd", &line));
        };
        let listed = ask(&["id", "-G", "--", name])?.ok_or_else(unknown)?;
        let groups = listed.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        Ok(Self { name: name.into(), uid, gid, groups: groups.map_err(|_| strange("id -G", &listed))? })
    }

    /// The first directory on the way, or `path` itself, that keeps this user from it; `None` when nothing does.
    ///
    /// Links are followed as the kernel would follow them.
    pub fn blocked_at(&self, path: &Path, wanted: Access) -> io::Result<Option<PathBuf>> {
        let real = fs::canonicalize(path)?;
        let above: Vec<&Path> = real.ancestors().skip(1).collect();
        for directory in above.into_iter().rev() {
            if !self.may(directory, Access::Run)? {
                return Ok(Some(directory.into()));
            }
        }
        Ok(if self.may(&real, wanted)? { None } else { Some(real) })
    }

    fn may(&self, path: &Path, wanted: Access) -> io::Result<bool> {
        let meta = fs::metadata(path)?;
        let bits = if self.uid == 0 {
            // Root passes every check except running a file that nobody may run.
            0o6 | meta.mode() | meta.mode() >> 3 | meta.mode() >> 6 | u32::from(meta.is_dir())
        } else if meta.uid() == self.uid {
            meta.mode() >> 6
        } else if self.gid == meta.gid() || self.groups.contains(&meta.gid()) {
            meta.mode() >> 3
        } else {
            meta.mode()
        };
        Ok(bits & wanted as u32 == wanted as u32)
    }
}

fn ask(argv: &[&str]) -> Result<Option<String>, AccountError> {
    let output = Command::new(argv[0])
        .args(&argv[1..])
        .output()
        .map_err(|source| AccountError::Run { command: argv.join(" "), source })?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn strange(command: &str, output: &str) -> AccountError {
    AccountError::Strange { command: command.into(), output: output.trim().chars().take(200).collect() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_directory_that_is_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let closed = root.path().join("closed");
        let file = closed.join("file");
        fs::create_dir(&closed).unwrap();
        fs::write(&file, "").unwrap();
        mode(root.path(), 0o755);
        mode(&closed, 0o700);
        mode(&file, 0o644);
        let nobody = Account::find("nobody").unwrap();
        assert_eq!(nobody.blocked_at(&file, Access::Read).unwrap(), Some(closed.clone()));
        mode(&closed, 0o711);
        assert_eq!(nobody.blocked_at(&file, Access::Read).unwrap(), None);
        assert_eq!(nobody.blocked_at(&file, Access::Run).unwrap(), Some(file));
        assert_eq!(nobody.blocked_at(&closed, Access::Enter).unwrap(), Some(closed));
    }

    #[test]
    fn a_user_that_does_not_exist_is_named() {
        let error = Account::find("no-such-user-here").unwrap_err().to_string();
        assert_eq!(error, "no user `no-such-user-here` on this host");
    }
}
