//! Tells that files have changed, as the kernel says it (inotify). Only a hint: events are lost when too many come and
//! when a directory is replaced, so whoever relies on it looks by itself now and then, too, and calls [`Changes::rearm`].

use std::{
    ffi::OsString,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

/// Watches some files by their directories, so that it does not matter whether they are there, written in place or
/// renamed over. Readable (for `poll`) when something has happened.
#[derive(Debug)]
pub struct Changes {
    inotify: OwnedFd,
    files: Vec<PathBuf>,
}

impl Changes {
    /// # Errors
    /// When the kernel gives no more watches (`fs.inotify.max_user_instances`). A directory that is not there is none.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a Path>) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let changes = Self { inotify, files: files.into_iter().map(Path::to_owned).collect() };
        changes.rearm()?;
        Ok(changes)
    }

    /// From now on these files, and no others.
    pub fn watch(&mut self, files: impl IntoIterator<Item = PathBuf>) -> io::Result<()> {
        self.files = files.into_iter().collect();
        self.rearm()
    }

    /// Watches the directories that are there now under the paths. Those that are watched already stay so.
    pub fn rearm(&self) -> io::Result<()> {
        let whole = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
        let gone = WatchFlags::MOVED_FROM | WatchFlags::DELETE;
        for dir in self.files.iter().filter_map(|file| file.parent()) {
            match inotify::add_watch(&self.inotify, dir, whole | gone | WatchFlags::ONLYDIR) {
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether one of the files has changed, or may have, since the last question. A file that is being written counts
    /// when it is closed. Never waits.
    pub fn any(&self) -> io::Result<bool> {
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.inotify, &mut room);
        let mut any = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let lost = event.events().intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED);
                    let name = event.file_name().map(|name| name.to_bytes());
                    any |= lost || name.is_some_and(|name| self.is_of(name));
                }
                Err(Errno::WOULDBLOCK) => return Ok(any),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Two files of one name in different directories are not told apart: it is a hint.
    fn is_of(&self, name: &[u8]) -> bool {
        use std::os::unix::ffi::OsStringExt;
        let name = OsString::from_vec(name.to_vec());
        self.files.iter().any(|file| file.file_name() == Some(&name))
    }
}

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_written_renamed_over_or_removed_is_told_and_its_neighbours_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("crl.pem");
        let changes = Changes::of([file.as_path()]).unwrap();
        assert!(!changes.any().unwrap());
        fs::write(dir.path().join("serial"), "1").unwrap();
        assert!(!changes.any().unwrap(), "a neighbour");
        fs::write(&file, "1").unwrap();
        assert!(changes.any().unwrap());
        assert!(!changes.any().unwrap(), "told once");
        let beside = dir.path().join("beside");
        fs::write(&beside, "2").unwrap();
        assert!(!changes.any().unwrap());
        fs::rename(&beside, &file).unwrap();
        assert!(changes.any().unwrap());
        fs::remove_file(&file).unwrap();
        assert!(changes.any().unwrap());
    }

    #[test]
    fn a_directory_that_comes_later_is_watched_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca/crl.pem");
        let changes = Changes::of([file.as_path()]).unwrap();
        fs::create_dir(dir.path().join("ca")).unwrap();
        changes.rearm().unwrap();
        fs::write(&file, "1").unwrap();
        assert!(changes.any().unwrap());
        fs::remove_dir_all(dir.path().join("ca")).unwrap();
        assert!(changes.any().unwrap());
    }
}
