//! Where each snapshot came from, and what the builder said: small files beside the objects, for people.
//!
//! Nothing is decided by them; a snapshot without its file is only less well described.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use bunraku_common::{Digest, EnvironmentName};
use bunraku_engine::DeployId;
use serde::{Deserialize, Serialize};

/// What is kept of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub snapshot: Digest,
    pub environment: EnvironmentName,
    pub branch: String,
    pub commit: String,
    pub builder: String,
    pub files: u64,
    pub bytes: u64,
    /// Name and version.
    pub modules: Vec<(String, String)>,
    /// Unix milliseconds.
    pub built_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Provenance {
    snapshots: PathBuf,
    outputs: PathBuf,
}

/// Builders' outputs that are kept, newest first.
const OUTPUTS: usize = 200;

impl Provenance {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let made = Self { snapshots: dir.join("snapshots"), outputs: dir.join("outputs") };
        fs::create_dir_all(&made.snapshots)?;
        fs::create_dir_all(&made.outputs)?;
        Ok(made)
    }

    pub(crate) fn keep(&self, origin: &Origin) -> io::Result<()> {
        let path = self.snapshots.join(format!("{}.json", origin.snapshot));
        replace(&path, &serde_json::to_vec_pretty(origin)?)
    }

    pub(crate) fn origin(&self, snapshot: &Digest) -> Option<Origin> {
        let bytes = fs::read(self.snapshots.join(format!("{snapshot}.json"))).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    pub(crate) fn keep_output(&self, deploy: DeployId, output: &str) -> io::Result<()> {
        replace(&self.outputs.join(format!("{deploy}.log")), output.as_bytes())
    }

    pub(crate) fn output(&self, deploy: DeployId) -> String {
        fs::read_to_string(self.outputs.join(format!("{deploy}.log"))).unwrap_or_default()
    }

    /// Forgets snapshots that are no longer kept, and old outputs.
    pub(crate) fn sweep(&self, kept: &BTreeSet<Digest>) -> io::Result<()> {
        for (path, stem) in files(&self.snapshots)? {
            if !stem.parse::<Digest>().is_ok_and(|digest| kept.contains(&digest)) {
                fs::remove_file(path)?;
            }
        }
        let mut outputs: Vec<(u64, PathBuf)> =
            files(&self.outputs)?.into_iter().map(|(path, stem)| (stem.parse().unwrap_or(0), path)).collect();
        outputs.sort_by(|a, b| b.cmp(a));
        for (_, path) in outputs.into_iter().skip(OUTPUTS) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

fn files(dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) {
            found.push((path, stem));
        }
    }
    Ok(found)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes)?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kept_snapshots_and_the_newest_outputs_stay_described() {
        let dir = tempfile::tempdir().unwrap();
        let provenance = Provenance::open(dir.path()).unwrap();
        let origin = |content: &[u8]| Origin {
            snapshot: Digest::of(content),
            environment: EnvironmentName::parse("production").unwrap(),
            branch: "production".into(),
            commit: "c".into(),
            builder: "r10k".into(),
            files: 1,
            bytes: 1,
            modules: vec![("ntp".into(), "1.0".into())],
            built_ms: 1,
        };
        provenance.keep(&origin(b"a")).unwrap();
        provenance.keep(&origin(b"b")).unwrap();
        for id in 0..OUTPUTS as u64 + 5 {
            provenance.keep_output(DeployId(id), "said").unwrap();
        }
        provenance.sweep(&BTreeSet::from([Digest::of(b"a")])).unwrap();
        assert_eq!(provenance.origin(&Digest::of(b"a")), Some(origin(b"a")));
        assert_eq!(provenance.origin(&Digest::of(b"b")), None);
        assert_eq!(
            (provenance.output(DeployId(4)).as_str(), provenance.output(DeployId(5)).as_str()),
            ("", "said")
        );
    }
}
