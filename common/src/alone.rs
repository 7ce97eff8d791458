//! A lock that keeps a second process out of a directory.

use std::{
    fs::{File, TryLockError},
    io,
};

use crate::Chain;

/// Held until it is dropped, or until the process ends.
///
/// A child that was forked and has not become another program yet holds a copy of every open file. Closing alone would
/// leave the lock to it for a moment (flock(2): duplicates share one lock), so that whoever opens the directory next
/// would be refused. It is unlocked first.
#[derive(Debug)]
pub struct Alone(File);

impl Alone {
    /// `Ok(None)`: another process, or this one, holds it.
    pub fn try_take(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(error = %Chain(&error), "a lock could not be given back before its file was closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> File {
        File::options().create(true).truncate(false).write(true).open(path).unwrap()
    }

    #[test]
    fn one_holds_it_and_the_next_gets_it_when_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Alone::try_take(open(&path)).unwrap();
        assert!(first.is_some());
        assert!(Alone::try_take(open(&path)).unwrap().is_none());
        drop(first);
        assert!(Alone::try_take(open(&path)).unwrap().is_some());
    }

    #[test]
    fn regression_a_copy_of_the_file_in_a_child_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = open(&path);
        let copy_in_a_child = file.try_clone().unwrap();
        drop(Alone::try_take(file).unwrap());
        assert!(Alone::try_take(open(&path)).unwrap().is_some());
        drop(copy_in_a_child);
    }
}
