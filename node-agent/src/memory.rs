//! What the node must not forget: the highest term, the newest order of each subject, and what it still owes.
//!
//! Written and synced before an order takes effect, so that after a crash no older order is obeyed (I5) and nothing
//! that is owed is lost. One small file; a node has some tens of environments.
//!
//! It belongs to one fleet: terms and generations of another controller's CA mean nothing here. Of another fleet, it is
//! set aside, whole.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use bunraku_common::{Digest, EnvironmentName, Fence, Term, whole};
use serde::{Deserialize, Serialize};

/// The node's durable memory.
#[derive(Debug)]
pub(crate) struct Memory {
    path: PathBuf,
    kept: Kept,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// The pin of the mesh CA whose controllers gave what is remembered.
    #[serde(default)]
    fleet: Option<Digest>,
    highest_term: Option<Term>,
    environments: BTreeMap<EnvironmentName, Subject>,
    /// The newest order of each subject that is no environment, such as `server c1.example`.
    #[serde(default)]
    subjects: BTreeMap<String, Fence>,
}

/// What is remembered of one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subject {
    /// The newest order seen.
    pub fence: Fence,
    /// The snapshot that was committed and is not yet proven loaded.
    pub owed: Option<Digest>,
    /// The snapshot that Puppet Server was last seen to have loaded.
    pub proven: Option<Digest>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} is damaged: {reason}\nhint: move it away; the next order of a controller in command makes a new one"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("could not set the memory of another fleet aside as {path}")]
    SetAside {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not write {path}{}", in_need_of_room(source, path))]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why an order was not obeyed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this node has seen {highest}, the order carries {offered}")]
    Term { highest: Term, offered: Term },
    #[error("this node has seen {seen} for {subject}, the order carries {offered}")]
    Generation { subject: String, seen: String, offered: String },
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl Memory {
    pub(crate) fn open(path: &Path) -> Result<Self, MemoryError> {
        let kept = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| MemoryError::Damaged { path: path.into(), reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(source) => return Err(MemoryError::Read { path: path.into(), source }),
        };
        Ok(Self { path: path.into(), kept })
    }

    /// From now on only what controllers of this fleet (the pin of its CA) say counts. What is remembered of another
    /// fleet is kept under the name that is given back, and no longer used: its terms would lock this one out.
    pub(crate) fn belong_to(&mut self, fleet: Digest) -> Result<Option<PathBuf>, MemoryError> {
        let aside = match self.kept.fleet {
            Some(known) if known == fleet => return Ok(None),
            Some(other) => Some(self.set_aside(other)?),
            None => None,
        };
        let fresh = Kept { fleet: Some(fleet), ..Kept::default() };
        self.keep(|kept| match aside {
            Some(_) => *kept = fresh,
            None => kept.fleet = Some(fleet),
        })?;
        Ok(aside)
    }

    /// The pin of the fleet whose controllers are obeyed.
    pub(crate) fn fleet(&self) -> Option<Digest> {
        self.kept.fleet
    }

    /// Whether what controllers of this fleet say counts.
    pub(crate) fn belongs_to(&self, fleet: &Digest) -> bool {
        self.kept.fleet.as_ref() == Some(fleet)
    }

    /// A second name for the file: it loses the first when the new one is on disk.
    fn set_aside(&self, other: Digest) -> Result<PathBuf, MemoryError> {
        for number in 1_u32.. {
            let path =
                self.path.with_file_name(format!("memory-of-other-fleet-{}-{number}.json", other.short()));
            match fs::hard_link(&self.path, &path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(MemoryError::SetAside { path, source }),
            }
        }
        Err(MemoryError::SetAside { path: self.path.clone(), source: io::ErrorKind::AlreadyExists.into() })
    }

    pub(crate) fn highest_term(&self) -> Option<Term> {
        self.kept.highest_term
    }

    pub(crate) fn subject(&self, environment: &EnvironmentName) -> Option<&Subject> {
        self.kept.environments.get(environment)
    }

    /// Environments whose newest commit is not yet proven.
    pub(crate) fn owed(&self) -> Vec<(EnvironmentName, Digest)> {
        self.kept
            .environments
            .iter()
            .filter_map(|(name, subject)| Some((name.clone(), subject.owed?)))
            .collect()
    }

    /// Accepts a controller's term, or says why not.
    pub(crate) fn meet(&mut self, term: Term) -> Result<(), Refused> {
        match self.kept.highest_term {
            Some(highest) if !highest.yields_to(&term) => Err(Refused::Term { highest, offered: term }),
            Some(highest) if highest == term => Ok(()),
            Some(_) | None => Ok(self.keep(|kept| kept.highest_term = Some(term))?),
        }
    }

    /// Admits an order of this environment, and remembers that it was seen.
    pub(crate) fn admit(&mut self, environment: &EnvironmentName, fence: Fence) -> Result<(), Refused> {
        self.meet(fence.term)?;
        let seen = self.kept.environments.get(environment).map(|subject| subject.fence);
        match seen {
            Some(seen) if seen == fence => Ok(()),
            Some(seen) if !seen.admits(&fence) => Err(older(environment, seen, fence)),
            Some(_) => Ok(self.change(environment, fence, |subject| subject.fence = fence)?),
            None => Ok(self.change(environment, fence, |_| ())?),
        }
    }

    /// The same for a subject that is no environment. Callers know it: a node has few.
    pub(crate) fn admit_about(&mut self, subject: &str, fence: Fence) -> Result<(), Refused> {
        self.meet(fence.term)?;
        match self.kept.subjects.get(subject) {
            Some(seen) if *seen == fence => Ok(()),
            Some(seen) if !seen.admits(&fence) => Err(older(subject, *seen, fence)),
            Some(_) | None => Ok(self.keep(|kept| {
                kept.subjects.insert(subject.to_owned(), fence);
            })?),
        }
    }

    /// Whether no newer order about this subject was admitted since.
    pub(crate) fn is_newest_about(&self, subject: &str, fence: Fence) -> bool {
        self.kept.subjects.get(subject) == Some(&fence)
    }

    /// Whether no newer order of this environment was admitted since the one with this fence. Asked again right
    /// before an order takes effect, because it may have waited.
    pub(crate) fn is_newest(&self, environment: &EnvironmentName, fence: Fence) -> bool {
        self.subject(environment).is_some_and(|subject| subject.fence == fence)
    }

    /// A commit is about to change the live link: until it is proven, flush and proof are owed. False, and nothing
    /// remembered, when a newer order has come meanwhile.
    pub(crate) fn owe(
        &mut self,
        environment: &EnvironmentName,
        fence: Fence,
        snapshot: Digest,
    ) -> Result<bool, MemoryError> {
        let Some(subject) = self.subject(environment).filter(|subject| subject.fence == fence) else {
            return Ok(false);
        };
        if subject.owed != Some(snapshot) {
            self.change(environment, fence, |subject| {
                subject.owed = Some(snapshot);
                subject.proven = None;
            })?;
        }
        Ok(true)
    }

    /// Puppet Server was seen to have loaded this snapshot, by an order with this fence. False when that pays no debt:
    /// a newer order has come meanwhile, and what it owes stays owed.
    pub(crate) fn proven(
        &mut self,
        environment: &EnvironmentName,
        fence: Fence,
        snapshot: Digest,
    ) -> Result<bool, MemoryError> {
        let Some(subject) = self.subject(environment) else { return Ok(false) };
        if subject.owed.is_none() && subject.proven == Some(snapshot) {
            return Ok(true);
        }
        if subject.fence != fence || subject.owed != Some(snapshot) {
            return Ok(false);
        }
        self.change(environment, fence, |subject| {
            subject.owed = None;
            subject.proven = Some(snapshot);
        })?;
        Ok(true)
    }

    fn change(
        &mut self,
        environment: &EnvironmentName,
        fence: Fence,
        change: impl FnOnce(&mut Subject),
    ) -> Result<(), MemoryError> {
        self.keep(|kept| {
            let fresh = || Subject { fence, owed: None, proven: None };
            change(kept.environments.entry(environment.clone()).or_insert_with(fresh));
        })
    }

    /// Saves first; what is in memory changes only when the disk has it.
    fn keep(&mut self, change: impl FnOnce(&mut Kept)) -> Result<(), MemoryError> {
        let mut kept = self.kept.clone();
        change(&mut kept);
        save(&self.path, &kept).map_err(|source| MemoryError::Write { path: self.path.clone(), source })?;
        self.kept = kept;
        Ok(())
    }
}

