//! Files of our own that are whole or not there, on disk when the call returns, and for nobody else to read: what a
//! program must not forget, and keys.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::crash;

/// A new file with its final mode from the first moment. One that is there was left by a crash, and goes. Its name lasts
/// after [`sync_dir`] of its directory.
///
/// # Errors
/// What the file system says; the file may be there in part.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Takes the place of what is there in one moment.
///
/// # Errors
/// What the file system says; the file is the one before or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_past(path, bytes, "")
}

/// The same, and between writing and renaming it passes a step at which tests kill.
///
/// # Errors
/// As [`replace`].
pub fn replace_past(path: &Path, bytes: &[u8], step: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    write_new(&temporary, bytes)?;
    crash::point(step);
    fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes names that were made, changed or removed in this directory last.
///
/// # Errors
/// What the file system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_private_whatever_a_crash_has_left_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.json");
        fs::write(&path, "before").unwrap();
        fs::write(path.with_extension("new"), "half of something longer than that").unwrap();
        replace(&path, b"after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.json");
        fs::write(&path, "before").unwrap();
        fs::create_dir(path.with_extension("new")).unwrap();
        replace(&path, b"after").unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    }
}
