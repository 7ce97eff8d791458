//! Which versions leave, and how: by rename into the trash at once, deleted later.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bunraku_common::{Digest, EnvironmentName};

use crate::{
    VersionsError,
    layout::sync_directory,
    versions::{Versions, file_names, locked},
};

/// How many versions a node keeps for rollback, for static catalogs and for compiles in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones, whatever their age.
    pub newest: usize,
    /// Everything younger than this, or live within it.
    pub window: Duration,
    /// Also when the disk is full: what was live within this may still be read by a compile.
    pub longest_compile: Duration,
    /// With less than this free, the oldest versions leave although the rules above would keep them.
    pub free_bytes: u64,
    pub free_inodes: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            newest: 5,
            window: Duration::from_secs(2 * 3600),
            longest_compile: Duration::from_secs(30 * 60),
            free_bytes: 1 << 30,
            free_inodes: 50_000,
        }
    }
}

impl Versions {
    /// Versions that need not be kept, oldest first: never the live one, never the one that was live before it, never
    /// the one whose link lies ready, which a commit may name at any time (a rollback stages an old one).
    ///
    /// `now` is monotonic, in milliseconds. Changes nothing: one of them may become the spare first.
    pub fn excess(&self, env: &EnvironmentName, now: u64, policy: &Policy) -> Vec<Digest> {
        let live = self.live(env);
        let ready = fs::read_link(self.layout.ready_link(env)).ok();
        let newest_first = self.list(env);
        let aged = locked(&self.ages).of(env, &newest_first, now);
        let before = aged
            .iter()
            .rev()
            .filter(|(digest, _)| Some(*digest) != live)
            .max_by_key(|(_, age)| age.left)
            .map(|(digest, _)| *digest);
        let pressed = self.is_pressed(policy);
        let within = |since: Option<u64>, time: Duration| {
            since.is_some_and(|since| u128::from(now.saturating_sub(since)) < time.as_millis())
        };
        let mut excess: Vec<Digest> = aged
            .iter()
            .enumerate()
            .filter(|(_, (digest, _))| Some(*digest) != live && Some(*digest) != before)
            .filter(|(_, (digest, _))| ready.as_ref() != Some(&self.layout.version(env, digest)))
            .filter(|(at, (_, age))| {
                let kept = *at < policy.newest
                    || within(Some(age.seen), policy.window)
                    || within(age.left, policy.window);
                let in_use = within(age.left, policy.longest_compile);
                if pressed { !in_use } else { !kept }
            })
            .map(|(_, (digest, _))| *digest)
            .collect();
        excess.reverse();
        excess
    }

    /// Lets the versions go that need not be kept; returns which. They are deleted by `empty_trash`.
    pub fn retain(
        &self,
        env: &EnvironmentName,
        now: u64,
        policy: &Policy,
    ) -> Result<Vec<Digest>, VersionsError> {
        let excess = self.excess(env, now, policy);
        for digest in &excess {
            self.discard(env, digest)?;
        }
        Ok(excess)
    }

    /// Forgets a version. Never the live one; that a version was not proven live is the caller's knowledge.
    pub fn discard(&self, env: &EnvironmentName, digest: &Digest) -> Result<(), VersionsError> {
        self.discard_if(env, digest, || true)
    }

    /// As [`discard`](Self::discard), asking once more when it is this order's turn: a newer order may have staged the
    /// same version again meanwhile.
    pub fn discard_if(
        &self,
        env: &EnvironmentName,
        digest: &Digest,
        still: impl FnOnce() -> bool,
    ) -> Result<(), VersionsError> {
        let turn = self.turn(env);
        let _turn = locked(&turn);
        if !still() {
            return Err(VersionsError::Overtaken { environment: env.clone() });
        }
        if self.live(env) == Some(*digest) {
            return Err(VersionsError::Live { environment: env.clone(), digest: *digest });
        }
        let ready = self.layout.ready_link(env);
        let version = self.layout.version(env, digest);
        if fs::read_link(&ready).is_ok_and(|target| target == version) {
            fs::remove_file(&ready).map_err(VersionsError::io("remove", &ready))?;
        }
        // The seal first: a version without one does not count, a seal without a version neither.
        self.throw_away(&self.layout.seal(env, digest))?;
        self.throw_away(&version)
    }

    /// Deletes what left. Takes time; for the background.
    pub fn empty_trash(&self, cancel: &AtomicBool) -> Result<(), VersionsError> {
        // What is deleted here must not come back, half empty, under its old name after a power loss.
        let trash = self.layout.trash();
        sync_directory(&trash).map_err(VersionsError::io("sync", &trash))?;
        for name in file_names(&trash) {
            if cancel.load(Ordering::Relaxed) {
                return Err(VersionsError::Cancelled);
            }
            let path = trash.join(name);
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            let gone = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(VersionsError::io("delete", &path))?;
        }
        Ok(())
    }

    /// Whether versions leave for want of room.
    pub fn is_pressed(&self, policy: &Policy) -> bool {
        rustix::fs::statvfs(&self.layout.root).is_ok_and(|room| {
            let free = room.f_bavail.saturating_mul(room.f_frsize);
            free < policy.free_bytes || (room.f_files > 0 && room.f_favail < policy.free_inodes)
        })
    }
}
