//! What the versions of a node promise, on a real file system.

mod adoption;
mod bench;
mod disk_full;
mod fixture;
mod healing;
mod hostile;
mod packs;
mod retention;
mod sequences;
mod staging;
