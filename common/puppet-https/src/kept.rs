//! Something made of files, and made anew when one of them changes.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Files that change more often than this while they are read are not waited for.
const CHANGES: usize = 5;

/// Inode, size and time of the last change of each file.
type Stamps<const N: usize> = [(u64, u64, i64, i64); N];

/// What `N` files are read into. A TLS configuration is kept between requests so that sessions can be resumed, which
/// saves two signatures with RSA keys of 4096 bits.
#[derive(Debug)]
pub struct Kept<T, const N: usize> {
    paths: [PathBuf; N],
    known: Mutex<Option<(Stamps<N>, Arc<T>)>>,
}

impl<T, const N: usize> Kept<T, N> {
    /// Nothing is read yet.
    pub fn new(paths: [PathBuf; N]) -> Self {
        Self { paths, known: Mutex::new(None) }
    }

    /// Costs a `stat` call for each file while nothing changes.
    ///
    /// # Errors
    /// What `load` says, or `unreadable` of a file that is not there.
    pub fn get<E>(
        &self,
        load: impl Fn() -> Result<T, E>,
        unreadable: impl Fn(&Path, io::Error) -> E,
    ) -> Result<Arc<T>, E> {
        let stamps = self.stamps(&unreadable)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, kept)) = &*known
            && *of == stamps
        {
            return Ok(kept.clone());
        }
        let (stamps, made) = self.make(stamps, load, unreadable)?;
        let made = Arc::new(made);
        *known = Some((stamps, made.clone()));
        Ok(made)
    }

    /// The same for one use, and not kept.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn fresh<E>(
        &self,
        load: impl Fn() -> Result<T, E>,
        unreadable: impl Fn(&Path, io::Error) -> E,
    ) -> Result<T, E> {
        Ok(self.make(self.stamps(&unreadable)?, load, unreadable)?.1)
    }

    /// Certificate and key are replaced one after the other: half of each is no answer, so it is read again while the
    /// files change. A pair that stays mismatched is an error.
    fn make<E>(
        &self,
        mut before: Stamps<N>,
        load: impl Fn() -> Result<T, E>,
        unreadable: impl Fn(&Path, io::Error) -> E,
    ) -> Result<(Stamps<N>, T), E> {
        let mut left = CHANGES;
        loop {
            let loaded = load();
            let after = self.stamps(&unreadable)?;
            if before == after || left == 0 {
                // By the stamps of before: what changed meanwhile is read the next time.
                return Ok((before, loaded?));
            }
            (before, left) = (after, left - 1);
        }
    }

    fn stamps<E>(&self, unreadable: impl Fn(&Path, io::Error) -> E) -> Result<Stamps<N>, E> {
        let mut stamps = [(0, 0, 0, 0); N];
        for (stamp, path) in stamps.iter_mut().zip(&self.paths) {
            let meta = fs::metadata(path).map_err(|error| unreadable(path, error))?;
            *stamp = (meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec());
        }
        Ok(stamps)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn unreadable(path: &Path, error: io::Error) -> String {
        format!("{}: {error}", path.display())
    }

    fn put(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn it_is_made_once_for_each_change_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let kept = Kept::new([path.clone()]);
        let load = || fs::read_to_string(&path).map_err(|error| error.to_string());
        let missing = kept.get(load, unreadable).unwrap_err();
        assert!(missing.starts_with(path.to_str().unwrap()), "{missing}");
        put(&path, "one");
        let one = kept.get(load, unreadable).unwrap();
        assert!(Arc::ptr_eq(&one, &kept.get(load, unreadable).unwrap()));
        put(&path, "two");
        assert_eq!(*kept.get(load, unreadable).unwrap(), "two");
    }

    #[test]
    fn files_that_change_while_they_are_read_are_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        put(&path, "half");
        let kept = Kept::new([path.clone()]);
        let reads = Cell::new(0);
        let load = || {
            reads.set(reads.get() + 1);
            let text = fs::read_to_string(&path).unwrap();
            if reads.get() == 1 {
                put(&path, "whole");
            }
            if text == "whole" { Ok(text) } else { Err("half of it".to_owned()) }
        };
        assert_eq!(*kept.get(load, unreadable).unwrap(), "whole");
        assert_eq!(reads.get(), 2);
    }
}
