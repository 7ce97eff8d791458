//! A package database of a test's own: apt and dpkg are real, the repository is the test's, and what they write ends
//! with the process that [`apart`] made.

#![expect(
    clippy::unwrap_used,
    reason = "what helps tests, outside of the functions that clippy knows as tests"
)]

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use bunraku_proto::v1::{self, action::Kind};

use crate::fleet::restart;

const INSIDE: &str = "BUNRAKU_TEST_INSIDE";
/// The package that there is to update.
const PACKAGE: &str = "toyserver";

/// What dpkg and apt write becomes an overlay that ends with this process; repositories are ours alone.
const MOUNTS: &str = r#"
set -e
mount -t tmpfs tmpfs "$1"
for dir in var/lib/dpkg var/lib/apt var/cache var/log etc/apt opt; do
    mkdir -p "$1/$dir/upper" "$1/$dir/work"
    mount -t overlay overlay -o "lowerdir=/$dir,upperdir=$1/$dir/upper,workdir=$1/$dir/work" "/$dir"
done
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/apt/preferences.d/*
echo "deb [trusted=yes] file:$1/repo ./" > /etc/apt/sources.list
mkdir "$1/repo""#;

/// This program again, with mounts of its own; there, [`directory`] is this one. The words are still to come.
pub fn apart(directory: &Path) -> Command {
    assert!(rustix::process::geteuid().is_root(), "this test mounts overlays: it needs root");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(env::current_exe().unwrap());
    command.env(INSIDE, directory);
    command
}

/// Of a process that [`apart`] made.
pub fn directory() -> Option<PathBuf> {
    env::var_os(INSIDE).map(PathBuf::from)
}

/// The repository, and the directory that it lies in.
#[derive(Debug)]
pub struct Apt(PathBuf);

impl Apt {
    /// With these versions, each with the script that dpkg runs to configure it; the first one is installed.
    pub fn mount(directory: PathBuf, versions: &[(&str, String)]) -> Self {
        run("sh", &[OsStr::new("-c"), MOUNTS.as_ref(), "sh".as_ref(), directory.as_ref()]);
        let apt = Self(directory);
        versions.iter().for_each(|(version, postinst)| apt.build(version, postinst));
        apt.tell();
        let installed = format!("{PACKAGE}={}", versions[0].0);
        run("apt-get", &["-y", "-q", "-oAPT::Sandbox::User=root", "install", &installed]);
        apt
    }

    /// A place for what a test needs beside the repository.
    pub fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }

    /// Makes another version, and lets apt know.
    pub fn package(&self, version: &str, postinst: &str) {
        self.build(version, postinst);
        self.tell();
    }

    fn build(&self, version: &str, postinst: &str) {
        let tree = self.path(&format!("{PACKAGE}-{version}"));
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::create_dir_all(tree.join("opt").join(PACKAGE)).unwrap();
        fs::write(tree.join("opt").join(PACKAGE).join("version"), version).unwrap();
        let control = format!(
            "Package: {PACKAGE}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@t.example>\nDescription: toy\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        let script = tree.join("DEBIAN/postinst");
        fs::write(&script, format!("#!/bin/sh\n{postinst}\n")).unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let file = self.path(&format!("repo/{PACKAGE}_{version}_all.deb"));
        run("dpkg-deb", &[OsStr::new("--build"), tree.as_ref(), file.as_ref()]);
    }

    fn tell(&self) {
        let index = format!("cd {} && dpkg-scanpackages -m . > Packages", self.path("repo").display());
        run("sh", &["-c", &index]);
        run("apt-get", &["-q", "-oAPT::Sandbox::User=root", "update"]);
    }

    /// State and version of the package.
    pub fn installed(&self) -> String {
        run("dpkg-query", &["-W", "-f", "${db:Status-Status} ${Version}", PACKAGE])
    }
}

/// Runs a program to its end; answers its standard output.
pub fn run(program: &str, words: &[impl AsRef<OsStr>]) -> String {
    let output = Command::new(program).args(words).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Of c1 alone: all nodes are this one host.
pub fn update(version: &str) -> v1::RolloutRequest {
    let (package, version) = (PACKAGE.to_owned(), version.to_owned());
    let action = v1::Action { kind: Kind::Update.into(), package, version, ..v1::Action::default() };
    v1::RolloutRequest { action: Some(action), nodes: vec!["c1".to_owned()], ..restart() }
}

/// Lets rollouts change the package.
pub fn allow(config: &mut bunraku_agent::Config) {
    config.packages.allow = vec![PACKAGE.to_owned()];
}
