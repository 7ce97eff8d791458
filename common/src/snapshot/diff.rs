//! What changed between two snapshots, walking only where digests differ.

use super::{Node, Tree, TreeError, Trees};
use crate::Digest;

/// One change, with the path from the snapshot's root (`modules/ntp/manifests/init.pp`).
///
/// A directory that stands in both is not a change itself. An added directory is followed by everything in it; a
/// removed one stands for everything in it. A change of kind (file to directory) is a removal, then an addition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Added { path: String, node: Node },
    Changed { path: String, old: Node, new: Node },
    Removed { path: String, node: Node },
}

impl Change {
    pub fn path(&self) -> &str {
        match self {
            Self::Added { path, .. } | Self::Changed { path, .. } | Self::Removed { path, .. } => path,
        }
    }
}

/// Everything that leads from `old` (nothing: an empty tree) to `new`, parents before children, in path order within
/// one directory.
pub fn diff(trees: &impl Trees, old: Option<&Digest>, new: &Digest) -> Result<Vec<Change>, TreeError> {
    let mut changes = Vec::new();
    if old != Some(new) {
        let before = old.map_or_else(|| Ok(Tree::default()), |digest| trees.tree(digest))?;
        walk(trees, &before, &trees.tree(new)?, "", &mut changes)?;
    }
    Ok(changes)
}

fn walk(
    trees: &impl Trees,
    old: &Tree,
    new: &Tree,
    at: &str,
    out: &mut Vec<Change>,
) -> Result<(), TreeError> {
    for entry in old.entries() {
        if new.get(&entry.name).is_none_or(|node| kind_changed(&entry.node, node)) {
            out.push(Change::Removed { path: join(at, &entry.name), node: entry.node.clone() });
        }
    }
    for entry in new.entries() {
        let path = join(at, &entry.name);
        match (old.get(&entry.name), &entry.node) {
            (Some(before), after) if before == after => {}
            (Some(Node::Directory { digest: a }), Node::Directory { digest: b }) => {
                walk(trees, &trees.tree(a)?, &trees.tree(b)?, &path, out)?;
            }
            (Some(before), after) if !kind_changed(before, after) => {
                out.push(Change::Changed { path, old: before.clone(), new: after.clone() });
            }
            (_, Node::Directory { digest }) => {
                out.push(Change::Added { path: path.clone(), node: entry.node.clone() });
                walk(trees, &Tree::default(), &trees.tree(digest)?, &path, out)?;
            }
            (_, node) => out.push(Change::Added { path, node: node.clone() }),
        }
    }
    Ok(())
}

/// Whether one of the two is a directory and the other is not.
fn kind_changed(a: &Node, b: &Node) -> bool {
    matches!(a, Node::Directory { .. }) != matches!(b, Node::Directory { .. })
}

pub(crate) fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Entry, TreeMap};

    fn file(name: &str, content: &str) -> Entry {
        let digest = Digest::of(content.as_bytes());
        Entry {
            name: name.into(),
            node: Node::File { digest, size: content.len() as u64, executable: false },
        }
    }

    fn dir(trees: &mut TreeMap, name: &str, entries: Vec<Entry>) -> Entry {
        let digest = trees.insert(Tree::new(entries).unwrap());
        Entry { name: name.into(), node: Node::Directory { digest } }
    }

    fn lines(changes: &[Change]) -> Vec<String> {
        changes
            .iter()
            .map(|change| match change {
                Change::Added { path, .. } => format!("+{path}"),
                Change::Changed { path, .. } => format!("~{path}"),
                Change::Removed { path, .. } => format!("-{path}"),
            })
            .collect()
    }

    #[test]
    fn only_what_differs_is_named() {
        let mut trees = TreeMap::default();
        let same = dir(&mut trees, "same", vec![file("x", "1")]);
        let old_dir = dir(&mut trees, "m", vec![file("a", "1"), file("gone", "1")]);
        let new_dir = dir(&mut trees, "m", vec![file("a", "2"), file("b", "1")]);
        let old = trees.insert(Tree::new(vec![same.clone(), old_dir]).unwrap());
        let new = trees.insert(Tree::new(vec![same, new_dir]).unwrap());
        assert_eq!(lines(&diff(&trees, Some(&old), &new).unwrap()), ["-m/gone", "~m/a", "+m/b"]);
    }

    #[test]
    fn an_unchanged_directory_is_never_opened() {
        let mut trees = TreeMap::default();
        let unknown =
            Entry { name: "big".into(), node: Node::Directory { digest: Digest::of(b"not stored") } };
        let old = trees.insert(Tree::new(vec![unknown.clone(), file("a", "1")]).unwrap());
        let new = trees.insert(Tree::new(vec![unknown, file("a", "2")]).unwrap());
        assert_eq!(lines(&diff(&trees, Some(&old), &new).unwrap()), ["~a"]);
    }

    #[test]
    fn a_file_that_becomes_a_directory_is_removed_and_added() {
        let mut trees = TreeMap::default();
        let old = trees.insert(Tree::new(vec![file("a", "1")]).unwrap());
        let now = dir(&mut trees, "a", vec![file("b", "1")]);
        let new = trees.insert(Tree::new(vec![now]).unwrap());
        assert_eq!(lines(&diff(&trees, Some(&old), &new).unwrap()), ["-a", "+a", "+a/b"]);
    }
}
