//! Gets what a snapshot needs and the node lacks: reads packs, verifies every object, keeps what is needed.
//!
//! Accepts only objects that the wanted snapshot names, each once in a stream. A stream that breaks is opened again
//! after the last object that was verified; what was verified stays in `incoming` for a later stage.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    fs,
    io::{self, Read},
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bunraku_common::{
    Chain, Digest, limits,
    objects::Objects,
    snapshot::{
        Node, Tree, TreeError,
        pack::{Frame, Kind, Object, PackError, Reader, missing},
    },
};

use crate::{
    StageError,
    apply::{Elsewhere, find_elsewhere, hash},
    fail_point::fail_point,
    guard::Guard,
    plan::{Need, Plan, PlanError},
    room::Room,
    versions::{Held, Versions},
};

/// Where packs come from: the controller's `Content.Pack`. Waiting before a repeated call, and deadlines of a stream
/// that gives nothing, are the implementor's.
pub trait PackSource {
    /// The raw zstd stream of what `want` needs beyond `have`, going on after the object `after`.
    fn open(
        &mut self,
        want: &Digest,
        have: &[Digest],
        after: Option<Digest>,
    ) -> io::Result<Box<dyn Read + Send>>;
}

/// So often a stream may break or bring damage without one new object in between.
const TRIES: u32 = 4;
/// zstd's own default for `--long`; more memory is not given to a stream.
const WINDOW_LOG: u32 = 27;
/// Everything in a pack, uncompressed: all files and, with room to spare, all directories.
const PACK_BYTES: u64 = limits::SNAPSHOT_BYTES + (2 << 30);

/// What is on this node once everything is here.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) plan: Plan,
    /// Received contents, by digest.
    pub(crate) received: HashMap<Digest, Need>,
    /// Contents that other versions hold at the same path.
    pub(crate) elsewhere: HashMap<String, Elsewhere>,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) enum FetchError {
    Stop(StageError),
    /// Something that a held snapshot should have is not here: ask again as one who holds nothing.
    Lost(String),
}

impl From<StageError> for FetchError {
    fn from(error: StageError) -> Self {
        Self::Stop(error)
    }
}

#[derive(Debug)]
pub(crate) struct Fetch<'a> {
    versions: &'a Versions,
    incoming: Arc<Objects>,
    want: Digest,
    held: &'a [Held],
    base: Option<&'a Held>,
    cancel: &'a AtomicBool,
    plan: Option<Plan>,
    /// Verified in this stage.
    have: HashSet<Digest>,
    allowed: HashSet<Object>,
    got: HashSet<Object>,
    last: Option<Digest>,
    bytes: Rc<Cell<u64>>,
    /// What must stay free.
    pub(crate) beside: Room,
    /// The plan names single contents to mend a version with: stop as soon as they are here.
    mending: bool,
}

/// How reading one stream ended.
enum Stream {
    Complete,
    Broken(String),
}

impl<'a> Fetch<'a> {
    pub(crate) fn new(
        versions: &'a Versions,
        incoming: Arc<Objects>,
        want: &Digest,
        held: &'a [Held],
        base: Option<&'a Held>,
        cancel: &'a AtomicBool,
    ) -> Self {
        Self {
            versions,
            incoming,
            want: *want,
            held,
            base,
            cancel,
            plan: None,
            have: HashSet::new(),
            allowed: HashSet::from([Object { kind: Kind::Tree, digest: *want }]),
            got: HashSet::new(),
            last: None,
            bytes: Rc::default(),
            beside: Room::default(),
            mending: false,
        }
    }

    /// Fetches single contents of a snapshot whose listings are here. The order of a pack is known, so the stream
    /// begins at the first of them and is left after the last.
    pub(crate) fn mending(
        versions: &'a Versions,
        incoming: Arc<Objects>,
        want: &Digest,
        needs: HashMap<Digest, Need>,
        cancel: &'a AtomicBool,
    ) -> Result<Self, FetchError> {
        let mut fetch = Self::new(versions, incoming, want, &[], None, cancel);
        let guard = Guard::new(&versions.trees);
        let list = missing(&guard, want, &[]).map_err(|error| FetchError::Lost(Chain(&error).to_string()))?;
        let first = list.iter().position(|object| needs.contains_key(&object.digest));
        fetch.last = first.unwrap_or(0).checked_sub(1).map(|at| list[at].digest);
        fetch.allowed.extend(list);
        fetch.plan = Some(Plan { needs, ..Plan::default() });
        fetch.mending = true;
        Ok(fetch)
    }

