//! The service `Content`: streams to a node what it lacks of a snapshot that it was ordered to have.

use std::{
    io::{self, Write},
    pin::Pin,
    sync::Arc,
};

use bunraku_builder::ObjectStore;
use bunraku_common::{
    Chain, Digest, limits,
    objects::Objects,
    snapshot::{
        TreeError,
        pack::{self, Object},
    },
};
use bunraku_proto::v1::{PackChunk, PackRequest, content_server::Content};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::caller;
use crate::driver::Shared;

/// Chunks that wait between the packer and a slow node: bounds the memory of one stream to half a MiB.
const CHUNKS_AHEAD: usize = 8;
/// zstd level: 3 shrinks a control repository six times at several hundred MB/s.
const LEVEL: i32 = 3;

#[derive(Debug)]
pub(crate) struct ContentService {
    pub store: Arc<ObjectStore>,
    pub shared: Arc<Shared>,
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
        let (chunks, stream) = mpsc::channel(CHUNKS_AHEAD);
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(failed) = send(store.objects(), &want, &have, after, &chunks) {
                tracing::warn!(%node, snapshot = %want.short(), error = %Chain(&failed), "pack broke off");
                let _receiver_gone = chunks.blocking_send(Err(failed.into()));
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

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse()
        .map_err(|error: bunraku_common::digest::NotADigest| Status::invalid_argument(error.to_string()))
}

fn send(
    objects: &Objects,
    want: &Digest,
    have: &[Digest],
    after: Option<Digest>,
    chunks: &mpsc::Sender<Result<PackChunk, Status>>,
) -> Result<(), PackFailed> {
    let missing = pack::missing(objects, want, have).map_err(PackFailed::List)?;
    let rest = behind(&missing, after)?;
    let sink = Chunks { to: chunks, buffer: Vec::new() };
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

/// Collects bytes into chunks and hands them to the stream; waits while the node is slow.
struct Chunks<'a> {
    to: &'a mpsc::Sender<Result<PackChunk, Status>>,
    buffer: Vec<u8>,
}

impl Write for Chunks<'_> {
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
        let data = std::mem::take(&mut self.buffer);
        self.to
            .blocking_send(Ok(PackChunk { data }))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the stream was closed"))
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
        let (to, mut from) = mpsc::channel(1000);
        send(objects, want, &[], after, &to).unwrap();
        drop(to);
        let mut bytes = Vec::new();
        while let Some(chunk) = from.blocking_recv() {
            let chunk = chunk.unwrap();
            assert!(chunk.data.len() <= limits::CHUNK_BYTES);
            bytes.extend(chunk.data);
        }
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
        let (to, _from) = mpsc::channel(1000);
        assert!(matches!(send(&objects, &want, &[], Some(Digest::of(b"?")), &to), Err(PackFailed::After)));
    }
}
