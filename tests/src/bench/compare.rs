//! Whether a target holds exactly what it should: a tool that ships less is not faster.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use bunraku_common::Digest;

use super::input::Expected;

/// What the builders and git add to a tree by themselves.
const NOT_CONTENT: [&str; 4] = [".git", ".r10k-deploy.json", ".g10k-deploy.json", ".latest_commit"];

/// Reads every file of `target` and compares it with what was pushed.
pub(super) fn ensure_equal(tool: &str, target: &Path, expected: &Expected) -> Result<()> {
    let mut found = Expected::new();
    read(target, &PathBuf::new(), &mut found)?;
    let missing = expected.keys().find(|path| !found.contains_key(*path));
    ensure!(missing.is_none(), "{tool} did not bring {missing:?} to {}", target.display());
    let more = found.keys().find(|path| !expected.contains_key(*path));
    ensure!(more.is_none(), "{tool} left {more:?} in {}", target.display());
    let other = expected.iter().find(|(path, digest)| found.get(*path) != Some(digest));
    ensure!(other.is_none(), "{tool} brought other content to {}: {other:?}", target.display());
    Ok(())
}

fn read(root: &Path, below: &Path, found: &mut Expected) -> Result<()> {
    let directory = root.join(below);
    let entries =
        fs::read_dir(&directory).with_context(|| format!("could not list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("could not list {}", directory.display()))?;
        let name = entry.file_name();
        if NOT_CONTENT.iter().any(|skipped| name == *skipped) {
            continue;
        }
        let path = below.join(&name);
        if entry.file_type().with_context(|| format!("could not look at {}", path.display()))?.is_dir() {
            read(root, &path, found)?;
        } else {
            let full = root.join(&path);
            let bytes = fs::read(&full).with_context(|| format!("could not read {}", full.display()))?;
            found.insert(path.to_string_lossy().into_owned(), Digest::of(&bytes));
        }
    }
    Ok(())
}

/// Files, directories and bytes of a tree.
pub(super) fn measure(tree: &Path) -> Result<(u64, u64, u64)> {
    let (mut files, mut directories, mut bytes) = (0, 0, 0);
    let mut waiting = vec![tree.to_owned()];
    while let Some(directory) = waiting.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("could not list {}", directory.display()))?;
        for entry in
            entries.flatten().filter(|entry| !NOT_CONTENT.iter().any(|skipped| entry.file_name() == *skipped))
        {
            let meta =
                entry.metadata().with_context(|| format!("could not look at {}", entry.path().display()))?;
            if meta.is_dir() {
                directories += 1;
                waiting.push(entry.path());
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
        ensure_equal("x", target, &expected).unwrap();
        expected.insert("a/two".to_owned(), Digest::of(b"2"));
        assert!(ensure_equal("x", target, &expected).unwrap_err().to_string().contains("did not bring"));
        fs::write(target.join("a/two"), "3").unwrap();
        assert!(ensure_equal("x", target, &expected).unwrap_err().to_string().contains("other content"));
        fs::write(target.join("a/two"), "2").unwrap();
        fs::write(target.join("more"), "").unwrap();
        assert!(ensure_equal("x", target, &expected).unwrap_err().to_string().contains("left"));
    }
}
