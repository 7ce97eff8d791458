//! The private bare mirror of the control repository, kept with the git program.
//!
//! Git runs with everything that a repository, a user's or a system's configuration could turn into running other
//! programs switched off, and it sees branch names only as full refs.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use bunraku_common::EnvironmentName;
use tokio_util::sync::CancellationToken;

use crate::{
    BuildConfig,
    account::Account,
    branches::{Branches, shown},
    credentials::helper,
    error::BuildError,
    run::{Run, was_cut_off},
};

/// Switches of every call. The auto-detached ones would leave the process group.
const HARDENED: [&str; 7] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "submodule.recurse=false",
    "gc.autoDetach=false",
    "maintenance.autoDetach=false",
    "init.defaultBranch=main",
    "advice.detachedHead=false",
];

/// How git is called.
#[derive(Debug)]
pub(crate) struct Git {
    program: PathBuf,
    account: Account,
    environment: Vec<(OsString, OsString)>,
    deadline: std::time::Duration,
}

impl Git {
    pub(crate) fn new(config: &BuildConfig, account: Account, home: &Path) -> Self {
        Self {
            program: config.git.clone(),
            account,
            environment: environment(config, home, false),
            deadline: config.deadline(),
        }
    }

    fn run<'a>(&'a self, dir: &'a Path, args: &[&str]) -> Run<'a> {
        let hardened = HARDENED.iter().flat_map(|setting| ["-c", setting]);
        Run {
            what: format!("git {}", args.first().copied().unwrap_or_default()),
            program: &self.program,
            args: hardened.chain(args.iter().copied()).map(OsString::from).collect(),
            dir,
            environment: &self.environment,
            deadline: self.deadline,
            mark: None,
        }
    }

    async fn talk(&self, dir: &Path, args: &[&str]) -> Result<(), BuildError> {
        self.run(dir, args).talk(&self.account, &CancellationToken::new()).await?;
        Ok(())
    }

    /// Lock files of git programs that were killed would stop every later run.
    pub(crate) async fn remove_locks(&self, below: &Path) -> Result<(), BuildError> {
        if !below.exists() {
            return Ok(());
        }
        let args = [".", "-xdev", "-type", "f", "-name", "*.lock", "-delete"];
        self.tidy("find", args.iter().map(OsString::from).collect(), below).await
    }

    /// Removes what lies below a directory of the build user.
    pub(crate) async fn remove(&self, below: &Path, paths: &[PathBuf]) -> Result<(), BuildError> {
        if paths.is_empty() {
            return Ok(());
        }
        let args = ["-rf", "--"].iter().map(OsString::from);
        self.tidy("rm", args.chain(paths.iter().map(|path| path.clone().into())).collect(), below).await
    }

    /// Copies directories into another one of the build user, sharing blocks where the file system can.
    pub(crate) async fn copy(&self, from: &[OsString], to: &Path) -> Result<(), BuildError> {
        if from.is_empty() {
            return Ok(());
        }
        let args = ["-a", "--reflink=auto", "--"].iter().map(OsString::from);
        let args = args.chain(from.iter().cloned()).chain([OsString::from(".")]);
        self.tidy("cp", args.collect(), to).await
    }

    /// As the build user: links that it could have put in the way lead nowhere that it could not write by itself.
    async fn tidy(&self, program: &str, args: Vec<OsString>, dir: &Path) -> Result<(), BuildError> {
        let run = Run {
            what: format!("tidying {} with {program}", dir.display()),
            program: Path::new(program),
            args,
            dir,
            environment: &self.environment,
            deadline: self.deadline,
            mark: None,
        };
        run.talk(&self.account, &CancellationToken::new()).await?;
        Ok(())
    }
}

/// What git, and the git that a builder calls, may see. `files` allows the file transport, which a builder needs to
/// reach the repository that is made for it.
pub(crate) fn environment(config: &BuildConfig, home: &Path, files: bool) -> Vec<(OsString, OsString)> {
    let mut transports = config.transports.clone();
    if files && !transports.iter().any(|t| t == "file") {
        transports.push("file".to_owned());
    }
    let git_home = config.git.parent().filter(|dir| dir.is_absolute());
    let path = git_home.map_or_else(OsString::new, |dir| {
        let mut path = dir.as_os_str().to_owned();
        path.push(":");
        path
    });
    let mut environment: Vec<(OsString, OsString)> =
        config.environment.iter().map(|(key, value)| (key.into(), value.into())).collect();
    let mut set = |key: &str, value: OsString| environment.push((key.into(), value));
    set("PATH", [path, "/usr/local/bin:/usr/bin:/bin".into()].into_iter().collect());
    set("HOME", home.into());
    set("LC_ALL", "C.UTF-8".into());
    set("GIT_CONFIG_NOSYSTEM", "1".into());
    set("GIT_CONFIG_GLOBAL", config.git_config.clone().unwrap_or_else(|| "/dev/null".into()).into());
    set("GIT_TERMINAL_PROMPT", "0".into());
    set("GIT_ALLOW_PROTOCOL", transports.join(":").into());
    let hardened = HARDENED.iter().map(|setting| {
        let (key, value) = setting.split_once('=').expect("every setting above has a =");
        (key, OsString::from(value))
    });
    let helper = config.git_credentials.is_some().then(|| ("credential.helper", helper(&config.root)));
    let settings: Vec<(&str, OsString)> = hardened.chain(helper).collect();
    set("GIT_CONFIG_COUNT", settings.len().to_string().into());
    for (number, (key, value)) in settings.into_iter().enumerate() {
        set(&format!("GIT_CONFIG_KEY_{number}"), key.into());
        set(&format!("GIT_CONFIG_VALUE_{number}"), value);
    }
    environment
}

