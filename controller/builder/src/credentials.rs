//! The passwords that git needs, from a file that only root may read to the git programs of the build user.
//!
//! They are never an argument, an environment variable or a part of a URL: everybody on the host can read those of
//! other people's processes, and builders print them. The build user gets a copy that only it may read, and git asks
//! for the one password that it needs through a credential helper that looks there. Whatever runs as the build user
//! can read the copy, a Puppetfile, too: give it passwords that may only read.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use crate::{account::Account, error::BuildError};

/// A line for each of a few hosts.
const FILE_BYTES: u64 = 64 << 10;

/// Where passwords come from and where the build user finds them.
#[derive(Debug)]
pub(crate) struct Credentials {
    from: Option<PathBuf>,
    copy: PathBuf,
}

impl Credentials {
    pub(crate) fn new(from: Option<PathBuf>, root: &Path) -> Self {
        Self { from, copy: place(root) }
    }

    /// Brings the copy up to date: to be called before git runs. Nothing is written when nothing has changed.
    pub(crate) fn ready(&self, account: &Account) -> Result<(), BuildError> {
        let Some(from) = &self.from else {
            return match fs::remove_file(&self.copy) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.prepare(error)),
                Ok(()) | Err(_) => Ok(()),
            };
        };
        let text = read(from)?;
        if fs::read(&self.copy).is_ok_and(|copied| copied == text.as_bytes()) {
            return Ok(());
        }
        self.write(&text, account).map_err(|error| self.prepare(error))
    }

    /// Made beside and renamed: git never reads half of it. The directory belongs to this process alone.
    fn write(&self, text: &str, account: &Account) -> io::Result<()> {
        let beside = self.copy.with_extension("new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&beside)?;
        file.write_all(text.as_bytes())?;
        if let Some((uid, gid)) = account.ids() {
            fchown(&file, Some(uid), Some(gid))?;
        }
        fs::rename(beside, &self.copy)
    }

    fn prepare(&self, source: io::Error) -> BuildError {
        BuildError::Prepare { path: self.copy.clone(), source }
    }
}

fn place(root: &Path) -> PathBuf {
    root.join("credentials")
}

/// The helper that answers git's questions and never stores or erases anything: the file is the operator's. Git hands it
/// to a shell; what stands in it is this text and the build root's own path.
pub(crate) fn helper(root: &Path) -> OsString {
    let quoted = place(root).display().to_string().replace('\'', r"'\''");
    format!("!f() {{ test \"$1\" != get || git credential-store --file '{quoted}' get; }}; f").into()
}

fn read(path: &Path) -> Result<String, BuildError> {
    let wrong = |what: String, hint: String| BuildError::Credentials { path: path.into(), what, hint };
    let unreadable =
        |error: io::Error| wrong(error.to_string(), format!("install -m 600 /dev/null {}", path.display()));
    let file = fs::File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(wrong("it is no file".to_owned(), "set `git_credentials` to a file".to_owned()));
    }
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own || meta.mode() & 0o077 != 0 {
        let what = format!("others may read it (owner {}, mode {:o})", meta.uid(), meta.mode() & 0o7777);
        return Err(wrong(what, format!("chown {own} {0} && chmod 600 {0}", path.display())));
    }
    let mut text = String::new();
    file.take(FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    for (number, line) in (1..).zip(text.lines()) {
        // Git passes over a line that it does not understand, and then says that there is no password.
        if !line.is_empty() && !line.starts_with('#') && !has_password(line) {
            let hint = "one line for each host: https://USER:PASSWORD@HOST, special characters as %XX";
            return Err(wrong(
                format!("line {number} is no URL with a user and a password"),
                hint.to_owned(),
            ));
        }
    }
    Ok(text)
}

/// Whether a URL carries a password.
pub(crate) fn has_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_password_is_seen_in_a_url_and_nowhere_else() {
        for (url, has) in [
            ("https://me:secret@h/x", true),
            ("https://me:@h/x", true),
            ("ssh://git:x@h/y", true),
            ("https://me:s@cr@t@h:8443/x", true),
            ("https://me@h:8443/x", false),
            ("https://h:8443/a:b@c", false),
            ("git@h:path", false),
            ("/srv/a:b@c", false),
        ] {
            assert_eq!(has_password(url), has, "{url}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_or_that_git_would_not_understand_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let refused = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read(&path).map_err(|error| error.to_string())
        };
        assert!(refused("# git\n\nhttps://me:secret@h\n", 0o600).is_ok());
        let open = refused("https://me:secret@h\n", 0o640).unwrap_err();
        assert!(open.contains("mode 640") && open.contains("hint: chown"), "{open}");
        let wrong = refused("https://me:secret@h\nh me secret\n", 0o600).unwrap_err();
        assert!(wrong.contains("line 2") && !wrong.contains("secret"), "{wrong}");
        fs::remove_file(&path).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("No such file"));
    }

    #[test]
    fn the_copy_follows_the_file_and_goes_with_the_setting() {
        let dir = tempfile::tempdir().unwrap();
        let (from, root) = (dir.path().join("from"), dir.path());
        let account = Account::resolve("root").unwrap();
        let credentials = Credentials::new(Some(from.clone()), root);
        for text in ["https://a:b@h\n", "https://a:c@h\n"] {
            fs::write(&from, text).unwrap();
            fs::set_permissions(&from, fs::Permissions::from_mode(0o600)).unwrap();
            credentials.ready(&account).unwrap();
            assert_eq!(fs::read_to_string(place(root)).unwrap(), text);
            assert_eq!(fs::metadata(place(root)).unwrap().mode() & 0o777, 0o400);
        }
        Credentials::new(None, root).ready(&account).unwrap();
        assert!(!place(root).exists());
    }
}
