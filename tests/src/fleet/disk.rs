//! A small file system that can be filled, stand still or fail, for what happens then. Needs root.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// More than any test needs, and soon used up: the kernel's own limit is millions.
const INODES: u32 = 16 << 10;

/// A disk moves again after so many seconds, whatever becomes of the test: who waits for it cannot be killed.
const STUCK_S: u32 = 90;

/// A file system of its own, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

/// A disk that stands still until this is dropped.
#[derive(Debug)]
pub struct Stuck(Child);

impl Drop for Stuck {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _it_moves_again = self.0.wait();
    }
}

impl SmallDisk {
    /// Mounts a tmpfs of so many MiB on `at`, which is made.
    pub fn mount(at: &Path, mib: u64) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = CString::new(format!("size={mib}m,nr_inodes={INODES},mode=0711")).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", at, "tmpfs", flags, Some(options.as_c_str())).unwrap();
        Self { at: at.into() }
    }

    /// The same with an ext4 on a block device, which a tmpfs cannot replace where a disk is slow or broken.
    pub fn mount_ext4(at: &Path, mib: u64) -> Self {
        fs::create_dir_all(at).unwrap();
        let disk = Self { at: at.into() };
        File::create(disk.image()).unwrap().set_len(mib << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-N", "30000"]).arg(disk.image()));
        disk.mount_again();
        fs::remove_dir(disk.path("lost+found")).unwrap();
        disk
    }

    /// Whoever writes waits, and cannot even be killed, as with an NFS server that is away.
    pub fn stop(&self) -> Stuck {
        let script = "fsfreeze --freeze \"$0\" && echo; read -t \"$1\"; fsfreeze --unfreeze \"$0\"";
        let mut freezer = Command::new("bash")
            .args(["-c", script])
            .arg(&self.at)
            .arg(STUCK_S.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let frozen = BufReader::new(freezer.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        assert_eq!(frozen, 1, "{} does not stand still", self.at.display());
        Stuck(freezer)
    }

    /// From now on every write fails, also through files that are open, as a kernel does when a disk has failed.
    pub fn fail(&self) {
        run(Command::new("mount").args(["-o", "remount,abort"]).arg(&self.at));
    }

    /// A repaired disk, with what had reached it. Nobody may have a file open there.
    pub fn repair(&self) {
        run(Command::new("umount").arg(&self.at));
        self.mount_again();
    }

    fn mount_again(&self) {
        run(Command::new("mount").args(["-o", "loop,nosuid,nodev"]).args([&self.image(), &self.at]));
        fs::set_permissions(&self.at, fs::Permissions::from_mode(0o711)).unwrap();
    }

    fn image(&self) -> PathBuf {
        self.at.with_extension("ext4")
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

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
