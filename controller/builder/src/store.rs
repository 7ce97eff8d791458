//! The controller's objects, and the one way to remove them.
//!
//! A snapshot is taken under the gate's shared side and a sweep runs under its exclusive side, so a sweep never sees
//! half a snapshot. From the end of a build until its snapshot is on record, a [`Pin`] keeps it.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
};

use bunraku_common::{
    Digest,
    objects::Objects,
    snapshot::{Node, TreeError, Trees},
};

/// Shared by builder, sweeper, and everyone who reads snapshots.
#[derive(Debug)]
pub struct ObjectStore {
    objects: Objects,
    stamp: PathBuf,
    gate: RwLock<()>,
    pins: Mutex<BTreeMap<Digest, usize>>,
}

/// What a sweep removed and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    pub removed: usize,
    pub removed_bytes: u64,
    pub kept: usize,
}

impl ObjectStore {
    pub fn open(root: &Path) -> io::Result<Arc<Self>> {
        let objects = Objects::open(root)?;
        Ok(Arc::new(Self {
            objects,
            stamp: root.join("removal-stamp"),
            gate: RwLock::new(()),
            pins: Mutex::new(BTreeMap::new()),
        }))
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Keeps a snapshot through sweeps for as long as the pin lives.
    pub fn pin(self: &Arc<Self>, digest: Digest) -> Pin {
        *self.pins.lock().unwrap_or_else(PoisonError::into_inner).entry(digest).or_default() += 1;
        Pin { store: Arc::clone(self), digest }
    }

    /// Held while objects are put, so that a sweep waits.
    pub(crate) fn putting(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes every object that neither `keep` nor a pinned snapshot needs. Blocks until snapshots under way are
    /// taken. Where a kept snapshot is incomplete, nothing is removed and the error names what is missing.
    ///
    /// Builds wait only while objects are renamed away; unlinking them takes a disk much longer. What a crash leaves
    /// lies in `tmp`, which is emptied when the store is opened.
    pub fn sweep(&self, keep: &[Digest]) -> io::Result<Swept> {
        let mut swept = Swept::default();
        let Some(trash) = self.set_aside(keep, &mut swept)? else { return Ok(swept) };
        for object in fs::read_dir(&trash)? {
            let object = object?;
            swept.removed_bytes += object.metadata().map_or(0, |meta| meta.len());
            fs::remove_file(object.path())?;
        }
        fs::remove_dir(&trash)?;
        Ok(swept)
    }

    /// The directory of what is not needed, or none where everything is.
    fn set_aside(&self, keep: &[Digest], swept: &mut Swept) -> io::Result<Option<PathBuf>> {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let pinned: Vec<Digest> =
            self.pins.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        let mut needed = HashSet::new();
        for root in keep.iter().chain(&pinned) {
            mark(&self.objects, root, &mut needed).map_err(io::Error::other)?;
        }
        let (kept, removed): (Vec<Digest>, Vec<Digest>) =
            self.objects.list()?.into_iter().partition(|digest| needed.contains(digest));
        (swept.kept, swept.removed) = (kept.len(), removed.len());
        if removed.is_empty() {
            return Ok(None);
        }
        self.renew_stamp()?;
        let (trash, _file) = self.objects.temporary()?;
        fs::remove_file(&trash)?;
        fs::create_dir(&trash)?;
        for digest in &removed {
            fs::rename(self.objects.path(digest), trash.join(digest.to_string()))?;
        }
        Ok(Some(trash))
    }

    /// Removes one object that was found damaged, so that the next build puts it again.
    pub fn discard_damaged(&self, digest: &Digest) -> io::Result<()> {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.renew_stamp()?;
        self.objects.remove(digest)
    }

    /// Changes before anything is removed. A stat cache that was written under this stamp may trust that every object
    /// it names is still here; under any other, it looks first.
    pub(crate) fn stamp(&self) -> io::Result<[u8; 16]> {
        match fs::read(&self.stamp).map(<[u8; 16]>::try_from) {
            Ok(Ok(stamp)) => Ok(stamp),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(Err(_)) | Err(_) => self.renew_stamp(),
        }
    }

    fn renew_stamp(&self) -> io::Result<[u8; 16]> {
        let mut stamp = [0; 16];
        getrandom::fill(&mut stamp).map_err(io::Error::other)?;
        let (temporary, mut file) = self.objects.temporary()?;
        io::Write::write_all(&mut file, &stamp)?;
        // On disk first: an old stamp after a power loss would vouch for objects that are gone.
        file.sync_all()?;
        fs::rename(temporary, &self.stamp)?;
        fs::File::open(self.stamp.parent().expect("the stamp lies in the store's root"))?.sync_all()?;
        Ok(stamp)
    }
}

impl Trees for ObjectStore {
    fn tree(&self, digest: &Digest) -> Result<bunraku_common::snapshot::Tree, TreeError> {
        self.objects.tree(digest)
    }
}

fn mark(objects: &Objects, tree: &Digest, needed: &mut HashSet<Digest>) -> Result<(), TreeError> {
    if !needed.insert(*tree) {
        return Ok(());
    }
    for entry in objects.tree(tree)?.entries() {
        match &entry.node {
            Node::Directory { digest } => mark(objects, digest, needed)?,
            Node::File { digest, .. } => {
                needed.insert(*digest);
            }
            Node::Link { .. } => {}
        }
    }
    Ok(())
}

/// Keeps one snapshot in the store. Dropped once the snapshot is on record elsewhere, or not wanted.
#[derive(Debug)]
pub struct Pin {
    store: Arc<ObjectStore>,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.store.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bunraku_common::snapshot::{Entry, Tree};

    use super::*;

    fn snapshot(store: &ObjectStore, content: &[u8]) -> (Digest, Digest) {
        let blob = store.objects().put_blob(content).unwrap();
        let node = Node::File { digest: blob, size: content.len() as u64, executable: false };
        let inner = Tree::new(vec![Entry { name: "f".into(), node }]).unwrap();
        let digest = store.objects().put_tree(&inner).unwrap();
        let outer = Tree::new(vec![Entry { name: "d".into(), node: Node::Directory { digest } }]).unwrap();
        (store.objects().put_tree(&outer).unwrap(), blob)
    }

    #[test]
    fn a_sweep_removes_what_no_kept_snapshot_needs() {
        let dir = tempfile::tempdir().unwrap();
        let store = ObjectStore::open(dir.path()).unwrap();
        let ((kept, kept_blob), (gone, gone_blob)) = (snapshot(&store, b"a"), snapshot(&store, b"b"));
        let before = store.stamp().unwrap();
        let swept = store.sweep(&[kept]).unwrap();
        assert_eq!((swept.removed, swept.kept), (3, 3));
        assert!(store.objects().has(&kept) && store.objects().has(&kept_blob));
        assert!(!store.objects().has(&gone) && !store.objects().has(&gone_blob));
        assert_ne!(store.stamp().unwrap(), before);
        let after = store.stamp().unwrap();
        assert_eq!(store.sweep(&[kept]).unwrap().removed, 0);
        assert_eq!(
            store.stamp().unwrap(),
            after,
            "a sweep that removes nothing costs the stat caches nothing"
        );
    }

    #[test]
    fn a_pinned_snapshot_survives_until_its_pin_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let store = ObjectStore::open(dir.path()).unwrap();
        let (digest, _) = snapshot(&store, b"a");
        let (one, two) = (store.pin(digest), store.pin(digest));
        drop(one);
        assert_eq!(store.sweep(&[]).unwrap().removed, 0);
        drop(two);
        assert_eq!(store.sweep(&[]).unwrap().removed, 3);
    }

    #[test]
    fn nothing_is_removed_when_a_kept_snapshot_is_incomplete() {
        let dir = tempfile::tempdir().unwrap();
        let store = ObjectStore::open(dir.path()).unwrap();
        snapshot(&store, b"a");
        assert!(store.sweep(&[Digest::of(b"unknown")]).is_err());
        assert_eq!(store.objects().list().unwrap().len(), 3);
    }

    #[test]
    fn a_sweep_waits_for_a_snapshot_that_is_being_taken() {
        let dir = tempfile::tempdir().unwrap();
        let store = ObjectStore::open(dir.path()).unwrap();
        let putting = store.putting();
        snapshot(&store, b"a");
        let sweeper = std::thread::spawn({
            let store = Arc::clone(&store);
            move || store.sweep(&[]).unwrap()
        });
        assert_eq!(store.objects().list().unwrap().len(), 3);
        drop(putting);
        assert_eq!(sweeper.join().unwrap().removed, 3);
    }
}
