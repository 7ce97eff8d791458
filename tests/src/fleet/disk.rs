//! A small file system that can be filled, for what happens when a disk is full. Needs root.

use std::{
    ffi::CString,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A tmpfs, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts a file system of so many MiB on `at`, which is made.
    pub fn mount(at: &Path, mib: u64) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = CString::new(format!("size={mib}m,mode=0711")).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", at, "tmpfs", flags, Some(options.as_c_str())).unwrap();
        Self { at: at.into() }
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
