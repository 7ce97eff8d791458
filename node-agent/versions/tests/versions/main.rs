//! What the versions of a node promise, on a real file system.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adoption;
mod disk_full;
mod fixture;
mod healing;
mod hostile;
mod packs;
mod retention;
mod sequences;
mod staging;
