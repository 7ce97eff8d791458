//! A store that lives as long as its process: for tests of what stands on a store.

use crate::{
    JournalId, Keep, Kept, Link, NewRecord, Record, Recovered, Store, StoreError, Verification, Verified,
    segment::SEGMENT_RECORDS,
};

/// Behaves as [`crate::LocalStore`] does, and forgets everything when it is dropped.
#[derive(Debug)]
pub struct MemoryStore {
    id: JournalId,
    records: Vec<Record>,
    /// The state, and how many records it covers.
    checkpoint: Option<(Vec<u8>, usize)>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self { id: JournalId(0), records: Vec::new(), checkpoint: None }
    }

    /// What a process that is started over would go on from.
    pub fn recovered(&self) -> Recovered {
        let records = self.records[self.covered()..].to_vec();
        let checkpoint = self.checkpoint.as_ref().map(|(state, _)| state.clone());
        Recovered { checkpoint, records, ..Recovered::default() }
    }

    fn covered(&self) -> usize {
        self.checkpoint.as_ref().map_or(0, |(_, covered)| *covered)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn append(&mut self, records: Vec<NewRecord>) -> Result<Vec<Link>, StoreError> {
        let (mut head, mut batch) = (self.head(), Vec::with_capacity(records.len()));
        for new in records {
            let record = Record::chained(head, new)?;
            head = record.link();
            batch.push(record);
        }
        let links = batch.iter().map(Record::link).collect();
        self.records.append(&mut batch);
        Ok(links)
    }

    fn checkpoint(&mut self, state: &[u8]) -> Result<(), StoreError> {
        if self.covered() < self.records.len() {
            self.checkpoint = Some((state.to_vec(), self.records.len()));
        }
        Ok(())
    }

    fn wants_checkpoint(&self) -> bool {
        (self.records.len() - self.covered()) as u64 >= SEGMENT_RECORDS
    }

    /// There are no segments to remove.
    fn prune(&mut self, _keep: Keep) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn after(&self, sequence: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        Ok(self.records.iter().filter(|record| record.sequence > sequence).take(limit).cloned().collect())
    }

    fn find(&self, key: &str, limit: usize) -> Result<Vec<Record>, StoreError> {
        let carries = |record: &&Record| record.keys.iter().any(|own| own == key);
        Ok(self.records.iter().rev().filter(carries).take(limit).cloned().collect())
    }

    fn head(&self) -> Link {
        self.records.last().map_or(self.id.genesis(), Record::link)
    }

    fn verification(&self) -> Verification {
        let records = self.records.len() as u64;
        Verification(Kept::InMemory(Verified { records, segments: 1, pruned: 0, head: self.head() }))
    }

    fn journal_id(&self) -> JournalId {
        self.id
    }
}
