//! Brings the index to where the journal is, or builds it anew. The journal is always right.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io,
    path::Path,
};

use bunraku_common::Chain;

use crate::{
    StoreError,
    disk::{Disk, make_private_dir, private_file},
    index::{Entry, FORMAT, Index},
    journal::Journal,
};

/// The index knew records that the journal does not have any more: the last batch was damaged, or the journal was
/// restored from a backup. (The index only ever learns of a record when it is durable.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The newest record that is known to have been durable.
    pub acknowledged: u64,
    /// The newest record that is there.
    pub kept: u64,
}

/// The index's directory.
const INDEX: &str = "index";
/// The last index that was found unusable, kept for whoever wants to know why.
const ASIDE: &str = "index.damaged";
/// Is there while the index is opened: an index whose opening kills the process is not opened a second time.
const OPENING: &str = "index.opening";

/// Why the index was built anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyRebuilt {
    Missing,
    /// The store's own words.
    Unreadable(String),
    /// The process ended while it opened the index.
    OpeningNeverEnded,
    OtherFormat,
    OtherJournal,
    /// It knew records that the journal does not have: see [`Lost`].
    Ahead,
    /// Its newest record is not the journal's record of that number.
    Disagrees,
}

impl fmt::Display for WhyRebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it was missing"),
            Self::Unreadable(why) => write!(f, "it could not be read: {why}"),
            Self::OpeningNeverEnded => f.write_str("the process ended while it was opened"),
            Self::OtherFormat => f.write_str("it was of another format"),
            Self::OtherJournal => f.write_str("it was of another journal"),
            Self::Ahead => f.write_str("it was ahead of the journal"),
            Self::Disagrees => f.write_str("it disagreed with the journal"),
        }
    }
}

/// What became of the index.
#[derive(Debug)]
pub(crate) struct Brought {
    /// None when none could be made; the journal then answers alone, only slower.
    pub(crate) index: Option<Index>,
    pub(crate) rebuilt: Option<WhyRebuilt>,
    pub(crate) lost: Option<Lost>,
}

/// Opens the index below `dir` and brings it to the journal's head.
pub(crate) fn bring_up<D: Disk>(dir: &Path, journal: &Journal<D>) -> Brought {
    let mut lost = None;
    let why = match usable(dir, journal, &mut lost) {
        Ok(index) => return Brought { index: Some(index), rebuilt: None, lost },
        Err(why) => why,
    };
    let built = set_aside(dir).and_then(|()| opening(dir, || build(dir, journal)));
    let index = built.map_err(|error| {
        tracing::error!(error = %Chain(&error), "no index can be made: the journal is searched without it");
    });
    // A new journal has had no index yet: nothing was rebuilt.
    let rebuilt = (why != WhyRebuilt::Missing || journal.head().sequence > 0).then_some(why);
    Brought { index: index.ok(), rebuilt, lost }
}

fn usable<D: Disk>(dir: &Path, journal: &Journal<D>, lost: &mut Option<Lost>) -> Result<Index, WhyRebuilt> {
    if !dir.join(INDEX).exists() {
        return Err(WhyRebuilt::Missing);
    }
    if dir.join(OPENING).exists() {
        return Err(WhyRebuilt::OpeningNeverEnded);
    }
    let unreadable = |error: StoreError| WhyRebuilt::Unreadable(Chain(&error).to_string());
    opening(dir, || {
        let index = Index::open(&dir.join(INDEX))?;
        let checked = checked(&index, journal, lost);
        let caught_up = match checked? {
            Ok(from) => fill(&index, journal, from),
            Err(why) => return Ok(Err(why)),
        };
        caught_up.map(|()| Ok(index))
    })
    .map_err(unreadable)?
}

/// Answers the sequence that the index has come to, when it can be trusted.
fn checked<D: Disk>(
    index: &Index,
    journal: &Journal<D>,
    lost: &mut Option<Lost>,
) -> Result<Result<u64, WhyRebuilt>, StoreError> {
    // No meta: a process made the directory, and ended before it indexed anything.
    let Some(meta) = index.meta()? else { return Ok(Ok(0)) };
    let head = journal.head();
    let why = if meta.format != FORMAT {
        WhyRebuilt::OtherFormat
    } else if meta.journal != journal.id() {
        WhyRebuilt::OtherJournal
    } else if meta.head.sequence > head.sequence {
        *lost = Some(Lost { acknowledged: meta.head.sequence, kept: head.sequence });
        WhyRebuilt::Ahead
    } else {
        let place = index.place(meta.head.sequence)?;
        let there = place.and_then(|place| journal.at(place)).map(|record| record.link());
        if there == Some(meta.head) {
            return Ok(Ok(meta.head.sequence));
        }
        WhyRebuilt::Disagrees
    };
    Ok(Err(why))
}

fn build<D: Disk>(dir: &Path, journal: &Journal<D>) -> Result<Index, StoreError> {
    let path = dir.join(INDEX);
    make_private_dir(&path).map_err(StoreError::io("make", &path))?;
    let index = Index::open(&path)?;
    fill(&index, journal, 0)?;
    index.sync()?;
    Ok(index)
}

fn fill<D: Disk>(index: &Index, journal: &Journal<D>, from: u64) -> Result<(), StoreError> {
    if from == journal.head().sequence {
        return Ok(());
    }
    journal.read_from(from + 1, |records| {
        let new = records.iter().filter(|(record, _)| record.sequence > from);
        let entries: Vec<Entry<'_>> = new
            .map(|(record, position)| Entry { link: record.link(), keys: &record.keys, position: *position })
            .collect();
        index.add(journal.id(), &entries)?;
        Ok(true)
    })
}

fn set_aside(dir: &Path) -> Result<(), StoreError> {
    let (index, aside) = (dir.join(INDEX), dir.join(ASIDE));
    if !index.exists() {
        return Ok(());
    }
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => fs::rename(&index, &aside),
    }
    .map_err(StoreError::io("set aside", index))
}

/// Does `what` with the mark set that says so.
fn opening<T>(dir: &Path, what: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let mark = dir.join(OPENING);
    let options: OpenOptions = private_file();
    options.open(&mark).map_err(StoreError::io("make", &mark))?;
    let done = what();
    fs::remove_file(&mark).map_err(StoreError::io("remove", &mark))?;
    done
}
