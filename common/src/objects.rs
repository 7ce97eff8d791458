//! Objects (files and encoded directories) as files named by their digest: `ab/ab34…`.
//!
//! Objects are verified whenever they are read, so none needs its own fsync: a torn one after a power loss is missing.
//! Whoever records that a snapshot is complete calls `sync` first.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    Digest, limits,
    snapshot::{Tree, TreeError, Trees},
};

/// A directory of objects. Cheap to share; several threads may write at once.
#[derive(Debug)]
pub struct Objects {
    root: PathBuf,
    next: AtomicU64,
}

impl Objects {
    /// Opens or makes the directory and removes what an earlier process left half written.
    pub fn open(root: &Path) -> io::Result<Self> {
        let tmp = root.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => fs::create_dir_all(&tmp)?,
        }
        Ok(Self { root: root.into(), next: AtomicU64::new(0) })
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.root.join(&hex[..2]).join(hex)
    }

    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    pub fn put_tree(&self, tree: &Tree) -> io::Result<Digest> {
        let encoded = tree.encode();
        let digest = Tree::digest_of(&encoded);
        self.put(&digest, &encoded)?;
        Ok(digest)
    }

    pub fn put_blob(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        self.put(&digest, bytes)?;
        Ok(digest)
    }

    fn put(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        // A power loss can leave an object that was never synced empty or short: it does not count.
        if fs::metadata(self.path(digest)).is_ok_and(|meta| meta.len() == bytes.len() as u64) {
            return Ok(());
        }
        let (temporary, mut file) = self.temporary()?;
        let written = file.write_all(bytes).and_then(|()| self.keep(&temporary, digest));
        if written.is_err() {
            let _best_effort = fs::remove_file(&temporary);
        }
        written
    }

    /// A new file to write an object into; `keep` gives it its name once its digest is known.
    pub fn temporary(&self) -> io::Result<(PathBuf, File)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("tmp").join(number.to_string());
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok((path, file))
    }

    pub fn keep(&self, temporary: &Path, digest: &Digest) -> io::Result<()> {
        let path = self.path(digest);
        match fs::rename(temporary, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().expect("an object's path has a parent"))?;
                fs::rename(temporary, &path)
            }
            done => done,
        }
    }

    /// The object's bytes and length; not verified (the reader of a pack verifies).
    pub fn open_object(&self, digest: &Digest) -> io::Result<(File, u64)> {
        let file = File::open(self.path(digest))?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    pub fn remove(&self, digest: &Digest) -> io::Result<()> {
        fs::remove_file(self.path(digest))
    }

    /// Every object here, in no order. Names that are no digest are passed over.
    pub fn list(&self) -> io::Result<Vec<Digest>> {
        let mut found = Vec::new();
        for shard in fs::read_dir(&self.root)? {
            let shard = shard?;
            if !shard.file_type()?.is_dir() || shard.file_name() == "tmp" {
                continue;
            }
            for object in fs::read_dir(shard.path())? {
                if let Some(Ok(digest)) = object?.file_name().to_str().map(str::parse) {
                    found.push(digest);
                }
            }
        }
        Ok(found)
    }

    /// Everything put so far is on disk when this returns.
    pub fn sync(&self) -> io::Result<()> {
        let root = File::open(&self.root)?;
        rustix::fs::syncfs(&root).map_err(io::Error::from)
    }
}

impl Trees for Objects {
    fn tree(&self, digest: &Digest) -> Result<Tree, TreeError> {
        let io = |source: io::Error| {
            let missing = source.kind() == io::ErrorKind::NotFound;
            if missing { TreeError::Missing(*digest) } else { TreeError::Io { digest: *digest, source } }
        };
        let damaged = |reason: &str| TreeError::Damaged { digest: *digest, reason: reason.to_owned() };
        let (file, length) = self.open_object(digest).map_err(io)?;
        if length > limits::TREE_BYTES {
            return Err(damaged("it is too large for a directory"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        file.take(limits::TREE_BYTES).read_to_end(&mut bytes).map_err(io)?;
        if Tree::digest_of(&bytes) != *digest {
            return Err(damaged("its bytes do not have this digest"));
        }
        Tree::decode(&bytes).map_err(|error| damaged(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Entry, Node};

    fn sample() -> Tree {
        let node = Node::File { digest: Digest::of(b"x"), size: 1, executable: true };
        Tree::new(vec![Entry { name: "run.sh".into(), node }]).unwrap()
    }

    #[test]
    fn an_object_is_found_again_by_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let digest = objects.put_tree(&sample()).unwrap();
        assert_eq!(objects.tree(&digest).unwrap(), sample());
        assert_eq!(objects.list().unwrap(), [digest]);
    }

    #[test]
    fn a_flipped_bit_on_disk_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let digest = objects.put_tree(&sample()).unwrap();
        let mut bytes = fs::read(objects.path(&digest)).unwrap();
        bytes[5] ^= 1;
        fs::write(objects.path(&digest), bytes).unwrap();
        assert!(matches!(objects.tree(&digest), Err(TreeError::Damaged { .. })));
    }

    #[test]
    fn an_object_that_a_power_loss_cut_short_is_put_again() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let digest = objects.put_tree(&sample()).unwrap();
        fs::write(objects.path(&digest), b"").unwrap();
        objects.put_tree(&sample()).unwrap();
        assert_eq!(objects.tree(&digest).unwrap(), sample());
    }

    #[test]
    fn half_written_objects_of_an_earlier_process_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let (left, _file) = objects.temporary().unwrap();
        Objects::open(dir.path()).unwrap();
        assert!(!left.exists());
    }
}
