//! Whether a target holds exactly what it should: a tool that ships less is not faster.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use bunraku_common::Digest;

use super::input::Expected;

/// What the builders and git add to a tree by themselves.
const NOT_CONTENT: [&str; 4] = [".git", ".r10k-deploy.json", ".g10k-deploy.json", ".latest_commit"];

/// Compares targets with what was pushed. A file is read again only when it is another inode, or the kernel saw it
/// change since (ctime, which no program can set).
#[derive(Debug, Default)]
pub(super) struct Comparison {
    known: HashMap<State, Digest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

impl Comparison {
    /// Every file of `target` is what was pushed, and there is no other.
    pub(super) fn ensure_equal(&mut self, tool: &str, target: &Path, expected: &Expected) -> Result<()> {
        let mut found = Expected::new();
        self.read(target, &PathBuf::new(), &mut found)?;
        let missing = expected.keys().find(|path| !found.contains_key(*path));
        ensure!(missing.is_none(), "{tool} did not bring {missing:?} to {}", target.display());
        let more = found.keys().find(|path| !expected.contains_key(*path));
        ensure!(more.is_none(), "{tool} left {more:?} in {}", target.display());
        let other = expected.iter().find(|(path, digest)| found.get(*path) != Some(digest));
        ensure!(other.is_none(), "{tool} brought other content to {}: {other:?}", target.display());
        Ok(())
    }

    fn read(&mut self, root: &Path, below: &Path, found: &mut Expected) -> Result<()> {
        let directory = root.join(below);
        for entry in entries(&directory)? {
            let (path, full) = (below.join(entry.file_name()), entry.path());
            let meta = entry.metadata().with_context(|| format!("could not look at {}", full.display()))?;
            if meta.is_dir() {
                self.read(root, &path, found)?;
            } else {
                found.insert(path.to_string_lossy().into_owned(), self.digest(&full, &meta)?);
            }
        }
        Ok(())
    }

    fn digest(&mut self, path: &Path, meta: &fs::Metadata) -> Result<Digest> {
        let changed = (meta.ctime(), meta.ctime_nsec());
        let state = State { device: meta.dev(), inode: meta.ino(), changed, size: meta.len() };
        if let Some(known) = self.known.get(&state) {
            return Ok(*known);
        }
        let bytes = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
        let digest = Digest::of(&bytes);
        self.known.insert(state, digest);
        Ok(digest)
    }
}

fn entries(directory: &Path) -> Result<Vec<fs::DirEntry>> {
    let listed = fs::read_dir(directory).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = listed.with_context(|| format!("could not list {}", directory.display()))?;
    entries.retain(|entry| !NOT_CONTENT.iter().any(|skipped| entry.file_name() == *skipped));
    Ok(entries)
}

/// Files, directories and bytes of a tree.
pub(super) fn measure(tree: &Path) -> Result<(u64, u64, u64)> {
    let (mut files, mut directories, mut bytes) = (0, 0, 0);
    let mut waiting = vec![tree.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in entries(&directory)? {
            let path = entry.path();
            let meta = entry.metadata().with_context(|| format!("could not look at {}", path.display()))?;
            if meta.is_dir() {
                directories += 1;
                waiting.push(path);
            } else {
                files += 1;
                bytes += meta.size();
            }
        }
    }
    Ok((files, directories, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_an_extra_and_a_changed_file_are_noticed_and_a_builders_own_files_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path();
        fs::create_dir_all(target.join("a/.git")).unwrap();
        for (path, content) in [("a/one", "1"), (".g10k-deploy.json", "{}"), ("a/.git/HEAD", "x")] {
            fs::write(target.join(path), content).unwrap();
        }
        let mut expected = Expected::from([("a/one".to_owned(), Digest::of(b"1"))]);
        let mut comparison = Comparison::default();
        comparison.ensure_equal("x", target, &expected).unwrap();
        let mut complaint =
            |expected: &Expected| comparison.ensure_equal("x", target, expected).unwrap_err().to_string();
        expected.insert("a/two".to_owned(), Digest::of(b"2"));
        assert!(complaint(&expected).contains("did not bring"));
        fs::write(target.join("a/two"), "3").unwrap();
        assert!(complaint(&expected).contains("other content"));
        fs::write(target.join("a/two"), "2").unwrap();
        fs::write(target.join("more"), "").unwrap();
        assert!(complaint(&expected).contains("left"));
        fs::remove_file(target.join("more")).unwrap();
        comparison.ensure_equal("x", target, &expected).unwrap();
    }
}
