//! Which transports the repositories in a builder's cache came by.
//!
//! A builder must be allowed the file transport to reach the repository that is made for it, so a Puppetfile could
//! name modules by file, too. This is where they are noticed. Before a build, what an earlier Puppetfile left is
//! removed; after it, whatever is found is this Puppetfile's.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::output::hide_passwords;

/// A git configuration file in a cache is a few hundred bytes.
const CONFIG_BYTES: u64 = 64 << 10;

/// A module's remote that may not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forbidden {
    /// The repository's name, which is the module's nearly always.
    pub module: String,
    pub url: String,
    pub transport: String,
}

pub(crate) fn list(forbidden: &[Forbidden]) -> String {
    let one = |f: &Forbidden| {
        format!("{} from {} (hint: add \"{}\" to `transports`)", f.module, f.url, f.transport)
    };
    forbidden.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Removes cached repositories with remotes that may not be used.
pub(crate) fn remove_forbidden(cache: &Path, own: &str, allowed: &[String]) -> io::Result<()> {
    for (dir, _) in repositories(cache, own, allowed)? {
        fs::remove_dir_all(dir)?;
    }
    Ok(())
}

pub(crate) fn forbidden(cache: &Path, own: &str, allowed: &[String]) -> io::Result<Vec<Forbidden>> {
    Ok(repositories(cache, own, allowed)?.into_iter().map(|(_, found)| found).collect())
}

/// r10k keeps repositories in its cache directory, g10k in `modules` and `environments` of it.
fn repositories(cache: &Path, own: &str, allowed: &[String]) -> io::Result<Vec<(PathBuf, Forbidden)>> {
    let mut found = Vec::new();
    for parent in [cache.to_owned(), cache.join("modules")] {
        let entries = match fs::read_dir(&parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let dir = entry?.path();
            let Some(url) = remote_of(&dir.join("config")) else { continue };
            let transport = transport(&url);
            if url != own && !allowed.iter().any(|a| a == transport) {
                let module = url.trim_end_matches('/').trim_end_matches(".git");
                let module = module.rsplit(['/', ':']).next().unwrap_or_default().to_owned();
                let transport = transport.to_owned();
                found.push((dir, Forbidden { module, url: hide_passwords(&url), transport }));
            }
        }
    }
    found.sort_by(|a, b| a.1.url.cmp(&b.1.url));
    Ok(found)
}

fn remote_of(config: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(config, flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.take(CONFIG_BYTES).read_to_string(&mut text).ok()?;
    let url = text.lines().find_map(|line| line.trim().strip_prefix("url = "))?;
    Some(url.trim_matches('"').to_owned())
}

/// As git understands a remote: `scheme://…`, `helper::…`, `host:path`, or a path.
fn transport(url: &str) -> &str {
    if let Some((scheme, _)) = url.split_once("://") {
        return scheme;
    }
    if let Some((helper, _)) = url.split_once("::") {
        return helper;
    }
    match url.find(':') {
        Some(colon) if !url[..colon].contains('/') => "ssh",
        Some(_) | None => "file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_understood_as_git_does() {
        for (url, is) in [
            ("https://h/x", "https"),
            ("git@h:x/y.git", "ssh"),
            ("ext::sh -c x", "ext"),
            ("/srv/x", "file"),
            ("./a:b", "file"),
            ("http://h:80/x", "http"),
        ] {
            assert_eq!(transport(url), is, "{url}");
        }
    }

    #[test]
    fn a_repository_by_a_forbidden_transport_is_named_and_can_be_removed() {
        let cache = tempfile::tempdir().unwrap();
        for (name, url) in [("a", "file:///srv/ntp.git"), ("b", "https://me:pw@h/b"), ("own", "file:///own")]
        {
            fs::create_dir(cache.path().join(name)).unwrap();
            let config = format!("[core]\n\tbare = true\n[remote \"origin\"]\n\turl = {url}\n");
            fs::write(cache.path().join(name).join("config"), config).unwrap();
        }
        let allowed = ["ssh".to_owned()];
        let names = |found: &[Forbidden]| found.iter().map(|f| f.module.clone()).collect::<Vec<_>>();
        let found = forbidden(cache.path(), "file:///own", &allowed).unwrap();
        assert_eq!(names(&found), ["ntp", "b"]);
        assert!(!list(&found).contains("pw"));
        remove_forbidden(cache.path(), "file:///own", &allowed).unwrap();
        assert_eq!(forbidden(cache.path(), "file:///own", &allowed).unwrap(), []);
        assert!(cache.path().join("own").exists());
    }
}
