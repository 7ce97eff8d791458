//! The digest of a tree as it lies on disk, computed here from every byte: a second opinion to the agent's.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use bunraku_common::{
    Digest,
    snapshot::{Entry, Node, Tree},
};

/// What the node adds at the root of a version, outside its digest.
const OWN: &str = ".resource_types";

pub(super) fn digest_on_disk(root: &Path) -> io::Result<Digest> {
    directory(root, true)
}

fn directory(path: &Path, is_root: bool) -> io::Result<Digest> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|_| io::Error::other("a name is not UTF-8"))?;
        if is_root && name == OWN {
            continue;
        }
        let (path, meta) = (entry.path(), entry.metadata()?);
        let node = if meta.is_symlink() {
            let target = fs::read_link(&path)?;
            Node::Link { target: target.to_string_lossy().into_owned() }
        } else if meta.is_dir() {
            Node::Directory { digest: directory(&path, false)? }
        } else {
            let executable = meta.permissions().mode() & 0o100 != 0;
            Node::File { digest: Digest::of(&fs::read(&path)?), size: meta.len(), executable }
        };
        entries.push(Entry { name, node });
    }
    Tree::new(entries).map(|tree| tree.digest()).map_err(io::Error::other)
}
