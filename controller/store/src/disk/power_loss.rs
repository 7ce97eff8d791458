//! A disk in memory that loses power: of what was not synced, any part may survive.
//!
//! Writes survive by sectors (or bytes), each independently of the others, and so do a file's new length and each
//! change of a name. A failed sync behaves as Linux does: what it should have written stays visible, is never written,
//! and the next sync succeeds.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use super::Disk;

/// Cheap to clone: the clones are one disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct PowerLossDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    renamed: Vec<NameChange>,
    /// Changes and syncs so far, and the one during which the power goes.
    operations: usize,
    dies_at: Option<usize>,
    fails_sync: bool,
    /// Bytes that may still be reserved; None: any number.
    room: Option<u64>,
}

#[derive(Debug, Default, Clone)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    reserved: u64,
    written: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length { least: usize },
    Truncate { length: usize },
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(String, usize),
    Move(String, String, usize),
    Remove(String),
}

impl PowerLossDisk {
    /// The power goes during the operation of this number, counted from now.
    pub(crate) fn dies_at(self, operation: usize) -> Self {
        {
            let mut state = self.state();
            state.operations = 0;
            state.dies_at = Some(operation);
        }
        self
    }

    pub(crate) fn died(&self) -> bool {
        let state = self.state();
        state.dies_at.is_some_and(|at| state.operations > at)
    }

    /// The next sync of a file fails.
    pub(crate) fn fail_next_sync(&self) {
        self.state().fails_sync = true;
    }

    /// From now on only so many bytes can be reserved; None: any number.
    pub(crate) fn set_room(&self, room: Option<u64>) {
        self.state().room = room;
    }

    pub(crate) fn flip_bit(&self, name: &str, bit: usize) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = &mut state.inodes[inode];
        inode.seen[bit / 8] ^= 1 << (bit % 8);
        inode.durable[bit / 8] ^= 1 << (bit % 8);
    }

    /// How many pieces of written data, of at most `sector` bytes, and how many changes of names are not durable.
    pub(crate) fn undecided(&self, sector: usize) -> (usize, usize) {
        let state = self.state();
        let pieces =
            state.inodes.iter().flat_map(|inode| &inode.written).map(|change| change.pieces(sector).len());
        (pieces.sum(), state.renamed.len())
    }

    /// The disk after the power is back, when of what was undecided exactly the named pieces and names survived.
    pub(crate) fn after_power_loss(
        &self,
        sector: usize,
        piece_survives: impl Fn(usize) -> bool,
        name_survives: impl Fn(usize) -> bool,
    ) -> Self {
        let state = self.state();
        let mut number = 0;
        let mut inodes = Vec::new();
        for inode in &state.inodes {
            let mut durable = inode.durable.clone();
            for piece in inode.written.iter().flat_map(|change| change.pieces(sector)) {
                if piece_survives(number) {
                    piece.apply(&mut durable);
                }
                number += 1;
            }
            let reserved = durable.len() as u64;
            inodes.push(Inode { seen: durable.clone(), durable, reserved, written: Vec::new() });
        }
        let mut names = state.durable_names.clone();
        for (_, change) in state.renamed.iter().enumerate().filter(|(number, _)| name_survives(*number)) {
            change.apply(&mut names);
        }
        Self(Arc::new(Mutex::new(State { inodes, durable_names: names.clone(), names, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Does what an operation does; when the power goes during it, it is still undecided whether it was done.
    fn change(&self, what: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        match state.dies_at {
            Some(at) if number > at => Err(io::Error::other("there is no power")),
            Some(at) if number == at => {
                what(&mut state)?;
                Err(io::Error::other("the power went"))
            }
            Some(_) | None => what(&mut state),
        }
    }

    /// A sync during which the power goes has made nothing certain.
    fn sync(&self, what: impl FnOnce(&mut State)) -> io::Result<()> {
        self.change(|state| {
            if state.dies_at.is_none_or(|at| state.operations <= at) {
                what(state);
            }
            Ok(())
        })
    }
}

impl Change {
    fn pieces(&self, sector: usize) -> Vec<Self> {
        let Self::Write { offset, bytes } = self else { return vec![self.clone()] };
        let end = offset + bytes.len();
        let mut pieces = vec![Self::Length { least: end }];
        let mut at = *offset;
        while at < end {
            let next = end.min((at / sector + 1) * sector);
            let part: Range<usize> = at - offset..next - offset;
            pieces.push(Self::Write { offset: at, bytes: bytes[part].to_vec() });
            at = next;
        }
        pieces
    }

    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Length { least } => content.resize(content.len().max(*least), 0),
            Self::Truncate { length } => content.truncate(*length),
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Set(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Move(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl State {
    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.renamed.push(change);
    }
}

impl Disk for PowerLossDisk {
    type File = usize;

    fn path(&self) -> &Path {
        Path::new("/journal")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let state = self.state();
        let seen = &state.inodes[state.find(name)?].seen;
        Ok(seen[..seen.len().min(usize::try_from(most).unwrap_or(usize::MAX))].to_vec())
    }

    fn read_at(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let content = self.read(name, u64::MAX)?;
        let start = usize::try_from(offset).unwrap();
        content
            .get(start..start + length)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn create(&self, name: &str) -> io::Result<usize> {
        self.change(|state| {
            if state.room == Some(0) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let inode = state.inodes.len();
            state.inodes.push(Inode::default());
            state.rename(NameChange::Set(name.to_owned(), inode));
            Ok(())
        })?;
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<usize> {
        self.state().find(name)
    }

    fn write_at(&self, file: &usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(|state| {
            let inode = &mut state.inodes[*file];
            let end = offset + bytes.len() as u64;
            assert!(
                end <= inode.reserved.max(inode.seen.len() as u64),
                "a write must find its space reserved"
            );
            let change = Change::Write { offset: usize::try_from(offset).unwrap(), bytes: bytes.to_vec() };
            change.apply(&mut inode.seen);
            inode.written.push(change);
            Ok(())
        })
    }

    fn allocate(&self, file: &usize, offset: u64, length: u64) -> io::Result<()> {
        self.change(|state| {
            let inode = &mut state.inodes[*file];
            let more = (offset + length).saturating_sub(inode.reserved);
            if let Some(room) = &mut state.room {
                *room = room.checked_sub(more).ok_or(io::ErrorKind::StorageFull)?;
            }
            inode.reserved += more;
            Ok(())
        })
    }

    fn truncate(&self, file: &usize, length: u64) -> io::Result<()> {
        self.change(|state| {
            let inode = &mut state.inodes[*file];
            let change = Change::Truncate { length: usize::try_from(length).unwrap() };
            change.apply(&mut inode.seen);
            inode.written.push(change);
            inode.reserved = length;
            Ok(())
        })
    }

    fn sync_data(&self, file: &usize) -> io::Result<()> {
        if std::mem::take(&mut self.state().fails_sync) {
            self.state().inodes[*file].written.clear();
            return Err(io::Error::other("the drive did not take it"));
        }
        self.sync(|state| {
            let inode = &mut state.inodes[*file];
            for change in std::mem::take(&mut inode.written) {
                change.apply(&mut inode.durable);
            }
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|state| {
            let inode = state.find(from)?;
            state.rename(NameChange::Move(from.to_owned(), to.to_owned(), inode));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|state| {
            state.find(name)?;
            state.rename(NameChange::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.sync(|state| {
            state.renamed.clear();
            state.durable_names = state.names.clone();
        })
    }
}
