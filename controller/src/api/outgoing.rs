//! A pack as compressed bytes that are made only when they are asked for: whoever waits for a slow node holds neither
//! a thread nor more than one chunk.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Take},
    sync::Arc,
    vec::IntoIter,
};

use bunraku_builder::ObjectStore;
use bunraku_common::{
    Chain, Digest, limits,
    snapshot::{
        TreeError,
        pack::{self, Object},
    },
};
use tonic::Status;
use zstd::stream::read::Encoder;

/// zstd level: 3 shrinks a control repository six times at several hundred MB/s.
const LEVEL: i32 = 3;

#[derive(Debug, thiserror::Error)]
pub(super) enum PackFailed {
    #[error("could not list what is missing")]
    List(#[source] TreeError),
    #[error("`after` names an object that is not in this pack")]
    After,
    #[error("could not compress the pack")]
    Compress(#[source] io::Error),
    #[error("the pack could not be read to its end")]
    Read(#[source] io::Error),
}

impl From<PackFailed> for Status {
    fn from(failed: PackFailed) -> Self {
        let text = Chain(&failed).to_string();
        match failed {
            PackFailed::After => Self::out_of_range(text),
            PackFailed::List(_) | PackFailed::Compress(_) | PackFailed::Read(_) => Self::data_loss(text),
        }
    }
}

/// What of a pack was not sent yet.
pub(super) struct Outgoing {
    bytes: Encoder<'static, BufReader<Frames>>,
}

impl Outgoing {
    /// What `have` lacks of `want`, behind the object `after`. Blocks.
    pub(super) fn begin(
        store: Arc<ObjectStore>,
        want: &Digest,
        have: &[Digest],
        after: Option<Digest>,
    ) -> Result<Self, PackFailed> {
        let mut missing = pack::missing(store.objects(), want, have).map_err(PackFailed::List)?;
        if let Some(after) = after {
            let at = missing.iter().position(|object| object.digest == after).ok_or(PackFailed::After)?;
            missing.drain(..=at);
        }
        let bytes = Encoder::new(Frames::of(store, missing), LEVEL).map_err(PackFailed::Compress)?;
        Ok(Self { bytes })
    }

    /// The next at most [`limits::CHUNK_BYTES`]; empty at the end. Blocks.
    pub(super) fn next_chunk(&mut self) -> Result<Vec<u8>, PackFailed> {
        let mut chunk = Vec::with_capacity(limits::CHUNK_BYTES);
        let part = self.bytes.by_ref().take(limits::CHUNK_BYTES as u64).read_to_end(&mut chunk);
        part.map(|_| chunk).map_err(PackFailed::Read)
    }
}

/// The pack before it is compressed: each object behind its head, and the end mark.
struct Frames {
    store: Arc<ObjectStore>,
    rest: IntoIter<Object>,
    begun: u64,
    head: Cursor<Vec<u8>>,
    content: Option<(Digest, Take<File>)>,
    ended: bool,
}

impl Frames {
    fn of(store: Arc<ObjectStore>, objects: Vec<Object>) -> Self {
        Self {
            store,
            rest: objects.into_iter(),
            begun: 0,
            head: Cursor::default(),
            content: None,
            ended: false,
        }
    }

    /// False behind the end mark.
    fn advance(&mut self) -> io::Result<bool> {
        if let Some(object) = self.rest.next() {
            let opened = self.store.objects().open_object(&object.digest);
            let (file, length) = opened.map_err(|error| unreadable(&object.digest, error))?;
            self.head = Cursor::new(pack::head(&object, length).to_vec());
            self.content = Some((object.digest, file.take(length)));
            self.begun += 1;
            return Ok(true);
        }
        self.head = Cursor::new(pack::end(self.begun).to_vec());
        Ok(!std::mem::replace(&mut self.ended, true))
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.head.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            if let Some((digest, content)) = &mut self.content {
                let read = content.read(buffer).map_err(|error| unreadable(digest, error))?;
                if read > 0 {
                    return Ok(read);
                }
                if content.limit() > 0 {
                    return Err(unreadable(digest, io::ErrorKind::UnexpectedEof.into()));
                }
                self.content = None;
            }
            if self.ended || !self.advance()? {
                return Ok(0);
            }
        }
    }
}

fn unreadable(digest: &Digest, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("object {} is not readable here: {error}", digest.short()))
}

#[cfg(test)]
mod tests {
    use bunraku_common::snapshot::{
        Entry, Node, Tree,
        pack::{Frame, Reader},
    };

    use super::*;

    fn store(dir: &std::path::Path) -> (Arc<ObjectStore>, Digest) {
        let store = ObjectStore::open(dir).unwrap();
        let objects = store.objects();
        let entries = (0..50).map(|n| {
            let content = format!("content {n}").repeat(n);
            let digest = objects.put_blob(content.as_bytes()).unwrap();
            let node = Node::File { digest, size: content.len() as u64, executable: false };
            Entry { name: format!("f{n}"), node }
        });
        let tree = Tree::new(entries.collect()).unwrap();
        let digest = objects.put_tree(&tree).unwrap();
        (store, digest)
    }

    fn received(mut outgoing: Outgoing) -> Vec<Digest> {
        let mut bytes = Vec::new();
        loop {
            let chunk = outgoing.next_chunk().unwrap();
            assert!(chunk.len() <= limits::CHUNK_BYTES);
            if chunk.is_empty() {
                break;
            }
            bytes.extend(chunk);
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
        let (store, want) = store(dir.path());
        let whole = received(Outgoing::begin(store.clone(), &want, &[], None).unwrap());
        assert_eq!(whole.len(), 51);
        let rest = Outgoing::begin(store, &want, &[], Some(whole[20])).unwrap();
        assert_eq!(received(rest), whole[21..]);
    }

    #[test]
    fn an_unknown_place_to_go_on_from_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (store, want) = store(dir.path());
        let begun = Outgoing::begin(store, &want, &[], Some(Digest::of(b"?")));
        assert!(matches!(begun, Err(PackFailed::After)));
    }

    #[test]
    fn an_object_that_is_gone_ends_the_pack_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (store, want) = store(dir.path());
        let mut outgoing = Outgoing::begin(store.clone(), &want, &[], None).unwrap();
        store.objects().remove(&want).unwrap();
        let told = Chain(&outgoing.next_chunk().unwrap_err()).to_string();
        assert!(told.contains(&want.short()), "{told}");
    }
}
