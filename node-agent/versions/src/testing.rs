//! Snapshots and packs for tests: of this crate and of the harness. Not part of the API.

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read},
    path::Path,
};

use bunraku_common::{
    Digest,
    objects::Objects,
    snapshot::{
        Entry, Node, Tree, Trees,
        pack::{Kind, Object, Writer, missing},
    },
};

use crate::PackSource;

/// What stands at a path of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    File(Vec<u8>),
    Executable(Vec<u8>),
    Link(String),
}

impl From<&str> for Item {
    fn from(text: &str) -> Self {
        Self::File(text.into())
    }
}

/// A snapshot as paths and what stands there; directories follow from the paths.
pub type Files = BTreeMap<String, Item>;

/// Plain files from pairs of path and content.
pub fn files(pairs: &[(&str, &str)]) -> Files {
    pairs.iter().map(|(path, content)| ((*path).to_owned(), (*content).into())).collect()
}

/// The controller's store, as far as packs need it.
#[derive(Debug)]
pub struct Shelf {
    pub objects: Objects,
}

impl Shelf {
    pub fn open(directory: &Path) -> Self {
        Self { objects: Objects::open(directory).expect("a directory of a test can be opened") }
    }

    /// Stores a snapshot and returns its digest.
    pub fn put(&self, files: &Files) -> Digest {
        let items: Vec<(&str, &Item)> = files.iter().map(|(path, item)| (path.as_str(), item)).collect();
        self.directory(&items)
    }

    fn directory(&self, items: &[(&str, &Item)]) -> Digest {
        let mut entries = Vec::new();
        let mut below: BTreeMap<&str, Vec<(&str, &Item)>> = BTreeMap::new();
        for (path, item) in items {
            match path.split_once('/') {
                Some((name, rest)) => below.entry(name).or_default().push((rest, item)),
                None => entries.push(Entry { name: (*path).into(), node: self.node(item) }),
            }
        }
        for (name, items) in below {
            entries
                .push(Entry { name: name.into(), node: Node::Directory { digest: self.directory(&items) } });
        }
        let tree = Tree::new(entries).expect("a test's paths are allowed names");
        self.objects.put_tree(&tree).expect("a test's store takes a tree")
    }

    fn node(&self, item: &Item) -> Node {
        let put = |bytes: &[u8]| self.objects.put_blob(bytes).expect("a test's store takes a blob");
        match item {
            Item::Link(target) => Node::Link { target: target.clone() },
            Item::File(bytes) | Item::Executable(bytes) => Node::File {
                digest: put(bytes),
                size: bytes.len() as u64,
                executable: matches!(item, Item::Executable(_)),
            },
        }
    }

    /// The objects of a pack, in order.
    pub fn listed(&self, want: &Digest, have: &[Digest], after: Option<Digest>) -> Vec<Object> {
        let all = missing(&self.objects, want, have).expect("a test's store holds what is wanted");
        let from = after.and_then(|last| all.iter().position(|object| object.digest == last));
        all[from.map_or(0, |at| at + 1)..].to_vec()
    }

    /// A pack of these objects, compressed.
    pub fn pack(&self, objects: &[Object]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for object in objects {
            let bytes = match object.kind {
                Kind::Tree => self.objects.tree(&object.digest).expect("a listed tree is there").encode(),
                Kind::Blob => {
                    let (mut file, _) =
                        self.objects.open_object(&object.digest).expect("a listed blob is there");
                    let mut bytes = Vec::new();
                    file.read_to_end(&mut bytes).expect("a blob of a test can be read");
                    bytes
                }
            };
            writer
                .object(object, bytes.len() as u64, &mut bytes.as_slice())
                .expect("a vector takes what is written");
        }
        let plain = writer.finish().expect("a vector takes what is written");
        zstd::encode_all(plain.as_slice(), 1).expect("zstd compresses a vector")
    }
}

/// Streams packs from a shelf and remembers what it was asked; each stream may be spoilt first.
pub struct Source<'a> {
    pub shelf: &'a Shelf,
    /// `have` and `after` of each call.
    pub asked: Vec<(Vec<Digest>, Option<Digest>)>,
    /// Changes the bytes of the n-th stream (from 0).
    #[allow(clippy::type_complexity)]
    pub spoil: Box<dyn FnMut(usize, Vec<u8>) -> io::Result<Vec<u8>> + 'a>,
}

impl<'a> Source<'a> {
    pub fn new(shelf: &'a Shelf) -> Self {
        Self { shelf, asked: Vec::new(), spoil: Box::new(|_, bytes| Ok(bytes)) }
    }

    #[must_use]
    pub fn spoilt(self, spoil: impl FnMut(usize, Vec<u8>) -> io::Result<Vec<u8>> + 'a) -> Self {
        Self { spoil: Box::new(spoil), ..self }
    }
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl PackSource for Source<'_> {
    fn open(
        &mut self,
        want: &Digest,
        have: &[Digest],
        after: Option<Digest>,
    ) -> io::Result<Box<dyn Read + Send>> {
        self.asked.push((have.to_vec(), after));
        let bytes = self.shelf.pack(&self.shelf.listed(want, have, after));
        Ok(Box::new(Cursor::new((self.spoil)(self.asked.len() - 1, bytes)?)))
    }
}
