//! One flat directory of files, with the few operations whose order and durability the journal depends on.
//!
//! [`OsDisk`] is the real one; the tests have one that loses power (`power_loss.rs`).

#[cfg(test)]
pub(crate) mod power_loss;

use std::{
    fmt::Debug,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

/// Names are those of files in the one directory. Nothing is durable before `sync_data` of the file, and no name
/// before `sync_dir`. Clones are the same directory.
pub(crate) trait Disk: Debug + Clone + Send {
    type File: Debug + Send;

    /// Where this is, for messages.
    fn path(&self) -> &Path;
    fn list(&self) -> io::Result<Vec<String>>;
    /// The whole file, or as many of its first bytes as asked for.
    fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>>;
    fn read_at(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// A new, empty file; an older one of that name is emptied.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    fn open(&self, name: &str) -> io::Result<Self::File>;
    fn write_at(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reserves space for `length` bytes from `offset`, so that writing there cannot find the disk full. The file's
    /// length stays.
    fn allocate(&self, file: &Self::File, offset: u64, length: u64) -> io::Result<()>;
    /// Cuts the file, and gives back what was reserved behind.
    fn truncate(&self, file: &Self::File, length: u64) -> io::Result<()>;
    fn sync_data(&self, file: &Self::File) -> io::Result<()>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn sync_dir(&self) -> io::Result<()>;
}

/// Whether an error says that there is no room, rather than that the disk is ill.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A directory of the operating system.
#[derive(Debug, Clone)]
pub(crate) struct OsDisk {
    path: PathBuf,
    directory: Arc<File>,
}

impl OsDisk {
    /// Opens the directory and makes it, for its owner alone, when it is missing.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        make_private_dir(path)?;
        Ok(Self { path: path.into(), directory: Arc::new(File::open(path)?) })
    }
}

/// Makes the directory with its final mode, durably. One that exists is left as it is.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
            .sync_all(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Options for a file that only its owner may read; the mode is given at creation, never afterwards.
pub(crate) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

impl Disk for OsDisk {
    type File = File;

    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let file = File::open(self.path.join(name))?;
        let length = usize::try_from(file.metadata()?.len().min(most)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(length);
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn read_at(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        File::open(self.path.join(name))?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        private_file().truncate(true).open(self.path.join(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        File::options().read(true).write(true).open(self.path.join(name))
    }

    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn allocate(&self, file: &File, offset: u64, length: u64) -> io::Result<()> {
        match fallocate(file, FallocateFlags::KEEP_SIZE, offset, length) {
            // A file system that cannot reserve: a full disk is then found while writing, and ends the process.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}
