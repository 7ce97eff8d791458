//! Mends a live version that was changed by hand, file by file and by rename, while it is served.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bunraku_common::{
    Digest, EnvironmentName,
    objects::Objects,
    snapshot::{Change, Node, TreeError, Trees},
};
use rustix::fs::{AtFlags, CWD, linkat};

use crate::{
    PackSource, StageError, VersionsError,
    apply::{Apply, Elsewhere, hash},
    below::{self, Below},
    fail_point::fail_point,
    fetch::{Fetch, FetchError},
    plan::Need,
    scrub::{Budget, Drift, Scrubbed, What, join},
    versions::{Versions, locked},
};

/// What `heal` did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Healed {
    /// Paths that were not as the snapshot says, and are now.
    pub mended: Vec<String>,
    pub checked_files: u64,
}

/// An inode whose content or mode was changed: every hard link of it is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Inode {
    device: u64,
    number: u64,
}

/// By path: the damaged inode, and the file that is sound after mending.
type Damage = BTreeMap<String, (Inode, PathBuf)>;

/// By path where another version has a sound copy, by digest what nothing here has.
type Sources = (HashMap<String, Elsewhere>, HashMap<Digest, Need>);

/// What hashing the live version found.
struct Examined {
    live: Digest,
    seen: Scrubbed,
}

impl Versions {
    /// Hashes every file of the live version and mends what differs: contents, modes, kinds, missing and extra files.
    /// The same damage in other versions (hard links) is mended too; spares that share it are dropped.
    ///
    /// Hashing takes no turn, so a commit does not wait for it; mending does, and only while the same version is live
    /// and `still` says that the order counts. `cancel` ends the work at the next file; what was mended stays so.
    pub fn heal(
        &self,
        env: &EnvironmentName,
        pack: &mut dyn PackSource,
        cancel: &AtomicBool,
        still: impl Fn() -> bool,
    ) -> Result<Healed, VersionsError> {
        let Examined { live, seen } = self.examine(env, pack, cancel)?;
        fail_point("heal-hashed").map_err(VersionsError::io("check", &self.resolve(env, &live)))?;
        let checked_files = seen.checked_files;
        let damaged = {
            let turn = self.turn(env);
            let _turn = locked(&turn);
            let _objects = self.collecting.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !still() {
                return Err(VersionsError::Overtaken { environment: env.clone() });
            }
            if self.live(env) != Some(live) {
                return Err(VersionsError::MovedOn { environment: env.clone() });
            }
            if seen.drift.is_empty() {
                locked(&self.drift).remove(env);
                return Ok(Healed { mended: Vec::new(), checked_files });
            }
            self.mend(env, &live, &seen.drift, pack, cancel)
        };
        let (damaged, ended) = damaged?;
        for (path, (inode, mended)) in &damaged {
            self.mend_links(path, *inode, mended)?;
        }
        ended?;
        locked(&self.drift).remove(env);
        Ok(Healed { mended: seen.drift.into_iter().map(|drift| drift.path).collect(), checked_files })
    }

    /// Compares the live version with its snapshot; takes the environment's turn only to fetch lost listings.
    fn examine(
        &self,
        env: &EnvironmentName,
        pack: &mut dyn PackSource,
        cancel: &AtomicBool,
    ) -> Result<Examined, VersionsError> {
        let live = self.live(env).ok_or_else(|| self.not_live(env))?;
        if self.all_listings(&live).is_err() {
            let turn = self.turn(env);
            let _turn = locked(&turn);
            let _objects = self.collecting.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let fetched = self.fetch_listings(&self.incoming(env)?, &live, pack, cancel);
            fetched.map_err(|error| not_fetched(env, error))?;
        }
        let everything = Budget { files: u64::MAX, bytes: u64::MAX };
        let seen = self.check(env, &live, "", everything, cancel)?;
        Ok(Examined { live, seen })
    }

