//! Opens a directory on a way that no other user of this host can bend.
//!
//! Puppet's ssldir belongs to Puppet Server's user, who could put a link in the place of a directory while root writes.
//! So every part of the path is opened below the one before, and only root's own links (and this user's) are followed.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::{Component, Path},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat},
    io::Errno,
};

/// As many as the kernel follows.
const LINKS: usize = 40;

pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let way = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = || openat(CWD, "/", way | OFlags::DIRECTORY, Mode::empty());
    let (mut at, mut ahead, mut links) = (root()?, parts(path), 0);
    while let Some(part) = ahead.pop() {
        if part == "/" {
            at = root()?;
            continue;
        }
        let next = openat(&at, &part, way, Mode::empty())?;
        let stat = fstat(&next)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => at = next,
            FileType::Symlink if links == LINKS => return Err(Errno::LOOP.into()),
            FileType::Symlink if stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw() => {
                links += 1;
                let target = readlinkat(&next, "", Vec::new())?.into_bytes();
                ahead.extend(parts(Path::new(&OsString::from_vec(target))));
            }
            FileType::Symlink => {
                let part = part.display();
                return Err(io::Error::other(format!(
                    "{part} on its way is a symbolic link that is not root's"
                )));
            }
            FileType::RegularFile
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Err(io::ErrorKind::NotADirectory.into()),
        }
    }
    Ok(openat(&at, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The parts of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::RootDir => Some(OsStr::new("/").to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::Normal(name) => Some(name.to_owned()),
        Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{lchown, symlink},
    };

    use super::*;

    #[test]
    fn roots_links_are_followed_and_a_strangers_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("real/below")).unwrap();
        symlink("real", path("relative")).unwrap();
        symlink(path("relative/below"), path("absolute")).unwrap();
        symlink("loop", path("loop")).unwrap();
        for good in ["real/below", "relative/below", "absolute", "absolute/../../real"] {
            open(&path(good)).unwrap();
        }
        assert_eq!(Errno::from_io_error(&open(&path("loop")).unwrap_err()), Some(Errno::LOOP));
        assert_eq!(open(&path("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
        if rustix::process::geteuid().is_root() {
            lchown(path("relative"), Some(65534), None).unwrap();
            let error = open(&path("absolute")).unwrap_err().to_string();
            assert!(error.contains("relative on its way is a symbolic link"), "{error}");
        }
    }
}
