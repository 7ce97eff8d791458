//! Runs cargo, and other programs, in the workspace's root.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// The workspace's root, where every program runs.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies one level below the root")
}

/// The folder for everything that is not cargo's own.
pub(crate) fn state() -> PathBuf {
    root().join("target/bunraku")
}

/// Runs a cargo subcommand with the committed lock file.
///
/// `cargo fmt` and installed subcommands do not know `--locked`: for them use [`program`].
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let (subcommand, rest) = arguments.split_first().context("no cargo subcommand was given")?;
    succeed(program("cargo").arg(subcommand).arg("--locked").args(rest))
}

/// A program of this workspace that was built with `profile` ("debug" or "release").
///
/// It is started directly: `cargo run --package` would resolve features for one package and build much again.
pub(crate) fn built(profile: &str, name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("could not find this program's own path")?;
    let target = own.ancestors().nth(2).context("this program does not lie in cargo's target directory")?;
    Ok(target.join(profile).join(name))
}

/// A program that runs in the workspace's root.
pub(crate) fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root());
    command
}

/// Runs a program with the caller's terminal; any other end than success is an error that names the command.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not run {}", shown(command)))?;
    ensure!(status.success(), "{} ended with {status}", shown(command));
    Ok(())
}

/// Runs a program and returns what it printed on standard output, whatever its exit status.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("could not run {}", shown(command)))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A command that runs as root: itself, or through sudo.
pub(crate) fn as_root(name: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return program(name);
    }
    let mut command = program("sudo");
    command.arg(name);
    command
}
