//! The stream that carries the objects a node lacks: which ones, in which order, and how they are framed.
//!
//! The order depends only on what is wanted and what is held, so a broken stream goes on after the last object that
//! was verified. All directories come first: the node knows what it needs before the first file arrives.
//!
//! Frame: kind (`T`, `B`), 32 bytes of digest, 8 bytes of length (big endian), the bytes; at the end `E`, zeroes, and
//! the number of objects. The whole is one zstd stream; this module sees it uncompressed.

use std::{
    collections::HashSet,
    io::{self, Read, Write},
};

use super::{BadTree, Node, Tree, TreeError, Trees};
use crate::{Digest, limits};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Tree,
    Blob,
}

/// One object of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Object {
    pub kind: Kind,
    pub digest: Digest,
}

/// What a holder of `have` lacks of `want`, in sending order.
///
/// Compared path by path: an object that the holder has only under another path is sent again, which costs bytes and
/// never correctness. Snapshots in `have` that are not known here are passed over.
pub fn missing(trees: &impl Trees, want: &Digest, have: &[Digest]) -> Result<Vec<Object>, TreeError> {
    let mut found = Missing { trees, seen: HashSet::new(), listed: Vec::new(), blobs: Vec::new() };
    let known: Vec<(Digest, Tree)> =
        have.iter().filter_map(|digest| Some((*digest, trees.tree(digest).ok()?))).collect();
    found.directory(want, &known)?;
    found.listed.extend(found.blobs);
    Ok(found.listed)
}

struct Missing<'a, T> {
    trees: &'a T,
    seen: HashSet<Object>,
    listed: Vec<Object>,
    blobs: Vec<Object>,
}

impl<T: Trees> Missing<'_, T> {
    fn directory(&mut self, want: &Digest, held: &[(Digest, Tree)]) -> Result<(), TreeError> {
        let object = Object { kind: Kind::Tree, digest: *want };
        if held.iter().any(|(digest, _)| digest == want) {
            return Ok(());
        }
        // The same directory elsewhere, with other neighbours: its files may still be lacking, so walk it again.
        if self.seen.insert(object) {
            self.listed.push(object);
        }
        for entry in self.trees.tree(want)?.entries() {
            match &entry.node {
                Node::Link { .. } => {}
                Node::Directory { digest } => {
                    let below = self.below(held, &entry.name)?;
                    self.directory(digest, &below)?;
                }
                Node::File { digest, .. } => {
                    let holds = |tree: &Tree| match tree.get(&entry.name) {
                        Some(Node::File { digest: held, .. }) => held == digest,
                        Some(Node::Directory { .. } | Node::Link { .. }) | None => false,
                    };
                    let blob = Object { kind: Kind::Blob, digest: *digest };
                    if !held.iter().any(|(_, tree)| holds(tree)) && self.seen.insert(blob) {
                        self.blobs.push(blob);
                    }
                }
            }
        }
        Ok(())
    }

    fn below(&self, held: &[(Digest, Tree)], name: &str) -> Result<Vec<(Digest, Tree)>, TreeError> {
        let mut below: Vec<(Digest, Tree)> = Vec::new();
        for (_, tree) in held {
            if let Some(Node::Directory { digest }) = tree.get(name)
                && below.iter().all(|(known, _)| known != digest)
            {
                below.push((*digest, self.trees.tree(digest)?));
            }
        }
        Ok(below)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("the pack breaks off")]
    BrokenOff(#[source] io::Error),
    #[error("the pack is malformed: {0}")]
    Malformed(&'static str),
    #[error("object {} arrived damaged", .0.short())]
    Damaged(Digest),
    /// The bytes are what their digest says, so every source sends the same: the content itself is bad.
    #[error("directory {} is not acceptable", .digest.short())]
    BadTree {
        digest: Digest,
        #[source]
        source: BadTree,
    },
    #[error("object of {0} bytes: more than is allowed")]
    TooLarge(u64),
    #[error("could not write a received object")]
    Write(#[source] io::Error),
}

/// Kind, digest, number.
const HEAD_BYTES: usize = 1 + 32 + 8;

/// Writes frames. `finish` must be called: without the end mark the reader reports a broken stream.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    objects: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Self { out, objects: 0 }
    }

    /// `content` must give exactly `length` bytes.
    pub fn object(&mut self, object: &Object, length: u64, content: &mut impl Read) -> io::Result<()> {
        self.out.write_all(&head(object, length))?;
        let copied = io::copy(&mut content.take(length), &mut self.out)?;
        if copied != length {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "an object is shorter than its length says",
            ));
        }
        self.objects += 1;
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&end(self.objects))?;
        Ok(self.out)
    }
}

/// What stands before the `length` bytes of an object.
pub fn head(object: &Object, length: u64) -> [u8; HEAD_BYTES] {
    let kind = if object.kind == Kind::Tree { b'T' } else { b'B' };
    frame_head(kind, object.digest.as_bytes(), length)
}

/// What stands behind the last of so many objects.
pub fn end(objects: u64) -> [u8; HEAD_BYTES] {
    frame_head(b'E', &[0; 32], objects)
}

fn frame_head(kind: u8, digest: &[u8; 32], number: u64) -> [u8; HEAD_BYTES] {
    let mut head = [kind; HEAD_BYTES];
    head[1..33].copy_from_slice(digest);
    head[33..].copy_from_slice(&number.to_be_bytes());
    head
}

/// Reads frames and verifies every object by its digest.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    objects: u64,
}

