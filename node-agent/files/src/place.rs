//! One file that another program reads: replaced by a rename, whole at every moment.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use bunraku_common::crash;
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, Stat, fchmod, fchown, fstat, openat, renameat, statat, unlinkat,
    },
    process::{Gid, Uid},
};
use zeroize::Zeroizing;

use crate::{directory, read::whole};

/// Nobody executes such a file, whatever its mode before.
const MODES: u32 = 0o666;
/// Names that are tried for a new file: they are random, so a second one is never needed.
const TRIES: usize = 8;

/// A file to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Absolute.
    pub path: PathBuf,
    /// What is not given stays as the present file has it; a new file belongs to the owner of its directory, as Puppet's
    /// ssldir does to Puppet Server.
    pub owner: Option<u32>,
    pub group: Option<u32>,
    /// What is not given stays as the present file has it; a new file gets `new_mode`.
    pub mode: Option<u32>,
    pub new_mode: u32,
    /// Longer ones are read as far as shows it.
    pub most_bytes: usize,
    /// Of the steps at which tests kill: `crl-written`, `crl-renamed`.
    pub step: &'static str,
}

/// What stands at a place.
#[derive(Clone)]
pub enum Found {
    Nothing,
    File { bytes: Zeroizing<Vec<u8>>, modified_ms: u64, owner: u32, group: u32, mode: u32 },
}

