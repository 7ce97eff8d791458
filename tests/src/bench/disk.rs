//! Where the benchmark writes: a file system made for the run, whose figures mean something.
//!
//! A root ext4 without a journal (common in virtual machines) makes creating files after a removal 10 to 20 times
//! slower, an overlay copies what is changed: such figures would mislead, so the run never writes where it stands.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::statvfs,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use crate::process::output_of;

/// Sparse; only what is written takes room. A full run was seen to write 38 GB before its end.
const IMAGE_BYTES: u64 = 48 << 30;
/// Less serves nothing.
const LEAST_BYTES: u64 = 8 << 30;
/// What the file may not take from the disk that it lies on: others write there, too.
const LEFT_BYTES: u64 = 4 << 30;

/// One inode for each of so many bytes: small files need more than ext4's default gives.
const BYTES_PER_INODE: &str = "4096";

/// A mounted file system that goes with this value.
#[derive(Debug)]
pub(super) struct Disk {
    at: PathBuf,
    image: PathBuf,
    /// What it is, for the report.
    pub(super) kind: String,
}

impl Disk {
    /// Makes a journalled ext4 in a file below `directory` and mounts it; where loop devices are not to be had, a tmpfs.
    pub(super) fn mount(directory: &Path) -> Result<Self> {
        let (at, image) = (directory.join("disk"), directory.join("disk.img"));
        fs::create_dir(&at).with_context(|| format!("could not make {}", at.display()))?;
        let room = statvfs(directory).with_context(|| format!("could not ask {}", directory.display()))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let bytes = image_bytes(free).with_context(|| {
            format!(
                "{} has {} GiB left; at least {} are needed",
                directory.display(),
                free >> 30,
                (LEAST_BYTES + LEFT_BYTES) >> 30
            )
        })?;
        let kind = match loop_mount(&image, bytes, &at) {
            Ok(()) => "ext4 with a journal, on a loop device",
            Err(error) => {
                println!("no loop device is to be had, a tmpfs serves: {error:#}");
                mount("tmpfs", &at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)
                    .with_context(|| format!("could not mount a tmpfs on {}", at.display()))?;
                "tmpfs"
            }
        };
        let disk = Self { at, image, kind: kind.to_owned() };
        disk.refuse_what_falsifies()?;
        Ok(disk)
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.at.join(below)
    }

    fn refuse_what_falsifies(&self) -> Result<()> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("could not read the mounts")?;
        let at = self.at.display().to_string();
        let found = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|line| line[1] == at);
        let Some([device, _, kind, ..]) = found.as_deref() else { bail!("nothing is mounted on {at}") };
        match *kind {
            "tmpfs" => Ok(()),
            "ext4" => {
                let name = device.rsplit('/').next().unwrap_or_default();
                let journal = fs::read_dir("/proc/fs/jbd2").into_iter().flatten().flatten();
                let journalled = journal.map(|entry| entry.file_name()).any(|entry| {
                    entry
                        .to_str()
                        .and_then(|entry| entry.strip_prefix(name))
                        .is_some_and(|rest| rest.starts_with('-'))
                });
                ensure!(journalled, "the ext4 on {device} has no journal: its figures would mislead");
                Ok(())
            }
            other => bail!("{at} is a {other}: its figures would mislead"),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.at, UnmountFlags::DETACH) {
            eprintln!("could not unmount {}: {error}", self.at.display());
        }
        let _best_effort = fs::remove_file(&self.image);
    }
}

/// How large the file may grow: a benchmark that runs out of room must not take the whole machine with it.
fn image_bytes(free: u64) -> Option<u64> {
    let bytes = IMAGE_BYTES.min(free.saturating_sub(LEFT_BYTES));
    (bytes >= LEAST_BYTES).then_some(bytes)
}

fn loop_mount(image: &Path, bytes: u64, at: &Path) -> Result<()> {
    let file = File::create(image).with_context(|| format!("could not make {}", image.display()))?;
    file.set_len(bytes).with_context(|| format!("could not enlarge {}", image.display()))?;
    output_of(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-i", BYTES_PER_INODE, "-E", "lazy_itable_init=1"])
            .arg(image),
    )?;
    output_of(Command::new("mount").args(["-o", "loop,noatime"]).args([image, at])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It once filled the disk of the machine, and every other program failed.
    #[test]
    fn the_benchmark_leaves_room_on_the_disk_that_it_lies_on() {
        assert_eq!(image_bytes(200 << 30), Some(IMAGE_BYTES));
        assert_eq!(image_bytes(20 << 30), Some(16 << 30));
        assert_eq!(image_bytes(11 << 30), None);
        assert_eq!(image_bytes(0), None);
    }
}
