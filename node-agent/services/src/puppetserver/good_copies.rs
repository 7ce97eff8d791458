//! The configuration with which Puppet Server was last seen to be ready, kept so that it can be put back.
//!
//! It covers conf.d and puppet.conf. All copies lie in one file, replaced by rename: never half of one state. What is
//! put back replaces what was refused, which is put aside, not lost.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

/// What trapperkeeper reads of conf.d.
const ENDINGS: [&str; 7] = ["ini", "conf", "json", "properties", "edn", "yaml", "yml"];

/// A configuration is some tens of kilobytes.
const FILE_BYTES: u64 = 4 << 20;

/// Copies of one host's configuration.
#[derive(Debug)]
pub struct GoodCopies {
    /// Of the agent alone: a configuration may hold secrets.
    directory: PathBuf,
    conf_d: PathBuf,
    puppet_conf: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copy {
    mode: u32,
    uid: u32,
    gid: u32,
    text: String,
}

type Copies = BTreeMap<PathBuf, Copy>;

#[derive(Debug, thiserror::Error)]
pub enum CopiesError {
    #[error("no configuration was kept yet: copies are made when Puppet Server is seen to be ready")]
    None,
    #[error("could not read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl GoodCopies {
    pub fn new(directory: impl Into<PathBuf>, conf_d: &Path, puppet_conf: &Path) -> Self {
        Self { directory: directory.into(), conf_d: conf_d.into(), puppet_conf: puppet_conf.into() }
    }

    /// Keeps what is there in place of what was kept.
    pub fn keep(&self) -> Result<(), CopiesError> {
        let kept = self.kept();
        let copies = self.present()?;
        if self.load().is_ok_and(|before| before == copies) {
            return Ok(());
        }
        let write = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
            replace(&kept, &serde_json::to_vec(&copies)?, |file| {
                file.set_permissions(fs::Permissions::from_mode(0o600))
            })
        };
        write().map_err(|source| CopiesError::Write { path: kept.clone(), source })
    }

    /// Keeps what a server loaded that runs since then, where nothing was kept yet: only if no file is newer than it.
    pub fn keep_first(&self, running_since: SystemTime) -> Result<(), CopiesError> {
        if !matches!(self.load(), Err(CopiesError::None)) {
            return Ok(());
        }
        let is_older = |path: &Path| {
            fs::symlink_metadata(path).and_then(|meta| meta.modified()).is_ok_and(|at| at < running_since)
        };
        // A file that was taken away changed its directory.
        let loaded = is_older(&self.conf_d) && self.present()?.keys().all(|path| is_older(path));
        if loaded { self.keep() } else { Ok(()) }
    }

    /// Puts back every file that differs, takes away those that were not there, and names them all.
    pub fn restore(&self, name: &str) -> Result<Vec<PathBuf>, CopiesError> {
        let (good, present) = (self.load()?, self.present()?);
        let differs = |path: &&PathBuf| good.get(*path) != present.get(*path);
        let paths: std::collections::BTreeSet<&PathBuf> = good.keys().chain(present.keys()).collect();
        let paths: Vec<PathBuf> = paths.into_iter().filter(differs).cloned().collect();
        for path in &paths {
            let restored =
                self.put_aside(name, path, present.get(path)).and_then(|()| match good.get(path) {
                    Some(copy) => put(path, copy),
                    None => fs::remove_file(path),
                });
            restored.map_err(|source| CopiesError::Write { path: path.clone(), source })?;
        }
        Ok(paths)
    }

    /// Where [`GoodCopies::restore`] puts aside what it replaces.
    pub fn refused(&self, name: &str) -> PathBuf {
        self.directory.join("refused").join(name.replace('/', "_"))
    }

    fn put_aside(&self, name: &str, path: &Path, copy: Option<&Copy>) -> io::Result<()> {
        let (Some(copy), Some(file_name)) = (copy, path.file_name()) else { return Ok(()) };
        let refused = self.refused(name);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&refused)?;
        replace(&refused.join(file_name), copy.text.as_bytes(), |file| {
            file.set_permissions(fs::Permissions::from_mode(0o600))
        })
    }

    fn kept(&self) -> PathBuf {
        self.directory.join("kept.json")
    }

    fn load(&self) -> Result<Copies, CopiesError> {
        let path = self.kept();
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(CopiesError::None),
            read => read.map_err(|source| CopiesError::Read { path: path.clone(), source })?,
        };
        serde_json::from_slice(&bytes)
            .map_err(|error| CopiesError::Read { path, source: io::Error::other(error) })
    }

    fn present(&self) -> Result<Copies, CopiesError> {
        let failed = |path: &Path, source| CopiesError::Read { path: path.into(), source };
        let mut copies = Copies::new();
        let entries = fs::read_dir(&self.conf_d).map_err(|error| failed(&self.conf_d, error))?;
        let mut paths = vec![self.puppet_conf.clone()];
        for entry in entries {
            let path = entry.map_err(|error| failed(&self.conf_d, error))?.path();
            if path.extension().and_then(|end| end.to_str()).is_some_and(|end| ENDINGS.contains(&end)) {
                paths.push(path);
            }
        }
        for path in paths {
            if let Some(copy) = read(&path).map_err(|error| failed(&path, error))? {
                copies.insert(path, copy);
            }
        }
        Ok(copies)
    }
}

