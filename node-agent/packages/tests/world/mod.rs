//! A root of a test's own, an overlay over this host's that nobody else sees, and a package manager in it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use bunraku_packages::{Allowed, Foreseen, Manager, Packages, Plan, PrepareError, Target};

/// The configuration file of the package `toyserver`.
pub(crate) const CONF: &str = "/etc/toyserver/toy.conf";
pub(crate) const LOCK: Duration = Duration::from_secs(60);

/// Mounts the root, runs $2 beside it, and lives until its input ends.
const MOUNT: &str = r#"
set -e
mount -t tmpfs tmpfs "$1/overlay"
cd "$1/overlay"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir="$PWD/upper",workdir="$PWD/work" root
mkdir -p "root$1/shared"
mount --bind "$1/shared" "root$1/shared"
mount --bind /dev root/dev
mount --bind /proc root/proc
eval "$2"
echo ready
cat > /dev/null
"#;

#[derive(Debug)]
pub(crate) struct World<M> {
    holder: Child,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) manager: M,
    /// As seen from outside.
    root: PathBuf,
    enter: Vec<String>,
}

impl<M: Manager> World<M> {
    /// `furnish` is a script that finds the root as `root`, and the test's directory, with `shared` in it, as `$1`.
    pub(crate) fn make(furnish: &str, manager: impl FnOnce(Vec<String>, PathBuf) -> M) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts an overlay: it needs root");
        let directory = tempfile::tempdir().unwrap();
        for name in ["overlay", "shared", "shared/repo", "shared/plan", "build"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", MOUNT, "sh"])
            .arg(directory.path())
            .arg(furnish)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the root was not made");
        let root = directory.path().join("overlay/root");
        let pid = holder.id().to_string();
        let enter = ["nsenter", "--target", &pid, "--mount", "--", "chroot", root.to_str().unwrap()];
        let enter = enter.map(str::to_owned).to_vec();
        let seen = PathBuf::from(format!("/proc/{pid}/root{}", root.display()));
        let manager = manager(enter.clone(), seen.clone());
        Self { holder, directory, manager, root: seen, enter }
    }

    pub(crate) fn shared(&self) -> PathBuf {
        self.directory.path().join("shared")
    }

    /// A file of the root, as seen from outside.
    pub(crate) fn file(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    pub(crate) fn run(&self, words: &[String]) -> Output {
        Command::new(&words[0]).args(&words[1..]).current_dir("/").stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn inside(&self, words: &[&str]) -> Output {
        let words = words.iter().map(|word| (*word).to_owned());
        self.run(&self.enter.iter().cloned().chain(words).collect::<Vec<_>>())
    }

    pub(crate) fn fine(&self, words: &[&str]) -> String {
        let output = self.inside(words);
        assert_fine(&output);
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn packages(&self) -> Packages<'_> {
        Packages { manager: &self.manager, directory: self.shared().join("plan") }
    }

    pub(crate) async fn prepare(&self, version: &str, allowed: &Allowed) -> Result<Plan, PrepareError> {
        let target = Target { package: "toyserver".into(), version: version.into() };
        self.packages().prepare(&target, allowed).await
    }

    pub(crate) async fn foresee(&self, version: &str, allowed: &Allowed) -> Result<Foreseen, PrepareError> {
        let target = Target { package: "toyserver".into(), version: version.into() };
        self.packages().foresee(&target, allowed).await
    }

    /// What is not as it was before the plan; `None`: all is.
    pub(crate) async fn differs_from_before(&self, plan: &Plan) -> Option<String> {
        self.packages().differs(plan, true).await.unwrap()
    }

    pub(crate) async fn installed(&self, package: &str) -> Option<String> {
        self.packages().installed(package).await.unwrap()
    }
}

impl<M> Drop for World<M> {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().ok();
    }
}

pub(crate) fn toyserver() -> Allowed {
    Allowed { packages: vec!["toyserver".into()], ..Allowed::default() }
}

pub(crate) fn assert_fine(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}