/// The mirror.
#[derive(Debug)]
pub(crate) struct Mirror {
    git: Git,
    remote: String,
    path: PathBuf,
    mark: PathBuf,
    /// Environment of the one call that may use the file transport.
    local: Vec<(OsString, OsString)>,
}

impl Mirror {
    pub(crate) fn new(config: &BuildConfig, account: Account, home: &Path) -> Self {
        Self {
            git: Git::new(config, account, home),
            remote: config.remote.clone(),
            path: config.root.join("mirror.git"),
            mark: config.root.join("mirror.running"),
            local: environment(config, home, true),
        }
    }

    /// Whether the commit and the branch are known without asking the remote.
    pub(crate) async fn knows(
        &self,
        environment: &EnvironmentName,
        branch: &str,
        commit: &str,
    ) -> Result<bool, BuildError> {
        Ok(self.path.join("HEAD").exists()
            && self.has(commit).await?
            && self.branches().await?.find(environment, branch).is_ok())
    }

    /// Fetches everything. Calls must not overlap.
    pub(crate) async fn fetch(&self, cancel: &CancellationToken) -> Result<(), BuildError> {
        if was_cut_off(&self.mark).await {
            self.git.remove_locks(&self.path).await?;
        }
        if !self.path.join("HEAD").exists() {
            let prepare = |source| BuildError::Prepare { path: self.path.clone(), source };
            self.git.account.make_dir(&self.path).map_err(prepare)?;
            self.git.talk(&self.path, &["init", "--quiet", "--bare", "--template="]).await?;
        }
        let args = ["fetch", "--quiet", "--prune", "--force", "--no-tags", "--no-write-fetch-head"];
        let what =
            ["--no-recurse-submodules", "--end-of-options", &self.remote, "+refs/heads/*:refs/heads/*"];
        let mut run = self.git.run(&self.path, &[&args[..], &what[..]].concat());
        run.mark = Some(&self.mark);
        run.talk(&self.git.account, cancel).await?;
        Ok(())
    }

    /// What the last fetch brought.
    pub(crate) async fn branches(&self) -> Result<Branches, BuildError> {
        let args = ["for-each-ref", "--format=%(objectname) %(refname)", "refs/heads/"];
        let answer =
            self.git.run(&self.path, &args).ask(&self.git.account, &CancellationToken::new()).await?;
        let lines = answer.split(|&b| b == b'\n').map(String::from_utf8_lossy);
        Ok(Branches::sort_out(lines.filter_map(|line| {
            let (commit, reference) = line.split_once(' ')?;
            Some((shown(reference.strip_prefix("refs/heads/")?), commit.to_owned()))
        })))
    }

    /// Whether this commit is here, of whatever branch: one that was pushed over may still be built by its id.
    pub(crate) async fn has(&self, commit: &str) -> Result<bool, BuildError> {
        if !matches!(commit.len(), 40 | 64) || !commit.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(BuildError::NotACommit(shown(commit)));
        }
        let object = format!("{commit}^{{commit}}");
        match self.git.talk(&self.path, &["cat-file", "-e", &object]).await {
            Ok(()) => Ok(true),
            Err(BuildError::Run(crate::run::RunError::Failed { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the bare repository that a builder reads: one branch at one commit, objects borrowed from the mirror.
    /// Made anew each time, which costs 10 ms: nothing of an earlier build can be left in it.
    pub(crate) async fn offer(&self, to: &Path, branch: &str, commit: &str) -> Result<(), BuildError> {
        let prepare = |source| BuildError::Prepare { path: to.into(), source };
        match fs::remove_dir_all(to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(prepare(error)),
            Ok(()) | Err(_) => self.git.account.make_dir(to).map_err(prepare)?,
        }
        let mirror = self.path.to_string_lossy();
        let clone = ["clone", "--quiet", "--bare", "--shared", "--single-branch", "--no-tags", "--template="];
        let mut run = self.git.run(to, &[&clone[..], &["--branch", branch, "--", &mirror, "."]].concat());
        run.environment = &self.local;
        run.talk(&self.git.account, &CancellationToken::new()).await?;
        let reference = format!("refs/heads/{branch}");
        self.git.talk(to, &["update-ref", "--no-deref", &reference, commit]).await
    }
}