    /// Mends what differs, until `cancel`. What counts of the damage is what was mended here: the inodes that it came
    /// from are still linked elsewhere.
    fn mend(
        &self,
        env: &EnvironmentName,
        live: &Digest,
        seen: &[Drift],
        pack: &mut dyn PackSource,
        cancel: &AtomicBool,
    ) -> Result<(Damage, Result<(), VersionsError>), VersionsError> {
        let tree_error = |source| VersionsError::Tree { environment: env.clone(), source };
        let version = self.resolve(env, live);
        let mut tree = Below::open(&version).map_err(VersionsError::io("open", &version))?;
        let mut damaged = damaged_inodes(&mut tree, seen, &version)?;
        let changes = self.changes(live, seen).map_err(tree_error)?;
        let (elsewhere, lacking) = self.sound_copies(env, live, &changes, cancel)?;

        let mut apply = Apply::new(self, self.incoming(env)?, tree, None, cancel);
        apply.elsewhere = elsewhere;
        if !lacking.is_empty() {
            let fetched = Fetch::mending(self, self.incoming(env)?, live, lacking, cancel)
                .and_then(|fetch| fetch.run(pack));
            apply.received = fetched.map_err(|error| not_fetched(env, stage_error(error)))?.received;
        }
        for drift in seen.iter().filter(|drift| matches!(drift.what, What::Extra | What::Kind)) {
            let removed = apply.tree.remove(&drift.path, &self.trash_name());
            removed.map_err(VersionsError::io("remove a file below", &version))?;
        }
        for path in seen.iter().filter(|drift| drift.what == What::Mode).map(|drift| &drift.path) {
            if let Ok(directory) = apply.tree.directory(path) {
                below::set_owner_and_mode(directory, self.layout.directory_mode(), self.layout.group)
                    .map_err(VersionsError::io("set the mode of a directory below", &version))?;
            }
        }
        let failed = |error| VersionsError::apply(env, &version, error);
        let ended = apply.run(&changes);
        // Also when it was ended early: what has its name already must not be lost.
        apply.sync(true).map_err(failed)?;
        // The spare becomes the next version and may share the damage: a new one costs little.
        self.throw_away(&self.layout.spare_seal(env))?;
        self.throw_away(&self.layout.spare(env))?;
        damaged.retain(|path, (inode, _)| inode_at(&version, path).is_some_and(|now| now != *inode));
        Ok((damaged, ended.map_err(failed)))
    }

    /// The listings of the live version may be lost after a power loss: then everything is fetched once.
    fn fetch_listings(
        &self,
        incoming: &Arc<Objects>,
        live: &Digest,
        pack: &mut dyn PackSource,
        cancel: &AtomicBool,
    ) -> Result<(), StageError> {
        loop {
            match self.all_listings(live) {
                Ok(()) => return Ok(()),
                Err(TreeError::Io { source, .. }) => {
                    return Err(StageError::io("read the objects below", &self.layout.root, source));
                }
                Err(error @ (TreeError::Missing(_) | TreeError::Damaged { .. })) => {
                    self.forget_damaged(&error);
                }
            }
            Fetch::new(self, Arc::clone(incoming), live, &[], None, cancel).run(pack).map_err(stage_error)?;
        }
    }

    fn all_listings(&self, root: &Digest) -> Result<(), TreeError> {
        let mut due = vec![*root];
        while let Some(digest) = due.pop() {
            for entry in self.trees.tree(&digest)?.entries() {
                if let Node::Directory { digest } = &entry.node {
                    due.push(*digest);
                }
            }
        }
        Ok(())
    }

    /// What to do so that each drifted path is what the snapshot says.
    fn changes(&self, live: &Digest, drift: &[Drift]) -> Result<Vec<Change>, TreeError> {
        let mut changes = Vec::new();
        for Drift { path, what } in drift {
            let Some(node) = self.node_at(live, path)? else { continue };
            match (what, &node) {
                (What::Extra, _) | (What::Mode, Node::Directory { .. }) => {}
                // The content is right: a copy of it gets the right mode, and the inode is left to itself.
                (What::Mode, _) => {
                    changes.push(Change::Changed { path: path.clone(), old: node.clone(), new: node });
                }
                (What::Missing | What::Kind | What::Content, _) => self.add(path, &node, &mut changes)?,
            }
        }
        Ok(changes)
    }

    fn add(&self, path: &str, node: &Node, changes: &mut Vec<Change>) -> Result<(), TreeError> {
        changes.push(Change::Added { path: path.to_owned(), node: node.clone() });
        if let Node::Directory { digest } = node {
            for entry in self.trees.tree(digest)?.entries() {
                self.add(&join(path, &entry.name), &entry.node, changes)?;
            }
        }
        Ok(())
    }

