//! A world to build in: git repositories made by the test, a build root, and an object store.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bunraku_builder::{BuildConfig, BuildError, Builder, Built, Kind, ObjectStore};
use bunraku_common::EnvironmentName;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) const BOTH: [Kind; 2] = [Kind::R10k, Kind::G10k];
pub(crate) const USER: &str = "nobody";

pub(crate) struct World {
    dir: TempDir,
    pub(crate) store: Arc<ObjectStore>,
}

impl World {
    /// A control repository with a branch `production` and one module `ntp`.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Only to be passed through: the build user lists nothing here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let store = ObjectStore::open(&dir.path().join("objects")).unwrap();
        let world = Self { dir, store };
        world.repository("ntp", "main");
        world.commit(
            "ntp",
            "main",
            &[
                ("metadata.json", r#"{"name": "a-ntp", "version": "1.2.3"}"#),
                ("manifests/init.pp", "class ntp {}"),
            ],
        );
        world.repository("control", "production");
        let puppetfile = world.puppetfile(&["ntp"]);
        world.commit(
            "control",
            "production",
            &[
                ("Puppetfile", &puppetfile),
                ("environment.conf", "modulepath = modules\n"),
                ("manifests/site.pp", "node default {}\n"),
            ],
        );
        world
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn url(&self, repository: &str) -> String {
        format!("file://{}", self.path(repository).display())
    }

    pub(crate) fn puppetfile(&self, modules: &[&str]) -> String {
        let line = |m: &&str| format!("mod '{m}', :git => '{}', :branch => 'main'\n", self.url(m));
        modules.iter().map(line).collect()
    }

    pub(crate) fn repository(&self, name: &str, branch: &str) {
        fs::create_dir(self.path(name)).unwrap();
        self.git(name, &["init", "--quiet", "--initial-branch", branch]);
    }

    /// Writes files on a branch (made from the current one where it is new); returns the commit.
    pub(crate) fn commit(&self, repository: &str, branch: &str, files: &[(&str, &str)]) -> String {
        let known = self.git(repository, &["branch", "--list", branch]);
        let fresh = self.git(repository, &["branch", "--list"]).is_empty();
        if known.is_empty() && !fresh {
            self.git(repository, &["checkout", "--quiet", "-b", branch]);
        } else if !fresh {
            self.git(repository, &["checkout", "--quiet", branch]);
        }
        for (path, content) in files {
            let path = self.path(repository).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.git(repository, &["add", "--all"]);
        self.git(repository, &["commit", "--quiet", "--allow-empty", "--message", "x"]);
        self.give(repository);
        self.git(repository, &["rev-parse", "HEAD"])
    }

    pub(crate) fn remove(&self, repository: &str, branch: &str, path: &str) -> String {
        self.git(repository, &["checkout", "--quiet", branch]);
        self.git(repository, &["rm", "-r", "--quiet", path]);
        self.commit(repository, branch, &[])
    }

    /// To the build user: git refuses repositories of other owners.
    pub(crate) fn give(&self, below: &str) {
        assert!(Command::new("chown").args(["-R", USER]).arg(self.path(below)).status().unwrap().success());
    }

    pub(crate) fn git(&self, repository: &str, args: &[&str]) -> String {
        let out = Command::new("git")
            .args(["-c", "safe.directory=*", "-c", "user.name=t", "-c", "user.email=t@t"])
            .args(args)
            .current_dir(self.path(repository))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn config(&self, kind: Kind) -> BuildConfig {
        BuildConfig {
            remote: self.url("control"),
            kind,
            user: USER.to_owned(),
            root: self.path("build"),
            transports: vec!["file".to_owned()],
            deadline_s: 60,
            ..BuildConfig::default()
        }
    }

    pub(crate) fn builder(&self, kind: Kind) -> Builder {
        self.builder_with(self.config(kind))
    }

    pub(crate) fn builder_with(&self, config: BuildConfig) -> Builder {
        Builder::new(config, Arc::clone(&self.store)).unwrap()
    }

    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

pub(crate) async fn build(builder: &Builder, branch: &str) -> Result<Built, BuildError> {
    build_at(builder, branch, None).await
}

pub(crate) async fn build_at(
    builder: &Builder,
    branch: &str,
    commit: Option<&str>,
) -> Result<Built, BuildError> {
    let environment = bunraku_builder::environment_of(branch).unwrap();
    builder.build(&environment, branch, commit, CancellationToken::new()).await
}

pub(crate) fn environment(name: &str) -> EnvironmentName {
    EnvironmentName::parse(name).unwrap()
}

/// Waits for a condition, at most ten seconds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Whether a process runs (a zombie does not).
pub(crate) fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}
