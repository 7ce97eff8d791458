//! Whether there is room, asked before anything is written.

use crate::{
    StageError,
    plan::Plan,
    versions::{Held, Versions},
};

/// What must stay free, beside the reserve.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Versions {
    /// Refuses a stage that would fill the disk.
    pub(crate) fn check_room(
        &self,
        plan: &Plan,
        base: Option<&Held>,
        beside: Room,
    ) -> Result<(), StageError> {
        // Without a spare the base's directories are made anew.
        let directories = base.filter(|held| !held.spare).map_or(0, |held| held.seal.totals.directories);
        let bytes = plan.bytes.saturating_add(directories * 4096).saturating_add(beside.bytes);
        self.room_for(bytes, plan.inodes.saturating_add(directories).saturating_add(beside.inodes))
    }

    /// Whether this much fits beside the reserve.
    pub(crate) fn room_for(&self, bytes: u64, inodes: u64) -> Result<(), StageError> {
        let root = &self.layout.root;
        let room = rustix::fs::statvfs(root)
            .map_err(|error| StageError::io("look at the room on", root, error.into()))?;
        let bytes = bytes.saturating_add(self.layout.reserve_bytes);
        let inodes = inodes.saturating_add(self.layout.reserve_inodes);
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let shown = root.display();
        if bytes > free {
            return Err(StageError::node(format!(
                "disk full: {bytes} bytes are needed with the reserve, {free} are free on the file system of {shown}"
            ))
            .hint(format!("free space: `df -h {shown}`")));
        }
        // A file system without a fixed number of inodes says 0.
        if room.f_files > 0 && inodes > room.f_favail {
            return Err(StageError::node(format!(
                "disk full: {inodes} inodes are needed with the reserve, {} are free on the file system of {shown}",
                room.f_favail
            ))
            .hint(format!("free inodes: `df -i {shown}`")));
        }
        Ok(())
    }
}
