//! The control repository: real git, file transport, one module beside it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use bunraku_builder::{BuildConfig, Kind};

/// The user that builds: git refuses repositories of other owners, so they belong to it.
const BUILD_USER: &str = "nobody";

#[derive(Debug)]
pub struct ControlRepository {
    dir: PathBuf,
}

impl ControlRepository {
    /// A branch `production` with a module `ntp`.
    pub(super) fn make(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
        let made = Self { dir: dir.into() };
        made.repository("ntp", "main");
        made.commit_in(
            "ntp",
            "main",
            &[
                ("metadata.json", r#"{"name": "a-ntp", "version": "1.2.3"}"#),
                ("manifests/init.pp", "class ntp {}\n"),
            ],
        );
        made.repository("control", "production");
        let puppetfile = format!("mod 'ntp', :git => '{}', :branch => 'main'\n", made.url("ntp"));
        made.commit(
            "production",
            &[
                ("Puppetfile", &puppetfile),
                ("environment.conf", "modulepath = modules\n"),
                ("manifests/site.pp", "node default {}\n"),
            ],
        );
        made
    }

    /// Writes files on a branch (made from the current one where it is new); answers the commit.
    pub fn commit(&self, branch: &str, files: &[(&str, &str)]) -> String {
        self.commit_in("control", branch, files)
    }

    /// Makes a symbolic link on a branch, whatever it points to.
    pub fn commit_link(&self, branch: &str, path: &str, target: &str) -> String {
        self.checkout("control", branch);
        std::os::unix::fs::symlink(target, self.dir.join("control").join(path)).unwrap();
        self.record("control")
    }

    /// Removes a path from a branch.
    pub fn remove(&self, branch: &str, path: &str) -> String {
        self.checkout("control", branch);
        self.git("control", &["rm", "-r", "--quiet", path]);
        self.record("control")
    }

    pub(super) fn build_config(&self, root: PathBuf) -> BuildConfig {
        BuildConfig {
            remote: self.url("control"),
            kind: Kind::G10k,
            user: BUILD_USER.to_owned(),
            root,
            transports: vec!["file".to_owned()],
            deadline_s: 60,
            ..BuildConfig::default()
        }
    }

    fn url(&self, repository: &str) -> String {
        format!("file://{}", self.dir.join(repository).display())
    }

    fn repository(&self, name: &str, branch: &str) {
        fs::create_dir(self.dir.join(name)).unwrap();
        self.git(name, &["init", "--quiet", "--initial-branch", branch]);
    }

    fn commit_in(&self, repository: &str, branch: &str, files: &[(&str, &str)]) -> String {
        self.checkout(repository, branch);
        for (path, content) in files {
            let path = self.dir.join(repository).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.record(repository)
    }

    fn checkout(&self, repository: &str, branch: &str) {
        if self.git(repository, &["branch", "--list"]).is_empty() {
            return;
        }
        if self.git(repository, &["branch", "--list", branch]).is_empty() {
            self.git(repository, &["checkout", "--quiet", "-b", branch]);
        } else {
            self.git(repository, &["checkout", "--quiet", branch]);
        }
    }

    fn record(&self, repository: &str) -> String {
        self.git(repository, &["add", "--all"]);
        self.git(repository, &["commit", "--quiet", "--allow-empty", "--message", "x"]);
        let given = Command::new("chown").args(["-R", BUILD_USER]).arg(self.dir.join(repository)).status();
        assert!(given.unwrap().success());
        self.git(repository, &["rev-parse", "HEAD"])
    }

    fn git(&self, repository: &str, args: &[&str]) -> String {
        let out = Command::new("git")
            .args(["-c", "safe.directory=*", "-c", "user.name=t", "-c", "user.email=t@t"])
            .args(args)
            .current_dir(self.dir.join(repository))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }
}
