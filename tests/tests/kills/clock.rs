//! A wall clock of a process's own, by Debian's `faketime`: the monotonic clock stays the machine's, as it does when
//! somebody sets a real clock.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// `$LIB` is the loader's word for the directory of this machine's libraries.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";
/// The package's own program, to say what is missing: the loader only warns.
const PROGRAM: &str = "/usr/bin/faketime";

/// Read anew whenever the process asks what time it is.
pub(crate) struct Clock {
    file: PathBuf,
    users: Vec<u32>,
}

impl Clock {
    pub(crate) fn new(file: PathBuf) -> Self {
        assert!(Path::new(PROGRAM).exists(), "no faketime (hint: cargo xtask install)");
        Self { file, users: Vec::new() }
    }

    /// So many seconds ahead of the machine's clock.
    pub(crate) fn set(&self, off: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{off:+}\n")).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    pub(crate) fn give_to(&self, command: &mut Command) {
        command.env("LD_PRELOAD", LIBRARY).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        // Files keep the times that they have.
        command.env("NO_FAKE_STAT", "1").env("FAKE_UTIME", "0");
    }

    pub(crate) fn is_used_by(&mut self, pid: u32) {
        self.users.push(pid);
    }
}

impl Drop for Clock {
    /// The library leaves its shared memory behind when a process is killed.
    fn drop(&mut self) {
        for pid in &self.users {
            for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
                let _it_may_have_ended_properly = fs::remove_file(Path::new("/dev/shm").join(name));
            }
        }
    }
}
