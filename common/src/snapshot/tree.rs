//! One directory of a snapshot and its canonical encoding.
//!
//! The encoding is the only form that is hashed, so a listing has exactly one digest; decoding refuses everything
//! that encoding would not produce, and every name or link that could lead out of the tree.

use std::fmt;

use crate::{Digest, limits};

/// Separates directory digests from file digests: a file whose bytes equal an encoded directory has another name.
const CONTEXT: &str = "bunraku 2026 snapshot directory v1";

/// A directory: entries in strictly ascending order of their names' bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tree {
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: String,
    pub node: Node,
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    File { digest: Digest, size: u64, executable: bool },
    Directory { digest: Digest },
    Link { target: String },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTree {
    #[error("the listing ends in the middle of an entry")]
    Truncated,
    #[error("unknown entry kind {0}")]
    Kind(u8),
    #[error("a name is not UTF-8")]
    NotUtf8,
    #[error("`{0}` cannot be the name of a directory entry")]
    Name(String),
    #[error("entries are not in order at `{0}`")]
    Order(String),
    #[error("link target `{0}` could lead out of the tree")]
    Link(String),
    #[error("the listing is larger than is allowed")]
    TooLarge,
    #[error("a file of {0} bytes is larger than is allowed")]
    FileTooLarge(u64),
}

