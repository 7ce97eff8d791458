//! The service `Content`: streams to a node what it lacks of a snapshot that it was ordered to have.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bunraku_builder::ObjectStore;
use bunraku_common::{
    Chain, Digest, NodeName, limits,
    objects::Objects,
    snapshot::{
        TreeError,
        pack::{self, Object},
    },
};
use bunraku_proto::v1::{PackChunk, PackRequest, content_server::Content};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::caller;
use crate::driver::Shared;

/// Chunks that wait between the packer and a slow node: bounds the memory of one stream to half a MiB.
const CHUNKS_AHEAD: usize = 8;
/// zstd level: 3 shrinks a control repository six times at several hundred MB/s.
const LEVEL: i32 = 3;
/// Packs of one node under way at once; more wait. Each holds a thread for as long as the node reads it, and slow nodes
/// must not take the threads of all (T15).
const PACKS_PER_NODE: usize = 16;
/// A chunk that is not taken within this ends the pack: half a KiB a second is less than any link that is one.
const CHUNK_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct ContentService {
    store: Arc<ObjectStore>,
    shared: Arc<Shared>,
    /// One entry for each node that ever asked.
    turns: Mutex<BTreeMap<NodeName, Arc<Semaphore>>>,
}

impl ContentService {
    pub(crate) fn new(store: Arc<ObjectStore>, shared: Arc<Shared>) -> Self {
        Self { store, shared, turns: Mutex::default() }
    }

    fn turns_of(&self, node: &NodeName) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(node.clone()).or_insert_with(|| Arc::new(Semaphore::new(PACKS_PER_NODE))).clone()
    }
}

#[tonic::async_trait]
impl Content for ContentService {
    type PackStream = Pin<Box<dyn Stream<Item = Result<PackChunk, Status>> + Send>>;

    async fn pack(&self, request: Request<PackRequest>) -> Result<Response<Self::PackStream>, Status> {
        let node = caller::node(&request)?;
        let PackRequest { want, have, after } = request.into_inner();
        let want = digest(&want)?;
        if !self.shared.state().may_fetch(&node, &want) {
            return Err(Status::permission_denied(format!(
                "{node} was not ordered to have {}",
                want.short()
            )));
        }
        if have.len() > limits::HAVES {
            return Err(Status::invalid_argument(format!(
                "`have` names more than {} snapshots",
                limits::HAVES
            )));
        }
        let have = have.iter().map(|text| digest(text)).collect::<Result<Vec<_>, _>>()?;
        let after = if after.is_empty() { None } else { Some(digest(&after)?) };
        let turn = self.turns_of(&node).acquire_owned().await;
        let turn = turn.map_err(|_| Status::internal("packs are closed"))?;
        let (chunks, stream) = mpsc::channel(CHUNKS_AHEAD);
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let take = |data| handed_over(&chunks, Ok(PackChunk { data }), CHUNK_PATIENCE);
            if let Err(failed) = send(store.objects(), &want, &have, after, take) {
                tracing::warn!(%node, snapshot = %want.short(), error = %Chain(&failed), "pack broke off");
                let _receiver_gone = handed_over(&chunks, Err(failed.into()), CHUNK_PATIENCE);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

#[derive(Debug, thiserror::Error)]
enum PackFailed {
    #[error("could not list what is missing")]
    List(#[source] TreeError),
    #[error("`after` names an object that is not in this pack")]
    After,
    #[error("object {} is not readable here", .0.short())]
    Object(Digest, #[source] io::Error),
    #[error("the node does not read any more")]
    Gone(#[source] io::Error),
}

impl From<PackFailed> for Status {
    fn from(failed: PackFailed) -> Self {
        let text = Chain(&failed).to_string();
        match failed {
            PackFailed::After => Self::out_of_range(text),
            PackFailed::List(_) | PackFailed::Object(..) => Self::data_loss(text),
            PackFailed::Gone(_) => Self::cancelled(text),
        }
    }
}

/// Waits while the node is slow, but not for ever. On a blocking thread.
fn handed_over<T>(to: &mpsc::Sender<T>, chunk: T, patience: Duration) -> io::Result<()> {
    // The time begins inside: a timer needs the runtime.
    let why = match Handle::current().block_on(async { timeout(patience, to.send(chunk)).await }) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(_)) => "the stream was closed",
        Err(_) => "it is not read",
    };
    Err(io::Error::new(io::ErrorKind::BrokenPipe, why))
}

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse()
        .map_err(|error: bunraku_common::digest::NotADigest| Status::invalid_argument(error.to_string()))
}

fn send(
    objects: &Objects,
    want: &Digest,
    have: &[Digest],
    after: Option<Digest>,
    take: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> Result<(), PackFailed> {
    let missing = pack::missing(objects, want, have).map_err(PackFailed::List)?;
    let rest = behind(&missing, after)?;
    let sink = Chunks { take, buffer: Vec::new() };
    let zstd = zstd::Encoder::new(sink, LEVEL).map_err(PackFailed::Gone)?;
    let mut writer = pack::Writer::new(zstd);
    for object in rest {
        let unreadable = |error| PackFailed::Object(object.digest, error);
        let (mut file, length) = objects.open_object(&object.digest).map_err(unreadable)?;
        writer.object(object, length, &mut file).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                PackFailed::Gone(error)
            } else {
                unreadable(error)
            }
        })?;
    }
    let mut sink = writer.finish().and_then(zstd::Encoder::finish).map_err(PackFailed::Gone)?;
    sink.flush().map_err(PackFailed::Gone)
}

/// What comes after the last object that the node has verified.
fn behind(missing: &[Object], after: Option<Digest>) -> Result<&[Object], PackFailed> {
    let Some(after) = after else { return Ok(missing) };
    let at = missing.iter().position(|object| object.digest == after).ok_or(PackFailed::After)?;
    Ok(&missing[at + 1..])
}

/// Collects bytes into chunks and hands them on.
struct Chunks<F> {
    take: F,
    buffer: Vec<u8>,
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Write for Chunks<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = limits::CHUNK_BYTES - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == limits::CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        (self.take)(std::mem::take(&mut self.buffer))
    }
}

