//! `cargo xtask test`: everything that must pass, the fast layers first.
//!
//! All steps select the whole workspace, so that cargo resolves features once and nothing is built twice.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};

use crate::{apt, cargo, cargo::program};

/// Test binaries with this prefix start real Puppet Servers; they enter private namespaces by themselves.
const REAL: &str = "real_";

/// Some tests interrupt a node between two steps on its disk. The same for every step, so that nothing is built twice.
const FEATURES: &str = "--features=bunraku-versions/failpoints";

pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    section("packages", || apt::install(apt::STACK))?;
    section("formatting", || cargo::succeed(program("cargo").args(["fmt", "--all", "--check"])))?;
    section("lints", || {
        cargo::run(&["clippy", "--quiet", "--workspace", FEATURES, "--all-targets", "--", "-D", "warnings"])
    })?;
    // The programs are built before any test starts them.
    section("build", || {
        cargo::run(&["build", "--quiet", "--workspace", FEATURES, "--bins"])?;
        cargo::run(&["test", "--quiet", "--workspace", FEATURES, "--all-targets", "--no-run"])
    })?;
    section("unit tests", || cargo::run(&["test", "--quiet", "--workspace", FEATURES, "--lib", "--bins"]))?;
    section("documentation tests", || cargo::run(&["test", "--quiet", "--workspace", FEATURES, "--doc"]))?;

    let (real, fast): (Vec<_>, Vec<_>) =
        integration_tests()?.into_iter().partition(|name| name.starts_with(REAL));
    section("integration tests", || integration(&fast))?;
    section("real Puppet stack", || integration(&real))?;
    println!("\nall tests passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs one part under a heading, and says how long it took.
fn section(name: &str, part: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let start = Instant::now();
    part().with_context(|| format!("{name} failed"))?;
    println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn integration(names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let selected = names.iter().flat_map(|name| ["--test", name.as_str()]);
    cargo::run(&["test", "--workspace", FEATURES].into_iter().chain(selected).collect::<Vec<_>>())
}

/// The names of all integration tests: `tests/NAME.rs` and `tests/NAME/main.rs` of every member (members lie one or
/// two levels deep).
fn integration_tests() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for member in directories(cargo::root())? {
        for below in std::iter::once(member.clone()).chain(directories(&member)?) {
            if below.join("Cargo.toml").exists() && below.join("tests").is_dir() {
                names.extend(test_targets(&below.join("tests"))?);
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn directories(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(parent).with_context(|| format!("could not list {}", parent.display()))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    Ok(paths.filter(|path| path.is_dir() && !path.ends_with("target")).collect())
}

fn test_targets(directory: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("could not list {}", directory.display()))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let targets =
        paths.filter(|path| path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").exists());
    Ok(targets.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect())
}
