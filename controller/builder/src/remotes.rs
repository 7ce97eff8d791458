//! Which transports the repositories in a builder's cache came by.
//!
//! A builder must be allowed the file transport to reach the repository that is made for it, so a Puppetfile could
//! name modules by file, too. This is where they are noticed. Before a build, what an earlier Puppetfile left is
//! removed; after it, whatever is found is this Puppetfile's.

use std::{
    ffi::{CStr, OsStr},
    fs,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Dir, Mode, OFlags, openat},
    path::Arg,
};

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

/// Where cached repositories with remotes that may not be used lie, below `cache`. To be removed as the build user, who
/// could have put links anywhere on the way.
pub(crate) fn forbidden_places(cache: &Path, own: &str, allowed: &[String]) -> io::Result<Vec<PathBuf>> {
    let wrong = repositories(cache)?.into_iter().filter(|found| judge(&found.url, own, allowed).is_some());
    Ok(wrong.map(|found| found.place).collect())
}

/// Where cached repositories with exactly this remote lie.
pub(crate) fn places_of(cache: &Path, url: &str) -> io::Result<Vec<PathBuf>> {
    let same = repositories(cache)?.into_iter().filter(|found| found.url == url);
    Ok(same.map(|found| found.place).collect())
}

pub(crate) fn forbidden(cache: &Path, own: &str, allowed: &[String]) -> io::Result<Vec<Forbidden>> {
    Ok(repositories(cache)?.iter().filter_map(|found| judge(&found.url, own, allowed)).collect())
}

fn judge(url: &str, own: &str, allowed: &[String]) -> Option<Forbidden> {
    let transport = transport(url);
    if url == own || allowed.iter().any(|a| a == transport) {
        return None;
    }
    let module = url.trim_end_matches('/').trim_end_matches(".git");
    let module = module.rsplit(['/', ':']).next().unwrap_or_default().to_owned();
    Some(Forbidden { module, url: hide_passwords(url), transport: transport.to_owned() })
}

struct Cached {
    place: PathBuf,
    url: String,
}

/// r10k keeps repositories in its cache directory, g10k in `modules` of it. No link is followed.
fn repositories(cache: &Path) -> io::Result<Vec<Cached>> {
    let mut found = Vec::new();
    let cache = open(CWD, cache)?;
    let modules = open(&cache, "modules").ok();
    for (parent, fd) in [("", Some(cache)), ("modules", modules)] {
        let Some(fd) = fd else { continue };
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            if let Some(url) = remote_of(&fd, entry.file_name()) {
                let place = Path::new(parent).join(OsStr::from_bytes(entry.file_name().to_bytes()));
                found.push(Cached { place, url });
            }
        }
    }
    found.sort_by(|a, b| a.url.cmp(&b.url));
    Ok(found)
}

fn open(at: impl AsFd, name: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

fn remote_of(cache: &OwnedFd, repository: &CStr) -> Option<String> {
    if matches!(repository.to_bytes(), b"." | b"..") {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let config = openat(open(cache, repository).ok()?, c"config", flags, Mode::empty()).ok()?;
    let mut text = String::new();
    fs::File::from(config).take(CONFIG_BYTES).read_to_string(&mut text).ok()?;
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
    fn a_repository_by_a_forbidden_transport_is_named_and_no_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let (cache, outside) = (root.path().join("cache"), root.path().join("outside"));
        let make = |dir: &Path, url: &str| {
            fs::create_dir_all(dir).unwrap();
            let config = format!("[core]\n\tbare = true\n[remote \"origin\"]\n\turl = {url}\n");
            fs::write(dir.join("config"), config).unwrap();
        };
        make(&cache.join("a"), "file:///srv/ntp.git");
        make(&cache.join("b"), "https://me:pw@h/b");
        make(&cache.join("own"), "file:///own");
        make(&outside.join("c"), "file:///srv/c");
        std::os::unix::fs::symlink(&outside, cache.join("modules")).unwrap();
        std::os::unix::fs::symlink(outside.join("c"), cache.join("link")).unwrap();
        let allowed = ["ssh".to_owned()];
        let found = forbidden(&cache, "file:///own", &allowed).unwrap();
        assert_eq!(found.iter().map(|f| f.module.as_str()).collect::<Vec<_>>(), ["ntp", "b"]);
        assert!(!list(&found).contains("pw"));
        assert_eq!(places_of(&cache, "file:///own").unwrap(), [Path::new("own")]);
        let places = forbidden_places(&cache, "file:///own", &allowed).unwrap();
        assert_eq!(places, [Path::new("a"), Path::new("b")]);
    }
}
