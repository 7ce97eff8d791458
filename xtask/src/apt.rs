//! Installs the Debian packages that the tests and the demo need.
//!
//! It says first which ones are missing, and keeps their services from starting: see [`crate::policy`]. Installed
//! packages and their users stay; nothing else outside this workspace changes.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    cargo::{as_root, output_of, program, succeed},
    policy,
};

/// What a real Puppet stack on one machine is made of, and machines with a systemd of their own, clocks that are wrong,
/// and the other family of packages.
pub(crate) const STACK: &[&str] = &[
    "puppetserver",
    "puppet-agent",
    "puppetdb",
    "postgresql",
    "ruby-hocon",
    "haproxy",
    "nginx",
    "libnginx-mod-stream",
    "r10k",
    "g10k",
    "git",
    "curl",
    "iproute2",
    "util-linux",
    "dpkg-dev",
    "dpkg-repack",
    "e2fsprogs",
    "systemd-container",
    "dbus",
    "faketime",
    "dnf",
    "dnf-plugins-core",
    "createrepo-c",
    "rpm",
];

/// What the benchmark compares with.
pub(crate) const BENCH: &[&str] = &["git", "rsync", "r10k", "g10k"];

/// Installs those of `packages` that are missing.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    policy::remove_leftover()?;
    let before = installed()?;
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !before.contains(*package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("these Debian packages are missing and will be installed: {}", missing.join(" "));
    println!("(no service starts; without root this asks sudo)");

    let mut updated = false;
    if !all_are_known(&missing)? {
        update()?;
        updated = true;
    }
    if let Err(error) = install_quietly(&missing) {
        // Old package lists name files that the mirror no longer has.
        if updated {
            return Err(error);
        }
        update()?;
        install_quietly(&missing)?;
    }
    disable_new_units(&before)
}

fn installed() -> Result<BTreeSet<String>> {
    let listed = output_of(program("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev} ${Package}\n"]))
        .context("could not ask which packages are installed; the real stack needs Debian 12")?;
    Ok(listed
        .lines()
        .filter_map(|line| line.strip_prefix("ii "))
        .map(|name| name.trim().to_owned())
        .collect())
}

fn all_are_known(packages: &[&str]) -> Result<bool> {
    let known = output_of(program("apt-cache").env("LC_ALL", "C").arg("policy").args(packages))?;
    let candidates = known.lines().filter_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(candidates.filter(|candidate| *candidate != "(none)").count() == packages.len())
}

fn update() -> Result<()> {
    succeed(as_root("apt-get").args(["update", "-qq"]))
}

fn install_quietly(packages: &[&str]) -> Result<()> {
    let options = ["install", "-y", "--no-install-recommends"];
    succeed(policy::apt_get_without_starts()?.args(options).args(packages))
        .context("could not install the missing packages")
}

/// policy-rc.d forbids a start now, not at the next boot: units that came with these packages are disabled.
fn disable_new_units(before: &BTreeSet<String>) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let after = installed()?;
    let new: Vec<&String> = after.difference(before).collect();
    if new.is_empty() {
        bail!("apt-get succeeded but installed nothing");
    }
    let files = output_of(program("dpkg-query").arg("-L").args(new))?;
    let units: BTreeSet<&str> = files
        .lines()
        .filter(|path| path.contains("/lib/systemd/system/"))
        .filter_map(|path| path.rsplit('/').next())
        .filter(|unit| {
            !unit.contains('@') && [".service", ".socket", ".timer"].iter().any(|end| unit.ends_with(end))
        })
        .collect();
    for unit in units {
        let state = output_of(program("systemctl").args(["is-enabled", unit]))?;
        if state.trim() == "enabled" {
            succeed(as_root("systemctl").args(["disable", "--quiet", unit]))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_every_package_that_its_two_commands_install() {
        let readme = include_str!("../../README.md");
        let start = readme.find("Both first install").expect("the README says what is installed");
        let paragraph = readme[start..].split("\n\n").next().expect("a paragraph");
        let named: BTreeSet<&str> =
            paragraph.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect();
        let lacking: Vec<_> = STACK.iter().filter(|package| !named.contains(**package)).collect();
        assert!(lacking.is_empty(), "{lacking:?}");
    }
}
