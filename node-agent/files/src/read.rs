//! Reads a file that may lie in a directory of another user: what is no file, or has no end, is not waited for.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

/// At most one byte more than `most`: whoever parses it sees that it is too long. It may be a key, so it is wiped when it is
/// dropped, and the room is taken beforehand, so that no copy stays behind.
pub fn read(path: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    whole(File::from(rustix::fs::open(path, flags, Mode::empty())?), most)
}

pub(crate) fn whole(file: File, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let room = usize::try_from(meta.len()).unwrap_or(most).min(most) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