fn older(subject: impl std::fmt::Display, seen: Fence, offered: Fence) -> Refused {
    Refused::Generation {
        subject: subject.to_string(),
        seen: format!("{} of {}", seen.generation, seen.term),
        offered: format!("{} of {}", offered.generation, offered.term),
    }
}

fn in_need_of_room(error: &io::Error, path: &Path) -> String {
    let at = path.parent().unwrap_or(path).display();
    if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return String::new();
    }
    format!("\nhint: free space or inodes on its file system: `df -h {at}; df -i {at}`")
}

fn save(path: &Path, kept: &Kept) -> io::Result<()> {
    whole::replace_past(path, &serde_json::to_vec(kept)?, "memory-written")
}

#[cfg(test)]
mod tests {
    use bunraku_common::Generation;

    use super::*;

    fn fence(number: u64, generation: u64) -> Fence {
        Fence { term: Term { number, id: 7 }, generation: Generation(generation) }
    }

    fn production() -> EnvironmentName {
        EnvironmentName::parse("production").unwrap()
    }

    #[test]
    fn i5_an_older_order_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.json");
        Memory::open(&path).unwrap().admit(&production(), fence(2, 5)).unwrap();
        let mut again = Memory::open(&path).unwrap();
        assert!(matches!(again.admit(&production(), fence(2, 4)), Err(Refused::Generation { .. })));
        assert!(matches!(again.admit(&production(), fence(1, 9)), Err(Refused::Term { .. })));
        again.admit(&production(), fence(2, 5)).unwrap();
        again.admit(&production(), fence(3, 1)).unwrap();
    }

    #[test]
    fn the_memory_of_another_fleet_is_set_aside_and_does_not_lock_this_one_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.json");
        let (one, other) = (Digest::of(b"one CA"), Digest::of(b"another CA"));
        let mut memory = Memory::open(&path).unwrap();
        assert_eq!(memory.belong_to(one).unwrap(), None);
        memory.admit(&production(), fence(u64::MAX, 9)).unwrap();
        memory.owe(&production(), fence(u64::MAX, 9), Digest::of(b"x")).unwrap();
        let before = fs::read(&path).unwrap();

        let mut again = Memory::open(&path).unwrap();
        assert_eq!(again.belong_to(one).unwrap(), None);
        assert!(again.admit(&production(), fence(5, 1)).is_err(), "the same CA: nothing is forgotten");
        assert!(again.belongs_to(&one) && !again.belongs_to(&other));

        let aside = again.belong_to(other).unwrap().unwrap();
        assert_eq!(fs::read(&aside).unwrap(), before);
        let name = aside.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, format!("memory-of-other-fleet-{}-1.json", one.short()));
        let mut fresh = Memory::open(&path).unwrap();
        assert_eq!((fresh.highest_term(), fresh.owed()), (None, vec![]));
        assert!(fresh.belongs_to(&other));
        fresh.admit(&production(), fence(1, 1)).unwrap();
        // There and back again: each memory keeps a file of its own.
        fresh.belong_to(one).unwrap();
        assert_ne!(fresh.belong_to(other).unwrap(), Some(aside));
    }

    #[test]
    fn a_memory_that_names_no_fleet_yet_belongs_to_the_first_and_keeps_what_it_knows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.json");
        Memory::open(&path).unwrap().admit(&production(), fence(3, 1)).unwrap();
        let text = fs::read_to_string(&path).unwrap().replace("\"fleet\":null,", "");
        fs::write(&path, text).unwrap();
        let mut memory = Memory::open(&path).unwrap();
        assert_eq!(memory.belong_to(Digest::of(b"one CA")).unwrap(), None);
        assert!(Memory::open(&path).unwrap().admit(&production(), fence(2, 1)).is_err());
    }

    #[test]
    fn i5_orders_about_servers_are_fenced_by_subject_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.json");
        let mut memory = Memory::open(&path).unwrap();
        memory.admit(&production(), fence(2, 9)).unwrap();
        memory.admit_about("server c1", fence(2, 5)).unwrap();
        let mut again = Memory::open(&path).unwrap();
        assert!(matches!(again.admit_about("server c1", fence(2, 4)), Err(Refused::Generation { .. })));
        assert!(matches!(again.admit_about("server c1", fence(1, 9)), Err(Refused::Term { .. })));
        again.admit_about("server c2", fence(2, 1)).unwrap();
        again.admit_about("server c1", fence(2, 6)).unwrap();
        assert!(!again.is_newest_about("server c1", fence(2, 5)));
    }

    #[test]
    fn environments_are_fenced_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(&dir.path().join("memory.json")).unwrap();
        memory.admit(&production(), fence(2, 5)).unwrap();
        memory.admit(&EnvironmentName::parse("testing").unwrap(), fence(2, 1)).unwrap();
    }

    #[test]
    fn what_is_owed_is_owed_until_it_is_proven() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.json");
        let snapshot = Digest::of(b"x");
        let mut memory = Memory::open(&path).unwrap();
        memory.admit(&production(), fence(1, 1)).unwrap();
        memory.owe(&production(), fence(1, 1), snapshot).unwrap();
        let mut again = Memory::open(&path).unwrap();
        assert_eq!(again.owed(), [(production(), snapshot)]);
        assert!(again.proven(&production(), fence(1, 1), snapshot).unwrap());
        assert_eq!(Memory::open(&path).unwrap().owed(), []);
    }

    #[test]
    fn a_late_proof_of_older_code_does_not_pay_the_newer_debt() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(&dir.path().join("memory.json")).unwrap();
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        memory.admit(&production(), fence(1, 1)).unwrap();
        assert!(memory.owe(&production(), fence(1, 1), old).unwrap());
        memory.admit(&production(), fence(1, 2)).unwrap();
        assert!(memory.owe(&production(), fence(1, 2), new).unwrap());
        assert!(!memory.proven(&production(), fence(1, 1), old).unwrap());
        assert_eq!(memory.owed(), [(production(), new)]);
    }

    #[test]
    fn i5_a_commit_that_was_overtaken_owes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(&dir.path().join("memory.json")).unwrap();
        memory.admit(&production(), fence(1, 1)).unwrap();
        memory.admit(&production(), fence(1, 2)).unwrap();
        assert!(!memory.owe(&production(), fence(1, 1), Digest::of(b"old")).unwrap());
        assert_eq!(memory.owed(), []);
    }

    #[test]
    fn a_damaged_memory_is_named_and_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.json");
        fs::write(&path, "{").unwrap();
        let error = Memory::open(&path).unwrap_err().to_string();
        assert!(error.contains("memory.json is damaged") && error.contains("hint:"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"{");
    }
}
