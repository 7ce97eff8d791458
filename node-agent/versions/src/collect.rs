//! Removes objects that no version here needs.

use std::{
    collections::HashSet,
    fs,
    sync::{TryLockError, atomic::Ordering},
    time::Duration,
};

use bunraku_common::{
    Digest, EnvironmentName,
    snapshot::{Node, Trees},
};

use crate::{
    VersionsError,
    versions::{Versions, file_names},
};

impl Versions {
    /// Removes directory listings that no kept version needs, and received files older than `incoming_age` (younger
    /// ones save an interrupted stage from fetching again). Returns how many went; gives up without harm, and without
    /// an error, when a stage comes in between.
    pub fn collect(&self, incoming_age: Duration) -> Result<usize, VersionsError> {
        let stages = match self.collecting.try_write() {
            Err(TryLockError::WouldBlock) => return Ok(0),
            Ok(_) | Err(TryLockError::Poisoned(_)) => self.stages.load(Ordering::SeqCst),
        };
        let needed = self.needed();
        let listed =
            self.trees.list().map_err(VersionsError::io("list the objects below", &self.layout.root))?;
        let _quiet = match self.collecting.try_write() {
            Ok(guard) => guard,
            Err(TryLockError::WouldBlock) => return Ok(0),
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
        };
        if self.stages.load(Ordering::SeqCst) != stages {
            return Ok(0);
        }
        let mut removed = 0;
        for digest in listed.iter().filter(|digest| !needed.contains(digest)) {
            removed += usize::from(self.trees.remove(digest).is_ok());
        }
        for env in
            file_names(&self.layout.incoming()).iter().filter_map(|name| EnvironmentName::parse(name).ok())
        {
            removed += self.forget_received(&env, incoming_age)?;
        }
        Ok(removed)
    }

    fn forget_received(&self, env: &EnvironmentName, older_than: Duration) -> Result<usize, VersionsError> {
        let incoming = self.incoming(env)?;
        let listed =
            incoming.list().map_err(VersionsError::io("list the objects below", &self.layout.incoming()))?;
        let mut removed = 0;
        for digest in listed {
            let modified = fs::metadata(incoming.path(&digest)).and_then(|found| found.modified());
            let age = modified.ok().and_then(|modified| modified.elapsed().ok());
            if age.is_some_and(|age| age >= older_than) {
                removed += usize::from(incoming.remove(&digest).is_ok());
            }
        }
        Ok(removed)
    }

    fn needed(&self) -> HashSet<Digest> {
        let environments = self.environments();
        let mut due: Vec<Digest> = environments.iter().flat_map(|env| self.list(env)).collect();
        due.extend(environments.iter().filter_map(|env| self.live(env)));
        due.extend(environments.iter().filter_map(|env| Some(self.spare_seal(env)?.digest)));
        let mut needed = HashSet::new();
        while let Some(digest) = due.pop() {
            if !needed.insert(digest) {
                continue;
            }
            let Ok(tree) = self.trees.tree(&digest) else { continue };
            for entry in tree.entries() {
                if let Node::Directory { digest } = &entry.node {
                    due.push(*digest);
                }
            }
        }
        needed
    }
}
