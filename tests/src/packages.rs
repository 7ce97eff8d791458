//! A local apt repository: our own package of the node agent, and packages of this host under other versions.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{installed::program, process::output_of};

#[derive(Debug)]
pub struct Packages {
    directory: PathBuf,
    scratch: PathBuf,
}

impl Packages {
    /// An empty one, below `parent`.
    pub fn create(parent: &Path) -> Result<Self> {
        let packages = Self { directory: parent.join("apt"), scratch: parent.join("apt-making") };
        for path in [&packages.directory, &packages.scratch] {
            fs::create_dir(path).with_context(|| format!("could not make {}", path.display()))?;
        }
        packages.list()?;
        Ok(packages)
    }

    /// Makes it the only repository of a machine that is about to boot.
    pub fn serve(&self, root: &Path) -> Result<()> {
        let apt = root.join("etc/apt");
        for path in ["sources.list.d", "preferences.d"] {
            for entry in fs::read_dir(apt.join(path)).into_iter().flatten() {
                fs::remove_file(entry?.path())?;
            }
        }
        let source = format!("deb [trusted=yes] file:{} ./\n", self.directory.display());
        fs::write(apt.join("sources.list"), source).context("could not write sources.list")
    }

    /// The node agent that was built with this program, with the units and scripts of its package.
    pub fn add_agent(&self, version: &str) -> Result<PathBuf> {
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("packaging");
        let tree = self.scratch.join(format!("bunraku-agent-{version}"));
        for below in ["DEBIAN", "usr/bin", "usr/lib/systemd/system", "etc/bunraku"] {
            fs::create_dir_all(tree.join(below))?;
        }
        let architecture = output_of(Command::new("dpkg").arg("--print-architecture"))?;
        let control = format!(
            "Package: bunraku-agent\nVersion: {version}\nArchitecture: {architecture}Maintainer: Bunraku <bunraku@stack.test>\n\
             Description: node agent, as built for a test\n"
        );
        fs::write(tree.join("DEBIAN/control"), control)?;
        fs::write(tree.join("DEBIAN/conffiles"), "/etc/bunraku/agent.toml.example\n")?;
        let copy = |from: &str, to: &str, mode: u32| -> Result<()> {
            let (from, to) = (packaging.join(from), tree.join(to));
            fs::copy(&from, &to).with_context(|| format!("could not copy {}", from.display()))?;
            Ok(fs::set_permissions(&to, PermissionsExt::from_mode(mode))?)
        };
        for script in ["postinst", "prerm", "postrm"] {
            copy(&format!("bunraku-agent/{script}"), &format!("DEBIAN/{script}"), 0o755)?;
        }
        copy("bunraku-agent/agent.toml.example", "etc/bunraku/agent.toml.example", 0o644)?;
        copy("systemd/bunraku-agent.service", "usr/lib/systemd/system/bunraku-agent.service", 0o644)?;
        let built = program("bunraku-agent")?;
        output_of(
            Command::new("strip").arg("-o").arg(tree.join("usr/bin/bunraku-agent")).arg(built.get_program()),
        )?;
        self.build(&tree, "bunraku-agent", version)
    }

    /// A package as this host has it, under another version, and with this change to its tree. `DEBIAN` lies in it, too.
    pub fn add_again(
        &self,
        package: &str,
        version: &str,
        change: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let tree = self.scratch.join(format!("{package}-{version}"));
        let installed = self.scratch.join(format!("installed-{package}"));
        if !installed.exists() {
            fs::create_dir(&installed)?;
            output_of(Command::new("dpkg-repack").arg(package).current_dir(&installed))?;
        }
        let packed = fs::read_dir(&installed)?.next().context("dpkg-repack made nothing")??.path();
        output_of(Command::new("dpkg-deb").arg("--raw-extract").args([&packed, &tree]))?;
        let control = tree.join("DEBIAN/control");
        let text = fs::read_to_string(&control)?;
        let changed: Vec<String> =
            text.lines()
                .map(|line| {
                    if line.starts_with("Version: ") {
                        format!("Version: {version}")
                    } else {
                        line.to_owned()
                    }
                })
                .collect();
        fs::write(&control, changed.join("\n") + "\n")?;
        change(&tree)?;
        self.build(&tree, package, version)
    }

    fn build(&self, tree: &Path, package: &str, version: &str) -> Result<PathBuf> {
        let file = self.directory.join(format!("{package}_{version}.deb"));
        // Made and thrown away in one run: a good compression is not worth its time.
        output_of(
            Command::new("dpkg-deb")
                .args(["--root-owner-group", "-Zgzip", "-z1", "--build"])
                .args([tree, &file]),
        )?;
        fs::remove_dir_all(tree)?;
        self.list()?;
        Ok(file)
    }

    fn list(&self) -> Result<()> {
        let listed = output_of(
            Command::new("dpkg-scanpackages").args(["--multiversion", "."]).current_dir(&self.directory),
        )?;
        fs::write(self.directory.join("Packages"), listed).context("could not list the packages")
    }
}
