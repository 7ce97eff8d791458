//! The build user's work: git and the builders run as it, and what they use belongs to it, because git refuses
//! repositories of another user.

use std::{
    fs,
    os::unix::{fs::lchown, process::CommandExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    process::output_of,
    stack::{BUILD_USER, User},
};

/// A program run as the build user, which reads no git configuration of the caller's.
pub(super) fn as_builder(program: &str, at: &Path) -> Result<Command> {
    let user = User::named(BUILD_USER)?;
    let mut command = Command::new(program);
    command
        .current_dir(at)
        .uid(user.uid)
        .gid(user.gid)
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "bench").env(format!("GIT_{role}_EMAIL"), "bench@bench.test");
    }
    Ok(command)
}

/// Runs git in a repository.
pub(super) fn git(at: &Path, arguments: &[&str]) -> Result<String> {
    // Tidying starts by itself, in the background of whoever is measured next.
    output_of(
        as_builder("git", at)?.args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"]).args(arguments),
    )
}

/// Makes a directory, and those above it that are missing, for the build user.
pub(super) fn make(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(above) = directory.parent() {
        make(above)?;
    }
    let user = User::named(BUILD_USER)?;
    fs::create_dir(directory)
        .and_then(|()| lchown(directory, Some(user.uid), Some(user.gid)))
        .with_context(|| format!("could not make {}", directory.display()))
}

/// Writes a file of the build user's.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        make(parent)?;
    }
    let user = User::named(BUILD_USER)?;
    fs::write(path, content)
        .and_then(|()| lchown(path, Some(user.uid), Some(user.gid)))
        .with_context(|| format!("could not write {}", path.display()))
}
