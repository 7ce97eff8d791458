//! The spare: a second tree of the live snapshot, ready to be changed, so that a stage costs what changed.
//!
//! Made in the background after each commit. It shares inodes with the versions; nothing is ever written in place.

use std::{collections::HashSet, fs, path::Path, sync::atomic::AtomicBool};

use bunraku_common::{Chain, Digest, EnvironmentName, snapshot::TreeError};

use crate::{
    VersionsError,
    apply::{Apply, ApplyError, find_elsewhere},
    below::Below,
    fail_point::fail_point,
    layout::{RESOURCE_TYPES, sync_directory},
    plan::{Plan, PlanError},
    seal::Seal,
    versions::{Versions, is_real_directory, locked},
};

/// How a spare came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// It was there.
    Already,
    /// An old tree was brought up to the live snapshot.
    Recycled,
    /// A new tree was linked: 30 µs a file.
    Linked,
    /// There is no sealed live version to make one of.
    NothingLive,
}

impl Versions {
    /// Makes a spare of the live version, from `recyclable` if given: a version that is no longer retained and that
    /// no compile can still read (its successor has been proven loaded for longer than the longest compile).
    ///
    /// A stage of the same environment waits for this. `cancel` ends it between two files; nothing is left then.
    pub fn prepare_spare(
        &self,
        env: &EnvironmentName,
        recyclable: Option<&Digest>,
        cancel: &AtomicBool,
    ) -> Result<Prepared, VersionsError> {
        let turn = self.turn(env);
        let _turn = locked(&turn);
        let _objects = self.collecting.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(live) = self.live(env).and_then(|digest| self.seal_of(env, &digest)) else {
            return Ok(Prepared::NothingLive);
        };
        let spare = self.spare_seal(env);
        if spare.is_some_and(|spare| spare.digest == live.digest) {
            return Ok(Prepared::Already);
        }
        let dirty = self.layout.dirty(env);
        self.throw_away(&dirty)?;
        if let Some(base) = self.take_old_tree(env, spare, recyclable, &dirty)? {
            match self.bring_up(env, &dirty, &base, &live, cancel) {
                Ok(()) => return self.seal_spare(env, &dirty, &live).map(|()| Prepared::Recycled),
                Err(ApplyError::Cancelled) => {
                    self.throw_away(&dirty)?;
                    return Err(VersionsError::Cancelled);
                }
                Err(error) => {
                    let error = VersionsError::apply(env, &self.layout.root, error);
                    tracing::warn!(environment = %env, error = %Chain(&error), "could not recycle an old tree");
                    self.throw_away(&dirty)?;
                }
            }
        }
        let room = live.totals.directories;
        self.room_for(room * 4096, room)
            .map_err(|source| VersionsError::Fetch { environment: env.clone(), source: Box::new(source) })?;
        let incoming = self.incoming(env)?;
        let linked = self.link_tree(&self.resolve(env, &live.digest), &live.digest, &dirty, cancel);
        let done = linked
            .and_then(|()| {
                let opened = Below::open(&dirty)
                    .map_err(|error| ApplyError::Io("open a new tree below".into(), error));
                Apply::new(self, incoming, opened?, None, cancel).sync(true)
            })
            .map_err(|error| VersionsError::apply(env, &self.layout.root, error))
            .and_then(|()| self.seal_spare(env, &dirty, &live));
        if done.is_err() {
            self.throw_away(&dirty)?;
        }
        done.map(|()| Prepared::Linked)
    }

    /// Moves the tree to begin with to `dirty`; it does not count from then on.
    fn take_old_tree(
        &self,
        env: &EnvironmentName,
        spare: Option<Seal>,
        recyclable: Option<&Digest>,
        dirty: &Path,
    ) -> Result<Option<Seal>, VersionsError> {
        if spare.is_some() {
            self.take_spare(env, dirty)?;
            return Ok(spare);
        }
        let recyclable = recyclable.filter(|digest| self.live(env) != Some(**digest));
        let Some(seal) = recyclable.and_then(|digest| self.seal_of(env, digest)) else { return Ok(None) };
        self.throw_away(&self.layout.seal(env, &seal.digest))?;
        let version = self.layout.version(env, &seal.digest);
        fs::rename(&version, dirty).map_err(VersionsError::io("recycle", &version))?;
        for directory in [self.layout.versions_of(env), self.layout.spares()] {
            sync_directory(&directory).map_err(VersionsError::io("sync", &directory))?;
        }
        Ok(Some(seal))
    }

    fn bring_up(
        &self,
        env: &EnvironmentName,
        dirty: &Path,
        base: &Seal,
        live: &Seal,
        cancel: &AtomicBool,
    ) -> Result<(), ApplyError> {
        let plan = Plan::make(&self.trees, Some(base), &live.digest).map_err(|error| match error {
            PlanError::Trees(error) => ApplyError::Trees(error),
            PlanError::Refused(reason) => {
                ApplyError::Trees(TreeError::Damaged { digest: live.digest, reason })
            }
        })?;
        let from = [(live.digest, self.resolve(env, &live.digest))];
        let (elsewhere, _all_are_live) = find_elsewhere(&self.trees, &plan.changes, &HashSet::new(), &from);
        let tree =
            Below::open(dirty).map_err(|error| ApplyError::NotAsSealed(base.digest, error.to_string()))?;
        let incoming =
            self.incoming(env).map_err(|error| ApplyError::Io("use".into(), std::io::Error::other(error)))?;
        let mut apply = Apply::new(self, incoming, tree, Some(base.digest), cancel);
        apply.elsewhere = elsewhere;
        apply.run(&plan.changes)?;
        let failed = |error| ApplyError::Io(format!("remove {RESOURCE_TYPES} below"), error);
        apply.tree.remove(RESOURCE_TYPES, &self.trash_name()).map_err(failed)?;
        apply.sync(false)
    }

    fn seal_spare(&self, env: &EnvironmentName, dirty: &Path, live: &Seal) -> Result<(), VersionsError> {
        let spare = self.layout.spare(env);
        fail_point("spare").map_err(VersionsError::io("seal", &spare))?;
        if is_real_directory(&spare) {
            self.throw_away(&spare)?;
        }
        fs::rename(dirty, &spare).map_err(VersionsError::io("rename to", &spare))?;
        let spares = self.layout.spares();
        sync_directory(&spares).map_err(VersionsError::io("sync", &spares))?;
        let path = self.layout.spare_seal(env);
        live.write(&path, &self.temporary()).map_err(VersionsError::io("write", &path))
    }
}
