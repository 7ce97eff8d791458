//! Makes a version complete and on disk beside what is served: fetch, plan, apply to a base, sync, rename, seal.
//!
//! The base is the spare, else a tree of hard links to the nearest version, else an empty directory. Whatever fails,
//! nothing is left that counts, and what is served is untouched.

use std::{
    fs,
    path::Path,
    sync::{
        PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bunraku_common::{Chain, Digest, EnvironmentName};

use crate::{
    PackSource, StageError, VersionsError,
    apply::{Apply, ApplyError},
    below::Below,
    fail_point::fail_point,
    fetch::{Fetch, FetchError, Fetched},
    layout::{RESOURCE_TYPES, sync_directory},
    retained::Purpose,
    seal::Seal,
    versions::{Held, Versions, is_real_directory, locked},
};

/// What a stage did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Staged {
    /// The version was there and sealed.
    pub already: bool,
    /// On the wire, compressed.
    pub fetched_bytes: u64,
    pub fetched_objects: u64,
    pub written_files: u64,
    /// The spare was changed and taken; otherwise a new tree was made, which costs as much as the tree is large.
    pub from_spare: bool,
}

enum Attempt {
    Stop(StageError),
    /// This held snapshot is not what it should be; try without it.
    Without(Digest, String),
    /// Nothing that is held can be relied upon; try as one who holds nothing.
    Cold(String),
}

impl Versions {
    /// Makes the version `want` of `env` complete, verified, on disk and sealed. Repeated: says that it is there.
    ///
    /// `cancel` ends it between two files; what was received stays for the next stage.
    pub fn stage(
        &self,
        env: &EnvironmentName,
        want: &Digest,
        pack: &mut dyn PackSource,
        cancel: &AtomicBool,
    ) -> Result<Staged, StageError> {
        self.stage_for(Purpose::Commit, env, want, pack, cancel)
    }

    pub(crate) fn stage_for(
        &self,
        purpose: Purpose<'_>,
        env: &EnvironmentName,
        want: &Digest,
        pack: &mut dyn PackSource,
        cancel: &AtomicBool,
    ) -> Result<Staged, StageError> {
        let turn = self.turn(env);
        let _turn = locked(&turn);
        if cancel.load(Ordering::Relaxed) {
            // It waited for its turn and nobody waits for it any more.
            return Err(StageError::cancelled());
        }
        if self.is_sealed(env, want) {
            return Ok(Staged { already: true, ..Staged::default() });
        }
        let _objects = self.collecting.read().unwrap_or_else(PoisonError::into_inner);
        self.stages.fetch_add(1, Ordering::SeqCst);
        let directory = self.layout.versions_of(env);
        self.layout.make_passage(&directory).map_err(|error| StageError::io("make", &directory, error))?;

        let first = self.held(env, want).is_empty().then(|| locked(&self.from_nothing));
        // Another one was the first.
        let _first = first.filter(|_| self.held(env, want).is_empty());
        let mut without: Vec<Digest> = Vec::new();
        let mut cold = false;
        loop {
            let mut held = self.held(env, want);
            held.retain(|held| !cold && !without.contains(&held.seal.digest));
            purpose.leave_spare(&mut held);
            match self.attempt(purpose, env, want, &held, pack, cancel) {
                Ok(staged) => return Ok(staged),
                Err(Attempt::Stop(error)) => return Err(error),
                Err(Attempt::Cold(reason)) if cold => return Err(StageError::node(reason)),
                Err(Attempt::Cold(reason)) => {
                    tracing::warn!(environment = %env, %reason, "staging without what is held");
                    cold = true;
                }
                Err(Attempt::Without(digest, reason)) => {
                    tracing::warn!(environment = %env, version = %digest.short(), %reason, "a held version was changed by hand");
                    // A changed spare is gone now; the version of the same digest may still be good.
                    if !held.iter().any(|held| held.seal.digest == digest && held.spare) {
                        without.push(digest);
                    }
                }
            }
        }
    }

    fn attempt(
        &self,
        purpose: Purpose<'_>,
        env: &EnvironmentName,
        want: &Digest,
        held: &[Held],
        pack: &mut dyn PackSource,
        cancel: &AtomicBool,
    ) -> Result<Staged, Attempt> {
        let base = held.first();
        let incoming = self.incoming(env).map_err(stop)?;
        let mut fetch = Fetch::new(self, incoming, want, held, base, cancel);
        fetch.beside = purpose.beside();
        let fetched = fetch.run(pack).map_err(|error| match error {
            FetchError::Stop(error) => Attempt::Stop(error),
            FetchError::Lost(reason) => Attempt::Cold(reason),
        })?;
        let dirty = self.layout.dirty(env);
        let built = self.build(purpose, env, want, &dirty, base, fetched, cancel);
        if built.is_err() {
            // After a rename `dirty` is gone, and the version without a seal does not count.
            let unsealed = self.layout.version(env, want);
            let leftovers = [Some(dirty), (self.live(env) != Some(*want)).then_some(unsealed)];
            for path in leftovers.iter().flatten().filter(|path| !self.is_sealed(env, want) && path.exists())
            {
                if let Err(error) = self.throw_away(path) {
                    tracing::warn!(error = %Chain(&error), "could not remove what a failed stage left");
                }
            }
        }
        built
    }

    #[expect(clippy::too_many_arguments, reason = "one stage, in the places where it is at work")]
    fn build(
        &self,
        purpose: Purpose<'_>,
        env: &EnvironmentName,
        want: &Digest,
        dirty: &Path,
        base: Option<&Held>,
        fetched: Fetched,
        cancel: &AtomicBool,
    ) -> Result<Staged, Attempt> {
        if is_real_directory(dirty) {
            self.throw_away(dirty).map_err(stop)?;
        }
        let from_spare = base.is_some_and(|held| held.spare);
        let linked =
            base.filter(|held| !held.spare).and_then(|held| Some((held.seal.digest, held.at.as_ref()?)));
        if from_spare {
            self.take_spare(env, dirty).map_err(stop)?;
        } else if let Some((digest, at)) = linked {
            self.link_tree(at, &digest, dirty, cancel).map_err(|error| self.attempt_error(error))?;
        } else {
            self.make_tree(dirty).map_err(|error| self.attempt_error(error))?;
        }
        let tree = Below::open(dirty).map_err(|error| io_stop("open", dirty, error))?;
        let incoming = self.incoming(env).map_err(stop)?;
        let mut apply = Apply::new(self, incoming, tree, base.map(|held| held.seal.digest), cancel);
        apply.received = fetched.received;
        apply.elsewhere = fetched.elsewhere;
        apply
            .run(&fetched.plan.changes)
            .and_then(|()| apply.drop_resource_types())
            .and_then(|()| apply.sync(linked.is_some()))
            .map_err(|error| self.attempt_error(error))?;
        let written_files = apply.written_files;
        let order = self.place_in_order(purpose, env, want).map_err(stop)?;
        self.place(env, dirty, &Seal { digest: *want, order, totals: fetched.plan.totals }).map_err(stop)?;
        Ok(Staged {
            already: false,
            fetched_bytes: fetched.bytes,
            fetched_objects: fetched.objects,
            written_files,
            from_spare,
        })
    }

    /// The spare leaves its name, and its seal goes, before the first change to it: a power loss in between must not
    /// leave a changed tree that looks sealed.
    pub(crate) fn take_spare(&self, env: &EnvironmentName, dirty: &Path) -> Result<(), VersionsError> {
        let spare = self.layout.spare(env);
        let seal = self.layout.spare_seal(env);
        fs::rename(&spare, dirty).map_err(VersionsError::io("take the spare", &spare))?;
        fs::remove_file(&seal).map_err(VersionsError::io("remove", &seal))?;
        let spares = self.layout.spares();
        sync_directory(&spares).map_err(VersionsError::io("sync", &spares))
    }

    /// From here on the version counts.
    fn place(&self, env: &EnvironmentName, dirty: &Path, seal: &Seal) -> Result<(), VersionsError> {
        let version = self.layout.version(env, &seal.digest);
        let moved = if self.live(env) == Some(seal.digest) && is_real_directory(&version) {
            // It is served and has lost its seal: the new tree takes its place without a gap.
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, dirty, CWD, &version, RenameFlags::EXCHANGE).map_err(std::io::Error::from)
        } else {
            self.throw_away(&version)?;
            fs::rename(dirty, &version)
        };
        moved.map_err(VersionsError::io("rename to", &version))?;
        if is_real_directory(dirty) {
            self.throw_away(dirty)?;
        }
        let directory = self.layout.versions_of(env);
        sync_directory(&directory).map_err(VersionsError::io("sync", &directory))?;
        let path = self.layout.seal(env, &seal.digest);
        fail_point("stage-seal")
            .and_then(|()| seal.write(&path, &self.temporary()))
            .map_err(VersionsError::io("write", &path))
    }

    fn attempt_error(&self, error: ApplyError) -> Attempt {
        match error {
            ApplyError::NotAsSealed(digest, reason) => Attempt::Without(digest, reason),
            ApplyError::Trees(error) => {
                self.forget_damaged(&error);
                Attempt::Cold(Chain(&error).to_string())
            }
            ApplyError::Io(doing, error) => io_stop(&doing, &self.layout.root, error),
            ApplyError::Cancelled => Attempt::Stop(StageError::cancelled()),
        }
    }
}

impl Apply<'_> {
    /// Generated types belong to one version: what the base had does not fit by itself.
    fn drop_resource_types(&mut self) -> Result<(), ApplyError> {
        let trash = self.versions.trash_name();
        self.tree
            .remove(RESOURCE_TYPES, &trash)
            .map_err(|error| ApplyError::Io(format!("remove {RESOURCE_TYPES} below"), error))
    }
}

fn stop(error: VersionsError) -> Attempt {
    if let VersionsError::Io { doing, path, source } = error {
        return io_stop(doing, &path, source);
    }
    Attempt::Stop(StageError::node(Chain(&error).to_string()))
}

fn io_stop(doing: &str, path: &Path, error: std::io::Error) -> Attempt {
    Attempt::Stop(StageError::io(doing, path, error))
}