    pub(crate) fn run(mut self, source: &mut dyn PackSource) -> Result<Fetched, FetchError> {
        let haves: Vec<Digest> = self.held.iter().map(|held| held.seal.digest).collect();
        let mut tries = 0;
        if !self.mending
            && self.begin(&haves)?
            && let Ok(fetched) = self.complete()?
        {
            return Ok(fetched);
        }
        loop {
            let before = self.got.len();
            let reason = match source.open(&self.want, &haves, self.last) {
                Err(error) => Chain(&error).to_string(),
                Ok(stream) => match self.stream(stream)? {
                    Stream::Broken(reason) => reason,
                    Stream::Complete => match self.complete()? {
                        Ok(fetched) => return Ok(fetched),
                        Err(reason) => self.lost(reason)?,
                    },
                },
            };
            tries = if self.got.len() > before { 0 } else { tries + 1 };
            if tries >= TRIES {
                return Err(self.give_up(&reason).into());
            }
            tracing::debug!(%reason, tries, "a pack stream ended early");
        }
    }

    fn give_up(&self, reason: &str) -> StageError {
        StageError::node(format!("could not fetch snapshot {}: {reason}", self.want.short()))
            .hint("check the connection to the controller; the next stage goes on where this one ended")
    }

    /// The pack held all that the controller thinks is lacking, and something lacks still.
    fn lost(&mut self, reason: String) -> Result<String, FetchError> {
        self.last = None;
        if self.held.is_empty() { Ok(reason) } else { Err(FetchError::Lost(reason)) }
    }

    /// Looks at what is here already. True: nothing needs to be fetched.
    fn begin(&mut self, haves: &[Digest]) -> Result<bool, FetchError> {
        if !self.versions.trees.has(&self.want) {
            return Ok(false);
        }
        if self.make_plan()?.is_some() {
            return Ok(false);
        }
        self.verify_incoming()?;
        let guard = Guard::new(&self.versions.trees);
        let Ok(list) = missing(&guard, &self.want, haves) else { return Ok(false) };
        let lacking = |object: &&Object| match object.kind {
            Kind::Tree => !self.versions.trees.has(&object.digest),
            Kind::Blob => self.needs(&object.digest).is_some() && !self.have.contains(&object.digest),
        };
        let first = list.iter().position(|object| lacking(&object));
        self.last = first
            .unwrap_or(list.len())
            .checked_sub(1)
            .and_then(|at| list.get(at))
            .map(|object| object.digest);
        self.allowed.extend(&list);
        Ok(first.is_none())
    }

    /// Makes the plan if all listings are here; gives the reason if one lacks.
    fn make_plan(&mut self) -> Result<Option<String>, FetchError> {
        if self.plan.is_some() {
            return Ok(None);
        }
        let base = self.base.map(|held| &held.seal);
        match Plan::make(&self.versions.trees, base, &self.want) {
            Ok(plan) => {
                self.versions.check_room(&plan, self.base, self.beside)?;
                self.plan = Some(plan);
                Ok(None)
            }
            Err(PlanError::Refused(reason)) => {
                Err(StageError::content(format!("snapshot {} is refused: {reason}", self.want.short()))
                    .into())
            }
            Err(PlanError::Trees(error)) => {
                self.versions.forget_damaged(&error);
                Ok(Some(Chain(&error).to_string()))
            }
        }
    }

    fn needs(&self, digest: &Digest) -> Option<Need> {
        self.plan.as_ref()?.needs.get(digest).copied()
    }