/// Without what is in the file: it may be a key.
impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::File { bytes, owner, group, mode, .. } => {
                write!(f, "File({} bytes, {owner}:{group}, {mode:04o})", bytes.len())
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("could not open the directory of {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Followed, root would write where whoever owns the link wants it; replaced, somebody's arrangement would end.
    #[error(
        "{} is a symbolic link, and nothing is written through it \
         (hint: configure the file that it leads to, not the link: readlink -f {})", path.display(), path.display()
    )]
    Link { path: PathBuf },
    #[error("{} is not a file (hint: ls -ld {})", path.display(), path.display())]
    NoFile { path: PathBuf },
    #[error("could not read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not replace {}{}", path.display(), in_need_of_room(source, path))]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Place {
    pub fn read(&self) -> Result<Found, FileError> {
        let directory = self.directory()?;
        let failed =
            |error: rustix::io::Errno| FileError::Read { path: self.path.clone(), source: error.into() };
        if self.stat(&directory).map_err(|at| at.unwrap_or_else(failed))?.is_none() {
            return Ok(Found::Nothing);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&directory, self.name(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(failed(error)),
        };
        let stat = fstat(&file).map_err(failed)?;
        let read = whole(file, self.most_bytes);
        let bytes = read.map_err(|source| FileError::Read { path: self.path.clone(), source })?;
        Ok(Found::File {
            bytes,
            modified_ms: modified_ms(&stat),
            owner: stat.st_uid,
            group: stat.st_gid,
            mode: stat.st_mode & 0o7777,
        })
    }

    /// Owner and mode are right before anybody sees the file.
    pub fn replace(&self, bytes: &[u8]) -> Result<(), FileError> {
        let directory = self.directory()?;
        let failed = |source: io::Error| FileError::Write { path: self.path.clone(), source };
        let before = self.stat(&directory).map_err(|at| at.unwrap_or_else(|error| failed(error.into())))?;
        let (temporary, file) = self.create(&directory).map_err(failed)?;
        let written = self.fill(file, bytes, &directory, before.as_ref()).and_then(|()| {
            crash::point(format_args!("{}-written", self.step));
            renameat(&directory, &temporary, &directory, self.name())?;
            crash::point(format_args!("{}-renamed", self.step));
            File::from(directory.try_clone()?).sync_all()
        });
        written.map_err(|source| {
            // After the rename it is gone.
            let _or_gone = unlinkat(&directory, &temporary, AtFlags::empty());
            failed(source)
        })
    }

    /// Takes the file away, if there is one.
    pub fn remove(&self) -> Result<(), FileError> {
        let directory = self.directory()?;
        let failed = |source: io::Error| FileError::Write { path: self.path.clone(), source };
        match self.stat(&directory).map_err(|at| at.unwrap_or_else(|error| failed(error.into())))? {
            None => Ok(()),
            Some(_) => unlinkat(&directory, self.name(), AtFlags::empty())
                .map_err(io::Error::from)
                .and_then(|()| File::from(directory).sync_all())
                .map_err(failed),
        }
    }

    /// What an agent that was killed has left beside the file. A link goes, not what it leads to.
    pub fn sweep(&self) -> Result<(), FileError> {
        let directory = self.directory()?;
        let failed =
            |error: rustix::io::Errno| FileError::Read { path: self.path.clone(), source: error.into() };
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if self.is_leftover(OsStr::from_bytes(entry.file_name().to_bytes())) {
                unlinkat(&directory, entry.file_name(), AtFlags::empty()).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn fill(
        &self,
        mut file: File,
        bytes: &[u8],
        directory: &OwnedFd,
        before: Option<&Stat>,
    ) -> io::Result<()> {
        file.write_all(bytes)?;
        let (own, around) = (fstat(&file)?, fstat(directory)?);
        let like = before.unwrap_or(&around);
        let uid = self.owner.unwrap_or(like.st_uid);
        let gid = self.group.unwrap_or(like.st_gid);
        let mode = self.mode.or(before.map(|stat| stat.st_mode & MODES)).unwrap_or(self.new_mode);
        if (own.st_uid, own.st_gid) != (uid, gid) {
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        fchmod(&file, Mode::from_raw_mode(mode))?;
        file.sync_all()
    }

    fn create(&self, directory: &OwnedFd) -> io::Result<(OsString, File)> {
        for _ in 0..TRIES {
            let mut name = self.leftover_prefix();
            name.push(format!(
                "{:016x}",
                getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?
            ));
            match create(directory, &name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return created.map(|file| (name, file)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn is_leftover(&self, name: &OsStr) -> bool {
        let rest = name.as_bytes().strip_prefix(self.leftover_prefix().as_bytes());
        rest.is_some_and(|rest| rest.len() == 16 && rest.iter().all(u8::is_ascii_hexdigit))
    }

    /// Hidden, and with an ending that no program's pattern of CRL files takes.
    fn leftover_prefix(&self) -> OsString {
        let mut prefix = OsString::from(".");
        prefix.push(self.name());
        prefix.push(".bunraku-");
        prefix
    }

    /// `None`: there is nothing.
    fn stat(&self, directory: &OwnedFd) -> Result<Option<Stat>, StatError> {
        match statat(directory, self.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Ok(Some(stat)),
                FileType::Symlink => Err(StatError::Not(FileError::Link { path: self.path.clone() })),
                FileType::Directory
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => Err(StatError::Not(FileError::NoFile { path: self.path.clone() })),
            },
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(StatError::Io(error)),
        }
    }

    fn directory(&self) -> Result<OwnedFd, FileError> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        directory::open(parent).map_err(|source| FileError::Directory { path: self.path.clone(), source })
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

enum StatError {
    Not(FileError),
    Io(rustix::io::Errno),
}

impl StatError {
    fn unwrap_or_else(self, io: impl FnOnce(rustix::io::Errno) -> FileError) -> FileError {
        match self {
            Self::Not(error) => error,
            Self::Io(error) => io(error),
        }
    }
}

fn create(directory: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?))
}

fn modified_ms(stat: &Stat) -> u64 {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(stat.st_mtime_nsec / 1_000_000)
}

fn in_need_of_room(error: &io::Error, path: &Path) -> String {
    let at = path.parent().unwrap_or(path).display();
    if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return String::new();
    }
    format!("\nhint: free space or inodes on its file system: `df -h {at}; df -i {at}`")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn place(path: PathBuf) -> Place {
        let (owner, group, mode) = (None, None, None);
        Place { path, owner, group, mode, new_mode: 0o644, most_bytes: 1 << 20, step: "test" }
    }

    #[test]
    fn a_link_where_a_new_file_begins_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("precious");
        fs::write(&target, "precious").unwrap();
        symlink(&target, dir.path().join("name")).unwrap();
        let directory = directory::open(dir.path()).unwrap();
        let error = create(&directory, OsStr::new("name")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(target).unwrap(), b"precious");
    }

    #[test]
    fn leftovers_are_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            ".crl.pem.bunraku-0123456789abcdef",
            ".crl.pem.bunraku-0123456789abcde",
            ".crl.pem.bunraku-0123456789abcdeg",
            ".other.pem.bunraku-0123456789abcdef",
            "crl.pem",
            "precious",
        ];
        for name in names {
            fs::write(dir.path().join(name), name).unwrap();
        }
        symlink("precious", dir.path().join(".crl.pem.bunraku-aaaaaaaaaaaaaaaa")).unwrap();
        place(dir.path().join("crl.pem")).sweep().unwrap();
        let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.map(|name| name.into_string().unwrap()).collect();
        left.sort();
        let mut expected = names[1..].to_vec();
        expected.sort_unstable();
        assert_eq!(left, expected);
        assert_eq!(fs::read(dir.path().join("precious")).unwrap(), b"precious");
    }
}