#[cfg(test)]
mod tests {
    use bunraku_common::snapshot::{
        Entry, Node, Tree,
        pack::{Frame, Reader},
    };

    use super::*;

    fn store(dir: &std::path::Path) -> (Objects, Digest) {
        let objects = Objects::open(dir).unwrap();
        let entries = (0..50).map(|n| {
            let content = format!("content {n}").repeat(n);
            let digest = objects.put_blob(content.as_bytes()).unwrap();
            let node = Node::File { digest, size: content.len() as u64, executable: false };
            Entry { name: format!("f{n}"), node }
        });
        let tree = Tree::new(entries.collect()).unwrap();
        let digest = objects.put_tree(&tree).unwrap();
        (objects, digest)
    }

    fn received(objects: &Objects, want: &Digest, after: Option<Digest>) -> Vec<Digest> {
        let mut bytes = Vec::new();
        let take = |data: Vec<u8>| {
            assert!(data.len() <= limits::CHUNK_BYTES);
            bytes.extend(data);
            Ok(())
        };
        send(objects, want, &[], after, take).unwrap();
        let mut reader = Reader::new(zstd::Decoder::new(&bytes[..]).unwrap());
        let mut seen = Vec::new();
        loop {
            match reader.next_frame().unwrap() {
                Frame::Tree { digest, .. } => seen.push(digest),
                Frame::Blob { digest, length } => {
                    reader.blob(&digest, length, &mut io::sink()).unwrap();
                    seen.push(digest);
                }
                Frame::End => return seen,
            }
        }
    }

    #[test]
    fn a_broken_pack_goes_on_behind_the_last_verified_object() {
        let dir = tempfile::tempdir().unwrap();
        let (objects, want) = store(dir.path());
        let whole = received(&objects, &want, None);
        assert_eq!(received(&objects, &want, Some(whole[20])), whole[21..]);
    }

    #[test]
    fn an_unknown_place_to_go_on_from_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (objects, want) = store(dir.path());
        let sent = send(&objects, &want, &[], Some(Digest::of(b"?")), |_| Ok(()));
        assert!(matches!(sent, Err(PackFailed::After)));
    }

    #[tokio::test]
    async fn t15_a_node_that_reads_nothing_does_not_hold_a_thread_for_ever() {
        let (to, _reads_nothing) = mpsc::channel(1);
        let sent = tokio::task::spawn_blocking(move || {
            let patience = Duration::from_millis(20);
            handed_over(&to, 1, patience).unwrap();
            handed_over(&to, 2, patience).unwrap_err().kind()
        });
        assert_eq!(sent.await.unwrap(), io::ErrorKind::BrokenPipe);
    }
}
