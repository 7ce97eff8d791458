//! Where each snapshot came from, what the builder said, and what nodes noted: small files beside the objects, for people.
//!
//! Nothing is decided by them; a snapshot without its file is only less well described.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bunraku_common::{Digest, EnvironmentName, NodeName};
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
    notes: PathBuf,
    /// Several nodes note something of one deploy at the same time, in one file.
    noting: Mutex<()>,
}

/// Deploys whose builder's output and notes are kept, newest first.
const OUTPUTS: usize = 200;

impl Provenance {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let [snapshots, outputs, notes] = ["snapshots", "outputs", "notes"].map(|name| dir.join(name));
        let made = Self { snapshots, outputs, notes, noting: Mutex::default() };
        for dir in [&made.snapshots, &made.outputs, &made.notes] {
            fs::create_dir_all(dir)?;
        }
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

    /// What a node said about its part of a deploy that went well, such as what it found at an adoption.
    pub(crate) fn keep_note(&self, deploy: DeployId, node: &NodeName, note: &str) -> io::Result<()> {
        let _one_at_a_time = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notes = self.notes(deploy);
        notes.insert(node.clone(), note.to_owned());
        replace(&self.notes.join(format!("{deploy}.json")), &serde_json::to_vec_pretty(&notes)?)
    }

    pub(crate) fn notes(&self, deploy: DeployId) -> BTreeMap<NodeName, String> {
        let read = fs::read(self.notes.join(format!("{deploy}.json")));
        read.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Forgets snapshots that are no longer kept, old outputs and old notes.
    pub(crate) fn sweep(&self, kept: &BTreeSet<Digest>) -> io::Result<()> {
        for (path, stem) in files(&self.snapshots)? {
            if !stem.parse::<Digest>().is_ok_and(|digest| kept.contains(&digest)) {
                fs::remove_file(path)?;
            }
        }
        for dir in [&self.outputs, &self.notes] {
            let found = files(dir)?.into_iter();
            let mut of_deploys: Vec<(u64, PathBuf)> =
                found.map(|(path, stem)| (stem.parse().unwrap_or(0), path)).collect();
            of_deploys.sort_by(|a, b| b.cmp(a));
            for (_, path) in of_deploys.into_iter().skip(OUTPUTS) {
                fs::remove_file(path)?;
            }
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
    fn what_two_nodes_note_of_one_deploy_is_kept_for_both() {
        let dir = tempfile::tempdir().unwrap();
        let provenance = Provenance::open(dir.path()).unwrap();
        let nodes = ["c1", "c2"].map(|name| NodeName::parse(name).unwrap());
        std::thread::scope(|scope| {
            for node in &nodes {
                scope.spawn(|| provenance.keep_note(DeployId(7), node, node.as_str()).unwrap());
            }
        });
        let noted = provenance.notes(DeployId(7));
        assert!(nodes.iter().all(|node| noted.get(node).is_some_and(|note| note == node.as_str())));
        assert!(provenance.notes(DeployId(8)).is_empty());
    }

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
