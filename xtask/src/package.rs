//! `cargo xtask package` and `cargo xtask audit`: both call a cargo subcommand that is installed once, at a fixed
//! version, below target/tools.

use std::path::{Path, PathBuf};

use anyhow::Result;

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
        succeed(program(&cargo_deb).args(["--no-build", "--locked", "--package", package]))?;
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
