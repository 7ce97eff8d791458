//! A small file system that can be filled, for what happens when a disk is full. Needs root.

use std::{
    ffi::CString,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// More than any test needs, and soon used up: the kernel's own limit is millions.
const INODES: u32 = 16 << 10;

/// A tmpfs, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts a file system of so many MiB on `at`, which is made.
    pub fn mount(at: &Path, mib: u64) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = CString::new(format!("size={mib}m,nr_inodes={INODES},mode=0711")).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", at, "tmpfs", flags, Some(options.as_c_str())).unwrap();
        Self { at: at.into() }
    }

    /// Uses up every inode; space is left. Undone by [`SmallDisk::make_inodes`].
    pub fn fill_inodes(&self) {
        let at = self.at.join("fillers");
        fs::create_dir_all(&at).unwrap();
        for number in 0_u64.. {
            if File::create(at.join(number.to_string())).is_err() {
                return;
            }
        }
    }

    pub fn make_inodes(&self) {
        fs::remove_dir_all(self.at.join("fillers")).unwrap();
    }

    /// As a kernel does with a disk that fails: what is there can be read, nothing can be written.
    pub fn set_read_only(&self, read_only: bool) {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let flags = if read_only { flags | MountFlags::RDONLY } else { flags };
        mount_remount(&self.at, flags, "").unwrap();
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.at.join(below)
    }

    /// Fills it to the last byte with one file.
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        for size in [1 << 20, 4 << 10, 1] {
            let bytes = vec![0; size];
            while filler.write_all(&bytes).is_ok() {}
        }
    }

    pub fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _best_effort = unmount(&self.at, UnmountFlags::DETACH);
    }
}
