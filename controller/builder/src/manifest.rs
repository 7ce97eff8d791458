//! What a builder leaves about a tree that it deployed, and which modules a snapshot holds.

use std::{collections::BTreeMap, fmt, io::Read};

use bunraku_common::{
    Digest, limits,
    snapshot::{Node, Tree, TreeError, Trees},
};
use serde_json::Value;

use crate::{kind::Kind, store::ObjectStore};

/// What differs between two builds of the same commits (measured), or tells where on this machine they were made.
const VOLATILE: [&str; 4] = ["started_at", "finished_at", "git_dir", "git_url"];
/// A version that is a commit id is shown with so many digits.
const SHORT: usize = 8;

/// One module of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    pub name: String,
    /// A release (`9.1.0`), what the Puppetfile asks for with the commit found (`main (e0a831fe)`), or a commit.
    pub version: String,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// The form of a manifest that enters a snapshot: equal for equal commits.
pub(crate) fn without_times(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut fields: BTreeMap<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    for name in VOLATILE {
        fields.remove(name);
    }
    if let Some(Value::Array(modules)) = fields.get_mut("module_deploys") {
        modules.sort_by_cached_key(|module| text(module, "name").map(str::to_owned));
    }
    let mut plain = serde_json::to_vec_pretty(&fields).map_err(|error| error.to_string())?;
    plain.push(b'\n');
    Ok(plain)
}

/// Whether the manifest in a snapshot says that exactly this commit was deployed. Otherwise: what is wrong with it.
pub(crate) fn confirms(
    store: &ObjectStore,
    snapshot: &Digest,
    kind: Kind,
    commit: &str,
) -> Result<Result<(), String>, TreeError> {
    let Some(bytes) = file(store, &store.tree(snapshot)?, kind.manifest())? else {
        return Ok(Err("it is missing".to_owned()));
    };
    let Ok(manifest) = serde_json::from_slice::<Value>(&bytes) else {
        return Ok(Err("it is not JSON".to_owned()));
    };
    Ok(match (manifest.get("deploy_success"), text(&manifest, "signature")) {
        (Some(Value::Bool(true)), Some(signature)) if signature == commit => Ok(()),
        (Some(Value::Bool(true)), signature) => {
            Err(format!("commit {} was deployed, not {commit}", signature.unwrap_or("unknown")))
        }
        _ => Err("deploy_success is not true".to_owned()),
    })
}

/// The modules of a snapshot with their versions, by name: as r10k lists them, and for others from `metadata.json`
/// and g10k's `.latest_commit` of everything in `modules`.
pub fn modules(store: &ObjectStore, snapshot: &Digest) -> Result<Vec<Module>, TreeError> {
    let root = store.tree(snapshot)?;
    let mut found = BTreeMap::new();
    if let Some(Node::Directory { digest }) = root.get("modules") {
        for entry in store.tree(digest)?.entries() {
            if let Node::Directory { digest } = &entry.node
                && let Some(version) = version_of(store, &store.tree(digest)?)?
            {
                found.insert(entry.name.clone(), version);
            }
        }
    }
    if let Some(bytes) = file(store, &root, Kind::R10k.manifest())?
        && let Ok(manifest) = serde_json::from_slice::<Value>(&bytes)
        && let Some(Value::Array(listed)) = manifest.get("module_deploys")
    {
        for module in listed {
            if let (Some(name), Some(version)) = (text(module, "name"), text(module, "version")) {
                // r10k writes `author-name` or `author/name` for modules of the Forge.
                let name = name.rsplit(['/', '-']).next().unwrap_or(name);
                found.insert(name.to_owned(), with_commit(version, text(module, "sha")));
            }
        }
    }
    Ok(found.into_iter().map(|(name, version)| Module { name, version }).collect())
}

fn version_of(store: &ObjectStore, module: &Tree) -> Result<Option<String>, TreeError> {
    let metadata = file(store, module, "metadata.json")?;
    let metadata = metadata.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let version = metadata.as_ref().and_then(|json| text(json, "version"));
    let commit = file(store, module, ".latest_commit")?.and_then(|bytes| String::from_utf8(bytes).ok());
    let commit = commit.as_deref().map(str::trim);
    Ok(match (version, commit) {
        (Some(version), commit) => Some(with_commit(version, commit)),
        (None, Some(commit)) => Some(commit.chars().take(SHORT).collect()),
        (None, None) => None,
    })
}

fn with_commit(version: &str, commit: Option<&str>) -> String {
    let clean =
        |text: &str, most: usize| -> String { text.chars().filter(|c| !c.is_control()).take(most).collect() };
    match commit {
        Some(commit) if commit == version => clean(commit, SHORT),
        Some(commit) => format!("{} ({})", clean(version, 80), clean(commit, SHORT)),
        None => clean(version, 80),
    }
}

fn text<'a>(json: &'a Value, field: &str) -> Option<&'a str> {
    json.get(field)?.as_str()
}

/// A file of a tree, if it is one. Larger ones than a directory may be are passed over: they are no manifests.
fn file(store: &ObjectStore, tree: &Tree, name: &str) -> Result<Option<Vec<u8>>, TreeError> {
    let Some(Node::File { digest, size, .. }) = tree.get(name) else { return Ok(None) };
    if *size > limits::TREE_BYTES {
        return Ok(None);
    }
    let io = |source| TreeError::Io { digest: *digest, source };
    let (file, _) = store.objects().open_object(digest).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(*size).read_to_end(&mut bytes).map_err(io)?;
    if Digest::of(&bytes) != *digest {
        return Err(TreeError::Damaged {
            digest: *digest,
            reason: "its bytes do not have this digest".into(),
        });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_loses_its_times_and_places_and_nothing_else() {
        let one = br#"{"name":"p","signature":"s","started_at":"1","finished_at":"2","git_dir":"/x",
            "module_deploys":[{"name":"b","sha":"2"},{"name":"a","sha":"1"}]}"#;
        let two = br#"{"finished_at":"9","signature":"s","name":"p","git_url":"file:///y",
            "module_deploys":[{"name":"a","sha":"1"},{"name":"b","sha":"2"}]}"#;
        assert_eq!(without_times(one).unwrap(), without_times(two).unwrap());
        let text = String::from_utf8(without_times(one).unwrap()).unwrap();
        assert!(text.contains("signature") && !text.contains("/x") && !text.contains("_at"), "{text}");
        assert!(without_times(b"[1]").is_err());
    }

    #[test]
    fn versions_name_the_commit_where_there_is_one() {
        assert_eq!(with_commit("main", Some("0123456789")), "main (01234567)");
        assert_eq!(with_commit("0123456789", Some("0123456789")), "01234567");
        assert_eq!(with_commit("9.1.0", None), "9.1.0");
    }
}