    /// Files that an earlier stage left are hashed again: nothing made them last.
    fn verify_incoming(&mut self) -> Result<(), FetchError> {
        let incoming = Arc::clone(&self.incoming);
        let needs = self.plan.iter().flat_map(|plan| &plan.needs);
        for digest in needs.map(|(digest, _)| digest).filter(|digest| !self.got.contains(&blob(digest))) {
            if !incoming.has(digest) {
                continue;
            }
            let path = incoming.path(digest);
            if fs::File::open(&path).and_then(|file| hash(&file)).is_ok_and(|found| found == *digest) {
                self.have.insert(*digest);
            } else {
                fs::remove_file(&path)
                    .map_err(|error| StageError::io("remove the damaged object", &path, error))?;
            }
        }
        Ok(())
    }

    fn stream(&mut self, stream: Box<dyn Read + Send>) -> Result<Stream, FetchError> {
        let counted = Counted { from: stream, bytes: Rc::clone(&self.bytes) };
        let opened = zstd::stream::read::Decoder::new(counted).and_then(|mut decoder| {
            decoder.window_log_max(WINDOW_LOG)?;
            Ok(decoder)
        });
        let decoder = match opened {
            Ok(decoder) => decoder,
            Err(error) => return Ok(Stream::Broken(error.to_string())),
        };
        let mut reader = Reader::new(decoder.take(PACK_BYTES));
        let mut seen = HashSet::new();
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(StageError::cancelled().into());
            }
            fail_point("stage-fetch").map_err(|error| StageError::node("could not fetch").with(error))?;
            match self.frame(&mut reader, &mut seen) {
                Ok(None) => {}
                Ok(Some(end)) => return Ok(end),
                Err(Refusal::Stop(error)) => return Err(error),
                Err(Refusal::Pack(error)) => return self.pack_error(&error),
            }
        }
    }

    fn frame(
        &mut self,
        reader: &mut Reader<impl Read>,
        seen: &mut HashSet<Object>,
    ) -> Result<Option<Stream>, Refusal> {
        let object = match reader.next_frame()? {
            Frame::End => return Ok(Some(Stream::Complete)),
            Frame::Tree { digest, tree } => {
                let object = Object { kind: Kind::Tree, digest };
                if let Some(reason) = self.unwanted(object, seen) {
                    return Ok(Some(Stream::Broken(reason)));
                }
                self.keep_tree(&tree)?;
                object
            }
            Frame::Blob { digest, length } => {
                if self.plan.is_none() {
                    if let Some(reason) = self.make_plan()? {
                        return Ok(Some(Stream::Broken(self.lost(reason)?)));
                    }
                    self.verify_incoming()?;
                }
                if let Some(reason) = self.unwanted(blob(&digest), seen) {
                    return Ok(Some(Stream::Broken(reason)));
                }
                self.keep_blob(reader, &digest, length)?;
                blob(&digest)
            }
        };
        self.got.insert(object);
        self.last = Some(object.digest);
        Ok((self.mending && self.lacking_to_mend().is_none()).then_some(Stream::Complete))
    }

    fn lacking_to_mend(&self) -> Option<Digest> {
        let needs = self.plan.iter().filter(|_| self.mending).flat_map(|plan| plan.needs.keys());
        needs.copied().find(|digest| !self.have.contains(digest))
    }

    fn unwanted(&self, object: Object, seen: &mut HashSet<Object>) -> Option<String> {
        let short = object.digest.short();
        if !self.allowed.contains(&object) {
            return Some(format!("object {short} came, which the snapshot does not have"));
        }
        (!seen.insert(object)).then(|| format!("object {short} came twice"))
    }

    fn keep_tree(&mut self, tree: &Tree) -> Result<(), Refusal> {
        let trees = &self.versions.trees;
        trees
            .put_tree(tree)
            .map_err(|error| StageError::io("keep a directory below", &self.versions.layout.root, error))?;
        for entry in tree.entries() {
            match &entry.node {
                Node::Directory { digest } => {
                    self.allowed.insert(Object { kind: Kind::Tree, digest: *digest });
                }
                Node::File { digest, .. } => {
                    self.allowed.insert(blob(digest));
                }
                Node::Link { .. } => {}
            }
        }
        if self.allowed.len() > 2 * limits::ENTRIES {
            return Err(StageError::content(format!(
                "snapshot {} is refused: it has more than {} entries",
                self.want.short(),
                limits::ENTRIES
            ))
            .into());
        }
        Ok(())
    }

    fn keep_blob(
        &mut self,
        reader: &mut Reader<impl Read>,
        digest: &Digest,
        length: u64,
    ) -> Result<(), Refusal> {
        let Some(need) = self.needs(digest).filter(|_| !self.have.contains(digest)) else {
            // It is here already, which the controller could not know.
            return Ok(reader.blob(digest, length, &mut io::sink())?);
        };
        if need.size != length {
            return Err(StageError::content(format!(
                "snapshot {} is refused: file content {} has {length} bytes, its listing says {}",
                self.want.short(),
                digest.short(),
                need.size
            ))
            .into());
        }
        let incoming = Arc::clone(&self.incoming);
        let failed = |error| StageError::io("keep a received file below", &self.versions.layout.root, error);
        let (temporary, mut file) = incoming.temporary().map_err(failed)?;
        let kept = match reader.blob(digest, length, &mut file) {
            Err(PackError::Write(error)) => Err(failed(error).into()),
            Err(error) => Err(error.into()),
            Ok(()) => incoming.keep(&temporary, digest).map_err(|error| failed(error).into()),
        };
        if kept.is_err() {
            let _best_effort = fs::remove_file(&temporary);
        } else {
            self.have.insert(*digest);
        }
        kept
    }

    fn pack_error(&self, error: &PackError) -> Result<Stream, FetchError> {
        match error {
            PackError::BadTree { .. } => Err(StageError::content(format!(
                "snapshot {} is refused: {}",
                self.want.short(),
                Chain(error)
            ))
            .into()),
            PackError::BrokenOff(_)
            | PackError::Malformed(_)
            | PackError::Damaged(_)
            | PackError::TooLarge(_)
            | PackError::Write(_) => Ok(Stream::Broken(Chain(error).to_string())),
        }
    }

    /// Everything the plan needs is here, or the reason why not.
    fn complete(&mut self) -> Result<Result<Fetched, String>, FetchError> {
        if let Some(reason) = self.make_plan()? {
            return Ok(Err(reason));
        }
        self.verify_incoming()?;
        let to_mend = self.lacking_to_mend();
        let Some(plan) = self.plan.take() else { return Ok(Err("the pack holds no directory".into())) };
        let held: Vec<(Digest, PathBuf)> =
            self.held.iter().filter_map(|held| Some((held.seal.digest, held.at.clone()?))).collect();
        let (elsewhere, lacking) = find_elsewhere(&self.versions.trees, &plan.changes, &self.have, &held);
        if let Some(digest) = lacking.or(to_mend) {
            self.plan = Some(plan);
            return Ok(Err(format!("file content {} did not come", digest.short())));
        }
        let received = plan
            .needs
            .iter()
            .filter(|(digest, _)| self.have.contains(*digest))
            .map(|(d, n)| (*d, *n))
            .collect();
        let (objects, bytes) = (self.got.len() as u64, self.bytes.get());
        Ok(Ok(Fetched { plan, received, elsewhere, objects, bytes }))
    }
}

const fn blob(digest: &Digest) -> Object {
    Object { kind: Kind::Blob, digest: *digest }
}

enum Refusal {
    Stop(FetchError),
    Pack(PackError),
}

impl From<PackError> for Refusal {
    fn from(error: PackError) -> Self {
        Self::Pack(error)
    }
}

impl From<FetchError> for Refusal {
    fn from(error: FetchError) -> Self {
        Self::Stop(error)
    }
}

impl From<StageError> for Refusal {
    fn from(error: StageError) -> Self {
        Self::Stop(error.into())
    }
}

/// Counts what came over the wire.
struct Counted {
    from: Box<dyn Read + Send>,
    bytes: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.bytes.set(self.bytes.get() + read as u64);
        Ok(read)
    }
}

impl Versions {
    /// A damaged listing is removed, so that it can be received again.
    pub(crate) fn forget_damaged(&self, error: &TreeError) {
        if let TreeError::Damaged { digest, .. } = error {
            let _best_effort = self.trees.remove(digest);
        }
    }
}
