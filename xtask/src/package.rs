//! `cargo xtask package` and `cargo xtask audit`: both call a cargo subcommand that is installed once, at a fixed
//! version, below target/tools.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::cargo::{self, program, succeed};

const CARGO_DEB: Tool = Tool { name: "cargo-deb", version: "3.8.0" };
const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

/// The programs that become packages.
const PACKAGES: &[&str] = &["bunraku", "bunraku-agent"];

/// Makes the two .deb files in target/debian.
pub(crate) fn debian_packages() -> Result<()> {
    let cargo_deb = CARGO_DEB.installed()?;
    let selected = PACKAGES.iter().flat_map(|package| ["--package", package]);
    cargo::run(&["build", "--release", "--bins"].into_iter().chain(selected).collect::<Vec<_>>())?;
    for package in PACKAGES {
        write_completions(package)?;
        succeed(program(&cargo_deb).args(["--no-build", "--locked", "--package", package]))?;
    }
    Ok(())
}

/// Asks the program itself for its completions, and puts them where the package's `assets` look for them.
fn write_completions(package: &str) -> Result<()> {
    let folder = cargo::built("release", "completions")?;
    fs::create_dir_all(&folder).context("could not make the folder for completions")?;
    let files = [
        ("bash", format!("{package}.bash")),
        ("zsh", format!("_{package}")),
        ("fish", format!("{package}.fish")),
    ];
    for (shell, file) in files {
        let mut command = program(cargo::built("release", package)?);
        let text = cargo::output_of(command.args(["completions", shell]))?;
        ensure!(!text.is_empty(), "`{package} completions {shell}` printed nothing");
        fs::write(folder.join(&file), text).with_context(|| format!("could not write {file}"))?;
    }
    Ok(())
}

/// Licences, bans and sources as in deny.toml. The advisories of RustSec need GitHub: `cargo deny check advisories`.
pub(crate) fn audit() -> Result<()> {
    let cargo_deny = CARGO_DENY.installed()?;
    succeed(program(cargo_deny).args(["--locked", "check", "bans", "licenses", "sources"]))
}

/// A cargo subcommand from crates.io.
#[derive(Debug)]
struct Tool {
    name: &'static str,
    version: &'static str,
}

impl Tool {
    /// The path of the program, which is built first when it is missing or of another version.
    fn installed(&self) -> Result<PathBuf> {
        let root = cargo::root().join("target/tools");
        let path = root.join("bin").join(self.name);
        if !self.is_at(&path)? {
            println!("{} {} is built first, only once (a few minutes)", self.name, self.version);
            succeed(
                program("cargo")
                    .args(["install", "--quiet", "--locked", self.name, "--version", self.version])
                    .arg("--root")
                    .arg(&root),
            )?;
        }
        Ok(path)
    }

    fn is_at(&self, path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        let shown = cargo::output_of(program(path).arg("--version"))?;
        Ok(shown.split_whitespace().any(|word| word == self.version))
    }
}