impl Tree {
    /// Sorts and checks: names, duplicates, sizes. Links are checked where their depth is known (`link_stays_inside`).
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, BadTree> {
        entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        for entry in &entries {
            check(entry)?;
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(BadTree::Order(pair[1].name.clone()));
        }
        Ok(Self { entries })
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn get(&self, name: &str) -> Option<&Node> {
        let at = self.entries.binary_search_by(|e| e.name.as_bytes().cmp(name.as_bytes())).ok()?;
        Some(&self.entries[at].node)
    }

    pub fn digest(&self) -> Digest {
        Self::digest_of(&self.encode())
    }

    /// The digest of an encoded listing.
    pub fn digest_of(encoded: &[u8]) -> Digest {
        blake3::Hasher::new_derive_key(CONTEXT).update(encoded).finalize().into()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * 64);
        for entry in &self.entries {
            let kind = match &entry.node {
                Node::File { executable: false, .. } => b'f',
                Node::File { executable: true, .. } => b'x',
                Node::Directory { .. } => b'd',
                Node::Link { .. } => b'l',
            };
            out.push(kind);
            put_text(&mut out, &entry.name);
            match &entry.node {
                Node::File { digest, size, .. } => {
                    out.extend_from_slice(digest.as_bytes());
                    out.extend_from_slice(&size.to_be_bytes());
                }
                Node::Directory { digest } => out.extend_from_slice(digest.as_bytes()),
                Node::Link { target } => put_text(&mut out, target),
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, BadTree> {
        if bytes.len() as u64 > limits::TREE_BYTES {
            return Err(BadTree::TooLarge);
        }
        let mut rest = bytes;
        let mut entries: Vec<Entry> = Vec::new();
        while let Some((&kind, after)) = rest.split_first() {
            rest = after;
            let name = take_text(&mut rest)?;
            let node = match kind {
                b'f' | b'x' => Node::File {
                    digest: Digest::from_bytes(take(&mut rest)?),
                    size: u64::from_be_bytes(take(&mut rest)?),
                    executable: kind == b'x',
                },
                b'd' => Node::Directory { digest: Digest::from_bytes(take(&mut rest)?) },
                b'l' => Node::Link { target: take_text(&mut rest)? },
                other => return Err(BadTree::Kind(other)),
            };
            let entry = Entry { name, node };
            check(&entry)?;
            if entries.last().is_some_and(|last| last.name.as_bytes() >= entry.name.as_bytes()) {
                return Err(BadTree::Order(entry.name));
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|e| &e.name)).finish()
    }
}

/// Whether a link with this target, standing in a directory `depth` levels below the root (0: the root itself), can
/// only resolve to a place inside the tree.
///
/// Sound without looking at other entries: `..` is allowed only at the front, where it climbs real directories, and
/// no further than the root; every later component may pass through another link, which obeys the same rule. A text
/// check that normalised `a/..` away would miss two-hop links.
pub fn link_stays_inside(target: &str, depth: usize) -> bool {
    if target.is_empty()
        || target.starts_with('/')
        || target.contains('\0')
        || target.len() > limits::PATH_BYTES
    {
        return false;
    }
    let mut climbed = 0;
    let mut descended = false;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if descended => return false,
            ".." => climbed += 1,
            _ => descended = true,
        }
    }
    climbed <= depth
}

/// Whether one directory entry may have this name.
pub fn name_is_allowed(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && name.len() <= limits::NAME_BYTES
        && !name.bytes().any(|b| b == b'/' || b == 0)
}

fn check(entry: &Entry) -> Result<(), BadTree> {
    if !name_is_allowed(&entry.name) {
        return Err(BadTree::Name(entry.name.escape_debug().collect()));
    }
    match &entry.node {
        Node::File { size, .. } if *size > limits::BLOB_BYTES => Err(BadTree::FileTooLarge(*size)),
        // The depth is not known here: what no depth allows is refused already.
        Node::Link { target } if !link_stays_inside(target, limits::DEPTH) => {
            Err(BadTree::Link(target.escape_debug().collect()))
        }
        Node::File { .. } | Node::Directory { .. } | Node::Link { .. } => Ok(()),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let length =
        u16::try_from(text.len()).expect("names and targets are limited far below 64 KiB by `check`");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadTree> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(BadTree::Truncated)?;
    *rest = tail;
    Ok(*head)
}

fn take_text(rest: &mut &[u8]) -> Result<String, BadTree> {
    let length = usize::from(u16::from_be_bytes(take(rest)?));
    let (head, tail) = rest.split_at_checked(length).ok_or(BadTree::Truncated)?;
    *rest = tail;
    String::from_utf8(head.to_vec()).map_err(|_| BadTree::NotUtf8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str) -> Entry {
        Entry { name: name.into(), node: Node::File { digest: Digest::of(b"x"), size: 1, executable: false } }
    }

    #[test]
    fn a_tree_has_one_digest_whatever_order_its_entries_came_in() {
        let a = Tree::new(vec![file("a"), file("b")]).unwrap();
        let b = Tree::new(vec![file("b"), file("a")]).unwrap();
        assert_eq!(a.digest(), b.digest());
    }

    #[test]
    fn a_file_that_holds_an_encoded_directory_has_another_digest() {
        let tree = Tree::new(vec![file("a")]).unwrap();
        assert_ne!(Digest::of(&tree.encode()), tree.digest());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc", "a\0b"] {
            assert!(Tree::new(vec![file(name)]).is_err(), "{name:?}");
        }
        assert!(Tree::new(vec![file(&"n".repeat(256))]).is_err());
        assert!(Tree::new(vec![file("a"), file("a")]).is_err());
    }

    #[test]
    fn links_that_could_leave_the_tree_are_refused_also_in_two_hops() {
        for (target, depth) in
            [("/etc", 3), ("..", 0), ("../../x", 1), ("a/../../../x", 2), ("t/../../etc", 5), ("", 1)]
        {
            assert!(!link_stays_inside(target, depth), "{target}");
        }
        for (target, depth) in [("a", 0), ("../a/b", 1), ("./a", 0), ("../..", 2), (".", 0)] {
            assert!(link_stays_inside(target, depth), "{target}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_accepts_only_what_encoding_makes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(tree) = Tree::decode(&bytes) {
                prop_assert_eq!(tree.encode(), bytes);
            }
        }

        #[test]
        fn a_tree_survives_its_encoding(names in prop::collection::btree_set("[a-zA-Z0-9é._-]{1,20}", 0..30)) {
            let entries = names.iter().filter(|n| name_is_allowed(n)).map(|n| file(n)).collect();
            let tree = Tree::new(entries).unwrap();
            prop_assert_eq!(Tree::decode(&tree.encode()).unwrap(), tree);
        }
    }
}
