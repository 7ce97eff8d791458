//! Versions that come after newer ones: what the controller retains and this node has never had, or has no more. They
//! are kept for a rollback and for static catalogs; nothing else on the node changes with them.

use std::sync::atomic::AtomicBool;

use bunraku_common::{Digest, EnvironmentName};

use crate::{
    PackSource, Policy, StageError, Staged, VersionsError,
    room::Room,
    seal::Seal,
    versions::{Held, Versions, locked},
};

/// A version to keep beside what is live.
#[derive(Debug, Clone, Copy)]
pub struct Retained<'a> {
    /// Snapshots that the controller retains, newest first.
    pub newest_first: &'a [Digest],
    pub policy: &'a Policy,
    /// Monotonic, in milliseconds.
    pub now: u64,
}

/// What a version is staged for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose<'a> {
    Commit,
    Keep(&'a Retained<'a>),
}

impl Versions {
    /// How many versions of an environment this node would keep: what is brought beyond that would leave again.
    pub fn keeps(&self, policy: &Policy) -> usize {
        // Without room the oldest leave: none is brought until there is room again.
        if self.is_pressed(policy) { 0 } else { policy.newest }
    }

    /// As [`stage`](Self::stage), of a version that is not to become live. It takes its place among the others by the
    /// controller's list, not by when it came, leaves the spare to the next deploy, and leaves so much room that
    /// no version has to go for it.
    ///
    /// # Errors
    /// Also when this node would not keep it.
    pub fn stage_retained(
        &self,
        env: &EnvironmentName,
        want: &Digest,
        retained: &Retained<'_>,
        pack: &mut dyn PackSource,
        cancel: &AtomicBool,
    ) -> Result<Staged, StageError> {
        let place = retained.newest_first.iter().position(|digest| digest == want);
        if !self.is_sealed(env, want) && place.is_none_or(|place| place >= self.keeps(retained.policy)) {
            let kept = self.keeps(retained.policy);
            let reason =
                format!("of {env} this node keeps {kept} versions, {} is not among them", want.short());
            return Err(StageError::node(reason));
        }
        let staged = self.stage_for(Purpose::Keep(retained), env, want, pack, cancel)?;
        if !staged.already {
            locked(&self.ages).brought(env, *want, retained.now);
        }
        Ok(staged)
    }

    /// The number of a version that is about to be sealed; higher is newer.
    ///
    /// A retained one stands where the controller's list has it. The others of the list move above all that the list
    /// does not name (what an abandoned deploy left), so that none of them leaves in their stead. The newest is moved
    /// first: their order among each other is right whenever this ends.
    pub(crate) fn place_in_order(
        &self,
        purpose: Purpose<'_>,
        env: &EnvironmentName,
        want: &Digest,
    ) -> Result<u64, VersionsError> {
        let seals = self.seals(env);
        let highest = seals.iter().map(|seal| seal.order).max().unwrap_or(0);
        let Purpose::Keep(retained) = purpose else { return Ok(highest + 1) };
        let mut order = highest + retained.newest_first.len() as u64;
        let mut of_wanted = highest + 1;
        for digest in retained.newest_first {
            if digest == want {
                of_wanted = order;
            } else if let Some(seal) = seals.iter().find(|seal| seal.digest == *digest) {
                let path = self.layout.seal(env, digest);
                let moved = Seal { order, ..*seal };
                moved.write(&path, &self.temporary()).map_err(VersionsError::io("write", &path))?;
            }
            order -= 1;
        }
        Ok(of_wanted)
    }
}

impl Purpose<'_> {
    /// What must stay free after it, beside the reserve.
    pub(crate) fn beside(self) -> Room {
        match self {
            Self::Commit => Room::default(),
            Self::Keep(retained) => {
                Room { bytes: retained.policy.free_bytes, inodes: retained.policy.free_inodes }
            }
        }
    }

    /// The spare is for the next deploy.
    pub(crate) fn leave_spare(self, held: &mut Vec<Held>) {
        if matches!(self, Self::Keep(_)) {
            held.retain(|held| held.at.is_some());
            held.iter_mut().for_each(|held| held.spare = false);
        }
    }
}