/// What comes next in a pack.
#[derive(Debug)]
pub enum Frame {
    Tree {
        digest: Digest,
        tree: Tree,
    },
    /// Its bytes must be taken with `Reader::blob` before the next frame is read.
    Blob {
        digest: Digest,
        length: u64,
    },
    End,
}

impl<R: Read> Reader<R> {
    pub fn new(from: R) -> Self {
        Self { from, objects: 0 }
    }

    pub fn next_frame(&mut self) -> Result<Frame, PackError> {
        let mut head = [0; HEAD_BYTES];
        self.from.read_exact(&mut head).map_err(PackError::BrokenOff)?;
        let digest = Digest::from_bytes(head[1..33].try_into().expect("33 - 1 = 32"));
        let number = u64::from_be_bytes(head[33..].try_into().expect("41 - 33 = 8"));
        match head[0] {
            b'T' if number > limits::TREE_BYTES => Err(PackError::TooLarge(number)),
            b'T' => self.tree(digest, number),
            b'B' if number > limits::BLOB_BYTES => Err(PackError::TooLarge(number)),
            b'B' => {
                self.objects += 1;
                Ok(Frame::Blob { digest, length: number })
            }
            b'E' if number == self.objects => Ok(Frame::End),
            b'E' => Err(PackError::Malformed("the number of objects is wrong")),
            _ => Err(PackError::Malformed("unknown kind of frame")),
        }
    }

    fn tree(&mut self, digest: Digest, length: u64) -> Result<Frame, PackError> {
        let mut bytes = Vec::new();
        let read = self.from.by_ref().take(length).read_to_end(&mut bytes).map_err(PackError::BrokenOff)?;
        if read as u64 != length {
            return Err(PackError::BrokenOff(io::ErrorKind::UnexpectedEof.into()));
        }
        if Tree::digest_of(&bytes) != digest {
            return Err(PackError::Damaged(digest));
        }
        let tree = Tree::decode(&bytes).map_err(|source| PackError::BadTree { digest, source })?;
        self.objects += 1;
        Ok(Frame::Tree { digest, tree })
    }

    /// Copies the blob that `next_frame` announced. What was written must be thrown away when this fails.
    pub fn blob(&mut self, digest: &Digest, length: u64, to: &mut impl Write) -> Result<(), PackError> {
        let mut hasher = blake3::Hasher::new();
        let mut left = length;
        let mut buffer = vec![0; (64 << 10).min(length.max(1)) as usize];
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.from.read_exact(&mut buffer[..want]).map_err(PackError::BrokenOff)?;
            hasher.update(&buffer[..want]);
            to.write_all(&buffer[..want]).map_err(PackError::Write)?;
            left -= want as u64;
        }
        if Digest::from(hasher.finalize()) == *digest { Ok(()) } else { Err(PackError::Damaged(*digest)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::{Entry, TreeMap};

    fn file(name: &str, content: &[u8]) -> Entry {
        Entry {
            name: name.into(),
            node: Node::File { digest: Digest::of(content), size: content.len() as u64, executable: false },
        }
    }

    fn two_snapshots() -> (TreeMap, Digest, Digest) {
        let mut trees = TreeMap::default();
        let same = trees.insert(Tree::new(vec![file("s", b"same")]).unwrap());
        let same = Entry { name: "same".into(), node: Node::Directory { digest: same } };
        let old = trees.insert(Tree::new(vec![same.clone(), file("a", b"1")]).unwrap());
        let new = trees.insert(Tree::new(vec![same, file("a", b"2"), file("b", b"2")]).unwrap());
        (trees, old, new)
    }

    #[test]
    fn a_pack_holds_what_is_lacking_once_and_directories_first() {
        let (trees, old, new) = two_snapshots();
        let blob = Object { kind: Kind::Blob, digest: Digest::of(b"2") };
        let root = Object { kind: Kind::Tree, digest: new };
        assert_eq!(missing(&trees, &new, &[old]).unwrap(), [root, blob]);
        assert_eq!(missing(&trees, &new, &[]).unwrap().len(), 4);
        assert_eq!(missing(&trees, &new, &[new]).unwrap(), []);
        assert_eq!(missing(&trees, &new, &[Digest::of(b"unknown")]).unwrap().len(), 4);
    }

    fn one_blob_pack() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        let object = Object { kind: Kind::Blob, digest: Digest::of(b"hello") };
        writer.object(&object, 5, &mut &b"hello"[..]).unwrap();
        writer.finish().unwrap()
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<Vec<u8>>, PackError> {
        let (mut reader, mut blobs) = (Reader::new(bytes), Vec::new());
        loop {
            match reader.next_frame()? {
                Frame::Tree { .. } => {}
                Frame::Blob { digest, length } => {
                    let mut blob = Vec::new();
                    reader.blob(&digest, length, &mut blob)?;
                    blobs.push(blob);
                }
                Frame::End => return Ok(blobs),
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(read_all(&one_blob_pack()).unwrap(), [b"hello"]);
    }

    #[test]
    fn a_pack_without_its_end_is_broken_off() {
        let pack = one_blob_pack();
        for cut in 0..pack.len() {
            assert!(matches!(read_all(&pack[..cut]), Err(PackError::BrokenOff(_))), "cut at {cut}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let pack = one_blob_pack();
        for bit in 0..pack.len() * 8 {
            let mut bad = pack.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = read_all(&bad);
            let in_end_mark_padding = (46 + 1..46 + 33).contains(&(bit / 8));
            assert!(read.is_err() || in_end_mark_padding, "bit {bit} was not noticed");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _outcome = read_all(&bytes);
        }
    }
}