/// `None`: it is not there, or no plain file. A link leads to what is not ours.
fn read(path: &Path) -> io::Result<Option<Copy>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(meta) if !meta.is_file() => return Ok(None),
        meta => meta?,
    };
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(no_link).open(path)?;
    let meta = file.metadata()?;
    if meta.len() > FILE_BYTES {
        return Err(io::Error::other("too large for a configuration"));
    }
    let mut text = String::new();
    Read::by_ref(&mut file).take(FILE_BYTES).read_to_string(&mut text)?;
    Ok(Some(Copy { mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid(), text }))
}

fn put(path: &Path, copy: &Copy) -> io::Result<()> {
    replace(path, copy.text.as_bytes(), |file| {
        fchown(file, Some(copy.uid), Some(copy.gid))?;
        file.set_permissions(fs::Permissions::from_mode(copy.mode))
    })
}

/// Beside it, synced, then renamed over it.
fn replace(path: &Path, bytes: &[u8], dress: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".bunraku-new");
    let (new, directory) = (path.with_file_name(name), path.parent().unwrap_or(Path::new("/")));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    dress(&file)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Host {
        dir: tempfile::TempDir,
        copies: GoodCopies,
    }

    impl Host {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (conf_d, puppet_conf) = (dir.path().join("conf.d"), dir.path().join("puppet.conf"));
            fs::create_dir(&conf_d).unwrap();
            let copies = GoodCopies::new(dir.path().join("good"), &conf_d, &puppet_conf);
            let host = Self { dir, copies };
            host.write("conf.d/a.conf", "a: 1");
            host.write("conf.d/b.conf", "b: 1");
            host.write("conf.d/notes.txt", "notes");
            host.write("puppet.conf", "[main]");
            host
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }
    }

    #[test]
    fn what_changed_since_is_put_back_with_its_owner_and_mode_and_what_was_refused_is_kept() {
        let host = Host::new();
        fs::set_permissions(host.path("conf.d/a.conf"), fs::Permissions::from_mode(0o640)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(host.path("conf.d/a.conf"), Some(1), Some(2)).unwrap();
        }
        let before = fs::metadata(host.path("conf.d/a.conf")).unwrap();
        host.copies.keep().unwrap();
        assert_eq!(fs::metadata(host.path("good/kept.json")).unwrap().mode() & 0o777, 0o600);

        fs::remove_file(host.path("conf.d/a.conf")).unwrap();
        host.write("conf.d/a.conf", "a: {");
        fs::remove_file(host.path("conf.d/b.conf")).unwrap();
        host.write("conf.d/new.conf", "new: {");
        host.write("conf.d/notes.txt", "other notes");
        host.write("puppet.conf", "[main");
        let restored = host.copies.restore("turn-7").unwrap();
        let expected = ["conf.d/a.conf", "conf.d/b.conf", "conf.d/new.conf", "puppet.conf"];
        assert_eq!(restored, expected.map(|name| host.path(name)));

        assert_eq!((host.text("conf.d/a.conf"), host.text("conf.d/b.conf")), ("a: 1".into(), "b: 1".into()));
        assert_eq!(
            (host.text("puppet.conf"), host.text("conf.d/notes.txt")),
            ("[main]".into(), "other notes".into())
        );
        assert!(!host.path("conf.d/new.conf").exists());
        let after = fs::metadata(host.path("conf.d/a.conf")).unwrap();
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
        let refused = host.copies.refused("turn-7");
        assert_eq!(fs::read_to_string(refused.join("a.conf")).unwrap(), "a: {");
        assert_eq!(fs::read_to_string(refused.join("new.conf")).unwrap(), "new: {");
        assert_eq!(host.copies.restore("turn-7").unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_first_copies_are_of_what_the_running_server_has_loaded_and_of_nothing_newer() {
        let host = Host::new();
        let before =
            fs::metadata(host.path("puppet.conf")).unwrap().modified().unwrap() - Duration::from_secs(9);
        let after = SystemTime::now() + Duration::from_secs(9);
        host.copies.keep_first(before).unwrap();
        assert!(matches!(host.copies.restore("x"), Err(CopiesError::None)), "they are newer than the server");
        host.copies.keep_first(after).unwrap();
        host.write("conf.d/a.conf", "a: {");
        host.copies.keep_first(after).unwrap();
        assert_eq!(host.copies.restore("x").unwrap(), [host.path("conf.d/a.conf")], "only the first");
    }

    #[test]
    fn without_copies_nothing_is_put_back() {
        let host = Host::new();
        assert!(matches!(host.copies.restore("x"), Err(CopiesError::None)));
        assert_eq!(host.text("conf.d/a.conf"), "a: 1");
    }

    #[test]
    fn a_link_is_neither_kept_nor_followed() {
        let host = Host::new();
        host.write("elsewhere", "precious");
        std::os::unix::fs::symlink(host.path("elsewhere"), host.path("conf.d/link.conf")).unwrap();
        host.copies.keep().unwrap();
        host.write("elsewhere", "changed");
        std::os::unix::fs::symlink(host.path("elsewhere"), host.path("conf.d/a.conf.bunraku-new")).unwrap();
        host.write("conf.d/a.conf", "a: {");
        assert_eq!(host.copies.restore("x").unwrap(), [host.path("conf.d/a.conf")]);
        assert_eq!(host.text("elsewhere"), "changed");
    }
}
