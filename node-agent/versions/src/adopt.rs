//! Before an existing directory becomes a managed link: what in it would no longer be served.

use std::os::fd::{AsFd, BorrowedFd};

use bunraku_common::{
    Digest, EnvironmentName,
    snapshot::{Node, Tree, Trees},
};

use crate::{
    VersionsError,
    apply::hash,
    below::{self, Below},
    layout::RESOURCE_TYPES,
    scrub::join,
    versions::Versions,
};

/// Something in an unmanaged directory that the snapshot does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFile {
    /// From the environment's root; a directory of which the snapshot has nothing ends in `/`.
    pub path: String,
    /// The snapshot has a file of this name, with other content.
    pub edited: bool,
}

impl Versions {
    /// What stands in the real directory at the live path and not in the snapshot. Version control's own directories
    /// and generated types are passed over. Empty when there is no real directory.
    pub fn foreign_files(
        &self,
        env: &EnvironmentName,
        digest: &Digest,
    ) -> Result<Vec<ForeignFile>, VersionsError> {
        let mut found = Vec::new();
        if self.unmanaged(env) {
            let path = self.layout.link(env);
            let root = Below::open(&path).map_err(VersionsError::io("open", &path))?;
            let tree = self
                .trees
                .tree(digest)
                .map_err(|source| VersionsError::Tree { environment: env.clone(), source })?;
            self.foreign(root.root(), &tree, "", &mut found)
                .map_err(VersionsError::io("look through", &path))?;
        }
        Ok(found)
    }

    fn foreign(
        &self,
        fd: BorrowedFd<'_>,
        tree: &Tree,
        at: &str,
        found: &mut Vec<ForeignFile>,
    ) -> std::io::Result<()> {
        for name in below::names(fd)? {
            if [".git", ".svn", ".hg"].contains(&name.as_str()) || (at.is_empty() && name == RESOURCE_TYPES) {
                continue;
            }
            let path = join(at, &name);
            let Some(stat) = below::stat_at(fd, &name)? else { continue };
            match tree.get(&name) {
                Some(Node::Directory { digest }) if below::is_directory(&stat) => {
                    let below = self.trees.tree(digest).map_err(std::io::Error::other)?;
                    self.foreign(below::open_directory(fd, &name)?.as_fd(), &below, &path, found)?;
                }
                Some(Node::File { digest, size, .. }) if below::is_file(&stat) => {
                    let same = u64::try_from(stat.st_size) == Ok(*size)
                        && hash(&below::open_file_at(fd, &name)?)? == *digest;
                    if !same {
                        found.push(ForeignFile { path, edited: true });
                    }
                }
                Some(Node::Link { target }) => {
                    let same = rustix::fs::readlinkat(fd, name.as_str(), Vec::new())
                        .is_ok_and(|found| found.to_bytes() == target.as_bytes());
                    if !same {
                        found.push(ForeignFile { path, edited: true });
                    }
                }
                Some(Node::Directory { .. } | Node::File { .. }) => {
                    found.push(ForeignFile { path, edited: true });
                }
                None if below::is_directory(&stat) => {
                    found.push(ForeignFile { path: format!("{path}/"), edited: false });
                }
                None => found.push(ForeignFile { path, edited: false }),
            }
        }
        Ok(())
    }
}
