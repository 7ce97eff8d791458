//! The store on this host's own disk: the journal, the index over it, and a lock that keeps a second process out.
//!
//! ```text
//! lock        held as long as the store is open
//! journal/    segments: the truth
//! index/      sled: what may be lost
//! ```

use std::path::{Path, PathBuf};

use bunraku_common::{Alone, Chain};

use crate::{
    JournalId, Keep, Kept, Link, Lost, NewRecord, Record, Store, StoreError, Verification, WhyRebuilt,
    catch_up::{Brought, bring_up},
    disk::{OsDisk, make_private_dir, private_file},
    index::{Entry, Index},
    journal::Journal,
};

#[derive(Debug)]
pub struct LocalStore {
    /// None after an error: the journal then answers alone. The next start brings the index back.
    index: Option<Index>,
    journal: Journal<OsDisk>,
    /// Released last.
    _lock: Alone,
}

/// What a start goes on from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The newest checkpoint; None before the first one.
    pub checkpoint: Option<Vec<u8>>,
    /// Every record after it, oldest first.
    pub records: Vec<Record>,
    /// Bytes at the end that were no whole batch, and were cut off: what a power loss left of a batch that was never
    /// acknowledged. A damaged last batch looks the same; see `lost`. They are kept in a file `….seg.cut`.
    pub cut_bytes: u64,
    /// Acknowledged records are gone. To be reported loudly: orders that they stood for may have been carried out.
    pub lost: Option<Lost>,
    pub rebuilt_index: Option<WhyRebuilt>,
}

impl LocalStore {
    /// Opens the store in `dir`, and makes it (mode 0700) when it is missing; the directory above must exist.
    ///
    /// Every segment is read and checked: a journal with damage in the middle does not open.
    pub fn open(dir: &Path) -> Result<(Self, Recovered), StoreError> {
        make_private_dir(dir).map_err(StoreError::io("make", dir))?;
        let lock = lock(dir)?;
        let path = dir.join("journal");
        let disk = OsDisk::open(&path).map_err(StoreError::io("open", path))?;
        let (journal, opened) = Journal::open(disk)?;
        if opened.cut_bytes > 0 {
            let (bytes, head) = (opened.cut_bytes, journal.head().sequence);
            tracing::warn!(bytes, head, "an unfinished batch was cut off the end of the journal");
        }
        let Brought { index, rebuilt, lost } = bring_up(dir, &journal);
        if let Some(Lost { acknowledged, kept }) = lost {
            tracing::error!(acknowledged, kept, "the journal has lost acknowledged records");
        }
        if let Some(why) = &rebuilt {
            tracing::warn!(%why, "the index was built anew");
        }
        let recovered = Recovered {
            checkpoint: opened.checkpoint,
            records: opened.records,
            cut_bytes: opened.cut_bytes,
            lost,
            rebuilt_index: rebuilt,
        };
        Ok((Self { index, journal, _lock: lock }, recovered))
    }

    fn index_failed(&mut self, error: &StoreError) {
        tracing::error!(error = %Chain(error), "the index is left behind: the journal is searched without it");
        self.index = None;
    }

    /// None when the index cannot be trusted.
    fn find_indexed(&self, key: &str, limit: usize) -> Option<Vec<Record>> {
        let index = self.index.as_ref()?;
        let sequences = trusted(index.newest(key, limit))?;
        let found = sequences.into_iter().map(|sequence| self.indexed(index, sequence));
        found.map(|record| record.filter(|record| record.keys.iter().any(|own| own == key))).collect()
    }

    fn after_indexed(&self, sequence: u64, limit: usize) -> Option<Vec<Record>> {
        let index = self.index.as_ref()?;
        let first = (sequence.saturating_add(1)).max(self.journal.oldest());
        (first..=self.journal.head().sequence)
            .take(limit)
            .map(|sequence| self.indexed(index, sequence))
            .collect()
    }

    fn indexed(&self, index: &Index, sequence: u64) -> Option<Record> {
        let place = trusted(index.place(sequence))??;
        self.journal.at(place).filter(|record| record.sequence == sequence)
    }
}

impl Store for LocalStore {
    fn append(&mut self, records: Vec<NewRecord>) -> Result<Vec<Link>, StoreError> {
        let placed = self.journal.append(&records)?;
        if let Some(index) = &self.index {
            let entries: Vec<Entry<'_>> = records
                .iter()
                .zip(&placed)
                .map(|(record, &(link, position))| Entry { link, keys: &record.keys, position })
                .collect();
            // The batch is durable: whatever the index says, it is acknowledged.
            if let Err(error) = index.add(self.journal.id(), &entries) {
                self.index_failed(&error);
            }
        }
        Ok(placed.into_iter().map(|(link, _)| link).collect())
    }

    fn checkpoint(&mut self, state: &[u8]) -> Result<(), StoreError> {
        self.journal.rotate(state)?;
        if let Some(Err(error)) = self.index.as_ref().map(Index::sync) {
            self.index_failed(&error);
        }
        Ok(())
    }

    fn wants_checkpoint(&self) -> bool {
        self.journal.should_rotate()
    }

    fn prune(&mut self, keep: Keep) -> Result<u64, StoreError> {
        let mut freed = 0;
        while let Some(records) = self.journal.superfluous(keep)? {
            if let Some(index) = &self.index {
                // Before the records go, so that a kill in between leaves nothing in the index for ever.
                let gone = records.iter().map(|record| (record.sequence, record.keys.as_slice()));
                if let Err(error) = index.forget(gone) {
                    self.index_failed(&error);
                }
            }
            freed += self.journal.remove_oldest()?;
        }
        Ok(freed)
    }

    fn after(&self, sequence: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        if let Some(found) = self.after_indexed(sequence, limit) {
            return Ok(found);
        }
        let mut found = Vec::new();
        self.journal.read_from(sequence.saturating_add(1), |records| {
            let wanted =
                records.into_iter().map(|(record, _)| record).filter(|record| record.sequence > sequence);
            found.extend(wanted.take(limit - found.len()));
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    fn find(&self, key: &str, limit: usize) -> Result<Vec<Record>, StoreError> {
        if let Some(found) = self.find_indexed(key, limit) {
            return Ok(found);
        }
        let mut found = Vec::new();
        self.journal.read_back(|records| {
            let newest_first = records.into_iter().rev().map(|(record, _)| record);
            let wanted = newest_first.filter(|record| record.keys.iter().any(|own| own == key));
            found.extend(wanted.take(limit - found.len()));
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    fn head(&self) -> Link {
        self.journal.head()
    }

    fn verification(&self) -> Verification {
        Verification(Kept::OnDisk(self.journal.kept()))
    }

    fn journal_id(&self) -> JournalId {
        self.journal.id()
    }
}

impl Drop for LocalStore {
    /// An index that is on disk in full notices at the next start when the journal has lost its end.
    fn drop(&mut self) {
        if let Some(Err(error)) = self.index.as_ref().map(Index::sync) {
            tracing::warn!(error = %Chain(&error), "the index could not be put on disk");
        }
    }
}

fn lock(dir: &Path) -> Result<Alone, StoreError> {
    let path: PathBuf = dir.join("lock");
    let file = private_file().open(&path).map_err(StoreError::io("open", &path))?;
    let taken = Alone::try_take(file).map_err(StoreError::io("lock", path))?;
    taken.ok_or_else(|| StoreError::InUse { path: dir.into() })
}

fn trusted<T>(answer: Result<T, StoreError>) -> Option<T> {
    answer.map_err(|error| tracing::warn!(error = %Chain(&error), "the index cannot be asked")).ok()
}
