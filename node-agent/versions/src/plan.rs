//! What a stage has to do, known before anything is written: the difference, what it needs, and how much room.

use std::collections::HashMap;

use bunraku_common::{
    Digest, limits,
    snapshot::{Change, Node, TreeError, Trees, diff, tree::link_stays_inside},
};

use crate::{
    guard::Guard,
    layout::RESOURCE_TYPES,
    seal::{Seal, Totals},
};

/// The way from a base to what is wanted.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    /// The contents that the changes need.
    pub(crate) needs: HashMap<Digest, Need>,
    /// How large the wanted snapshot is.
    pub(crate) totals: Totals,
    /// What the changes may take on disk.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    pub(crate) size: u64,
    /// How many files have this content.
    pub(crate) uses: u32,
}

#[derive(Debug)]
pub(crate) enum PlanError {
    /// The snapshot is hostile or too large: bad on every node.
    Refused(String),
    /// A listing is not here, or damaged on this disk.
    Trees(TreeError),
}

const BLOCK: u64 = 4096;

impl Plan {
    pub(crate) fn make(trees: &impl Trees, base: Option<&Seal>, want: &Digest) -> Result<Self, PlanError> {
        let guard = Guard::new(trees);
        let failed = |error| guard.refused().map_or(PlanError::Trees(error), PlanError::Refused);
        let changes = diff(&guard, base.map(|seal| &seal.digest), want).map_err(failed)?;
        let totals = base.map(|seal| seal.totals).unwrap_or_default();
        let mut plan = Self { totals, ..Self::default() };
        for change in &changes {
            plan.count(&guard, change).map_err(failed)?;
            plan.check(change)?;
        }
        let entries = plan.totals.files + plan.totals.directories;
        if entries > limits::ENTRIES as u64 {
            return Err(PlanError::Refused(format!("it has more than {} entries", limits::ENTRIES)));
        }
        if plan.totals.bytes > limits::SNAPSHOT_BYTES {
            return Err(PlanError::Refused(format!("it holds more than {} bytes", limits::SNAPSHOT_BYTES)));
        }
        plan.changes = changes;
        Ok(plan)
    }

    fn count(&mut self, trees: &impl Trees, change: &Change) -> Result<(), TreeError> {
        match change {
            Change::Added { node, .. } => self.gain(node, true),
            Change::Changed { old, new, .. } => {
                self.lose(trees, old)?;
                self.gain(new, !same_content(old, new));
            }
            Change::Removed { node, .. } => self.lose(trees, node)?,
        }
        Ok(())
    }

    fn gain(&mut self, node: &Node, content_is_needed: bool) {
        self.inodes += 1;
        match node {
            Node::Directory { .. } => {
                self.totals.directories += 1;
                self.bytes += BLOCK;
            }
            Node::Link { .. } => self.totals.files += 1,
            Node::File { digest, size, .. } => {
                self.totals.files += 1;
                self.totals.bytes = self.totals.bytes.saturating_add(*size);
                self.bytes = self.bytes.saturating_add(size.next_multiple_of(BLOCK));
                if content_is_needed {
                    self.needs.entry(*digest).or_insert(Need { size: *size, uses: 0 }).uses += 1;
                }
            }
        }
    }

    /// A removed directory stands for everything in it.
    fn lose(&mut self, trees: &impl Trees, node: &Node) -> Result<(), TreeError> {
        match node {
            Node::Link { .. } => self.totals.files = self.totals.files.saturating_sub(1),
            Node::File { size, .. } => {
                self.totals.files = self.totals.files.saturating_sub(1);
                self.totals.bytes = self.totals.bytes.saturating_sub(*size);
            }
            Node::Directory { digest } => {
                self.totals.directories = self.totals.directories.saturating_sub(1);
                for entry in trees.tree(digest)?.entries() {
                    self.lose(trees, &entry.node)?;
                }
            }
        }
        Ok(())
    }

    /// What a listing alone cannot tell: links by their depth, one content with two sizes, names that are the node's.
    fn check(&self, change: &Change) -> Result<(), PlanError> {
        let (Change::Added { path, node } | Change::Changed { path, new: node, .. }) = change else {
            return Ok(());
        };
        if path == RESOURCE_TYPES {
            return Err(PlanError::Refused(format!(
                "`{RESOURCE_TYPES}` is made on the node and cannot be part of a snapshot"
            )));
        }
        match node {
            Node::Link { target } if !link_stays_inside(target, path.matches('/').count()) => {
                Err(PlanError::Refused(format!(
                    "the link `{}` leads out of the environment",
                    path.escape_debug()
                )))
            }
            Node::File { digest, size, .. } if self.needs.get(digest).is_some_and(|n| n.size != *size) => {
                Err(PlanError::Refused(format!("`{}` has a wrong size", path.escape_debug())))
            }
            Node::File { .. } | Node::Directory { .. } | Node::Link { .. } => Ok(()),
        }
    }
}

/// Only the executable bit differs.
pub(crate) fn same_content(old: &Node, new: &Node) -> bool {
    matches!((old, new), (Node::File { digest: a, .. }, Node::File { digest: b, .. }) if a == b)
}
