//! Work inside one tree, one path component at a time, never through a link: whatever the tree contains, nothing
//! outside it is read or written.
//!
//! Everything is put in place by rename. No file is opened for writing here, and no mode changes on a file that has
//! its final name: the same inode may stand in other versions.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat};

/// An open directory tree.
#[derive(Debug)]
pub(crate) struct Below {
    root: OwnedFd,
    /// The directory used last: a diff comes in the order of directories.
    last: Option<(String, OwnedFd)>,
}

impl Below {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { root: fs::open(root, DIRECTORY, Mode::empty())?, last: None })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory at `path`; `""` is the root.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(known, _)| known != path) {
            let mut parts = path.split('/');
            let first = parts.next().expect("split gives at least one part");
            let mut at = open_directory(self.root.as_fd(), first)?;
            for part in parts {
                at = open_directory(at.as_fd(), part)?;
            }
            self.last = Some((path.to_owned(), at));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    /// The directory that holds `path`, and the name in it.
    pub(crate) fn parent<'p>(&mut self, path: &'p str) -> io::Result<(BorrowedFd<'_>, &'p str)> {
        let (parent, name) = split(path);
        Ok((self.directory(parent)?, name))
    }

    pub(crate) fn stat(&mut self, path: &str) -> io::Result<Option<Stat>> {
        let (parent, name) = match self.parent(path) {
            Err(error) if is_absent(&error) => return Ok(None),
            found => found?,
        };
        stat_at(parent, name)
    }

    /// Opens a regular file for reading.
    pub(crate) fn open_file(&mut self, path: &str) -> io::Result<std::fs::File> {
        let (parent, name) = self.parent(path)?;
        open_file_at(parent, name)
    }

    pub(crate) fn make_directory(&mut self, path: &str, mode: u32, group: Option<u32>) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        make_directory_at(parent, name, mode, group).map(drop)
    }

    /// Gives what stands at `from` (outside, same file system) the name `path`, over whatever file stands there.
    pub(crate) fn take(&mut self, from: &Path, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        fs::renameat(fs::CWD, from, parent, name)?;
        // Renaming one hard link over another of the same inode does nothing, and says it did.
        match fs::unlinkat(fs::CWD, from, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what stands at `path`: a directory is moved to `trash` (a free name, same file system), because
    /// emptying it would take time.
    pub(crate) fn remove(&mut self, path: &str, trash: &Path) -> io::Result<()> {
        self.last = None;
        let Some(stat) = self.stat(path)? else { return Ok(()) };
        let (parent, name) = self.parent(path)?;
        if is_directory(&stat) {
            fs::renameat(parent, name, fs::CWD, trash)?;
        } else {
            fs::unlinkat(parent, name, AtFlags::empty())?;
        }
        self.last = None;
        Ok(())
    }

    /// Makes the names in this directory last.
    pub(crate) fn sync_directory(&mut self, path: &str) -> io::Result<()> {
        Ok(fs::fsync(self.directory(path)?)?)
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    Ok(fs::openat(parent, name, DIRECTORY, Mode::empty())?)
}

/// Opens a regular file; a device or pipe that was put there by hand is neither followed nor waited for.
pub(crate) fn open_file_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = std::fs::File::from(fs::openat(parent, name, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

pub(crate) fn make_directory_at(
    parent: BorrowedFd<'_>,
    name: &str,
    mode: u32,
    group: Option<u32>,
) -> io::Result<OwnedFd> {
    fs::mkdirat(parent, name, Mode::RWXU)?;
    let made = open_directory(parent, name)?;
    set_owner_and_mode(made.as_fd(), mode, group)?;
    Ok(made)
}

/// The group first: chown clears bits of the mode.
pub(crate) fn set_owner_and_mode(fd: BorrowedFd<'_>, mode: u32, group: Option<u32>) -> io::Result<()> {
    if let Some(group) = group {
        fs::fchown(fd, None, Some(Gid::from_raw(group)))?;
    }
    Ok(fs::fchmod(fd, Mode::from_raw_mode(mode))?)
}

pub(crate) fn stat_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<Option<Stat>> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Names in a directory, without `.` and `..`, sorted. A name that is not UTF-8 is shown with replacement characters.
pub(crate) fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

pub(crate) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub(crate) fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

pub(crate) const fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

/// There is nothing at this path, or what leads to it is no directory of ours.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || is_not_as_recorded(error)
}

/// Something else stands where a directory or file was recorded: a tree changed by hand, not a failing disk.
pub(crate) fn is_not_as_recorded(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::LOOP, Errno::NOTDIR, Errno::ISDIR, Errno::NOTEMPTY, Errno::EXIST, Errno::NOENT, Errno::NXIO]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_link_in_the_way_is_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir_all(&inside).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("f"), "kept").unwrap();
        symlink(&outside, inside.join("d")).unwrap();
        symlink(outside.join("f"), inside.join("f")).unwrap();
        let mut below = Below::open(&inside).unwrap();
        assert!(below.directory("d").is_err());
        assert!(below.open_file("f").is_err());
        assert!(below.open_file("d/f").is_err());
        assert!(below.remove("d/f", &dir.path().join("trash")).is_ok(), "there is no such file inside");
        let new = dir.path().join("new");
        fs::write(&new, "new").unwrap();
        assert!(below.take(&new, "d/f").is_err());
        below.take(&new, "f").unwrap();
        assert_eq!(fs::read_to_string(outside.join("f")).unwrap(), "kept");
        assert_eq!(fs::read_to_string(inside.join("f")).unwrap(), "new");
    }

    #[test]
    fn taking_a_second_link_of_the_same_file_leaves_no_temporary_name() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("f"), "x").unwrap();
        fs::hard_link(tree.join("f"), dir.path().join("tmp")).unwrap();
        Below::open(&tree).unwrap().take(&dir.path().join("tmp"), "f").unwrap();
        assert!(!dir.path().join("tmp").exists());
        assert!(tree.join("f").exists());
    }
}