    fn node_at(&self, root: &Digest, path: &str) -> Result<Option<Node>, TreeError> {
        let mut node = Node::Directory { digest: *root };
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let Node::Directory { digest } = &node else { return Ok(None) };
            let tree = self.trees.tree(digest)?;
            let Some(found) = tree.get(part) else { return Ok(None) };
            node = found.clone();
        }
        Ok(Some(node))
    }

    /// Files of other versions at the same path that really have the content; and the contents that nothing has.
    fn sound_copies(
        &self,
        env: &EnvironmentName,
        live: &Digest,
        changes: &[Change],
        cancel: &AtomicBool,
    ) -> Result<Sources, VersionsError> {
        let others: Vec<(Digest, PathBuf)> =
            self.held(env, live).into_iter().filter_map(|held| Some((held.seal.digest, held.at?))).collect();
        let mut found = HashMap::new();
        let mut lacking: HashMap<Digest, Need> = HashMap::new();
        for change in changes {
            let Change::Added { path, node: Node::File { digest, size, .. } } = change else { continue };
            if cancel.load(Ordering::Relaxed) {
                return Err(VersionsError::Cancelled);
            }
            let sound = others.iter().find(|(_, at)| {
                let file = Below::open(at).and_then(|mut tree| tree.open_file(path));
                file.and_then(|file| hash(&file)).is_ok_and(|content| content == *digest)
            });
            match sound {
                Some((version, at)) => {
                    found.insert(path.clone(), Elsewhere { version: *version, at: at.join(path) });
                }
                None => lacking.entry(*digest).or_insert(Need { size: *size, uses: 0 }).uses += 1,
            }
        }
        Ok((found, lacking))
    }

    /// Replaces other links of a damaged inode: hard links are made between equal paths only.
    fn mend_links(&self, path: &str, inode: Inode, mended: &Path) -> Result<(), VersionsError> {
        for env in self.environments() {
            let turn = self.turn(&env);
            let _turn = locked(&turn);
            if inode_at(&self.layout.spare(&env), path) == Some(inode) {
                self.throw_away(&self.layout.spare_seal(&env))?;
                self.throw_away(&self.layout.spare(&env))?;
            }
            for digest in self.list(&env) {
                let version = self.resolve(&env, &digest);
                if inode_at(&version, path) != Some(inode) {
                    continue;
                }
                let temporary = self.temporary();
                let replaced = linkat(CWD, mended, CWD, &temporary, AtFlags::empty())
                    .map_err(std::io::Error::from)
                    .or_else(|_| fs::copy(mended, &temporary).map(drop))
                    .and_then(|()| Below::open(&version)?.take(&temporary, path));
                replaced.map_err(VersionsError::io("mend", &version.join(path)))?;
            }
        }
        Ok(())
    }
}

/// Damaged inodes by path, with the file that will be mended.
fn damaged_inodes(tree: &mut Below, drift: &[Drift], version: &Path) -> Result<Damage, VersionsError> {
    let mut damaged = Damage::new();
    for Drift { path, .. } in drift.iter().filter(|drift| matches!(drift.what, What::Content | What::Mode)) {
        let stat = tree.stat(path).map_err(VersionsError::io("look at a file below", version))?;
        if let Some(stat) = stat.filter(|stat| below::is_file(stat) && stat.st_nlink > 1) {
            let inode = Inode { device: stat.st_dev, number: stat.st_ino };
            damaged.insert(path.clone(), (inode, version.join(path)));
        }
    }
    Ok(damaged)
}

fn inode_at(tree: &Path, path: &str) -> Option<Inode> {
    let stat = Below::open(tree).ok()?.stat(path).ok()??;
    Some(Inode { device: stat.st_dev, number: stat.st_ino })
}

fn not_fetched(env: &EnvironmentName, error: StageError) -> VersionsError {
    VersionsError::Fetch { environment: env.clone(), source: Box::new(error) }
}

fn stage_error(error: FetchError) -> StageError {
    match error {
        FetchError::Stop(error) => error,
        FetchError::Lost(reason) => StageError::node(reason),
    }
}
