//! Tells when one of some files may have changed: their directories are watched, because a file is replaced by a rename.

use std::{
    collections::BTreeSet,
    ffi::{CStr, OsStr},
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::{Interest, unix::AsyncFd};

/// A dozen events with long names.
const BUFFER: usize = 4096;

#[derive(Debug)]
pub(super) struct Inotify {
    fd: AsyncFd<OwnedFd>,
    files: BTreeSet<PathBuf>,
}

impl Inotify {
    pub(super) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "it is unsound for what is no descriptor; an OwnedFd is one as long as it lives"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, files: BTreeSet::new() })
    }

    /// Also again: a directory may have been replaced, and the kernel knows those it watches already.
    pub(super) fn watch(&mut self, files: BTreeSet<PathBuf>) {
        let changes = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM;
        let changes = changes | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        for directory in files.iter().filter_map(|file| file.parent()).collect::<BTreeSet<&Path>>() {
            if let Err(error) = inotify::add_watch(self.fd.get_ref(), directory, changes) {
                tracing::debug!(directory = %directory.display(), %error, "not watched");
            }
        }
        self.files = files;
    }

    /// Waits until one of the files may have changed.
    pub(super) async fn changed(&self) {
        loop {
            match self.fd.readable().await {
                Ok(mut ready) => match self.read() {
                    Ok(true) => return,
                    Ok(false) => ready.clear_ready(),
                    // It cannot be read any more: whoever waits looks now and then all the same.
                    Err(_) => return std::future::pending().await,
                },
                Err(_) => return std::future::pending().await,
            }
        }
    }

    /// True: of the events that were read one was about a file. Others may follow.
    fn read(&self) -> io::Result<bool> {
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
        let mut events = Reader::new(self.fd.get_ref(), &mut buffer);
        let mut about_a_file = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    about_a_file |= lost || event.file_name().is_some_and(|name| self.is_one_of_them(name));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(about_a_file),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_one_of_them(&self, name: &CStr) -> bool {
        let name = OsStr::from_bytes(name.to_bytes());
        self.files.iter().any(|file| file.file_name() == Some(name))
    }
}
