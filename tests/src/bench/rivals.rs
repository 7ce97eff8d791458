//! The tools that sites use today, each doing its real work on targets of its own, all targets at once.
//!
//! Distribution alone, from a tree that g10k built: `git` (publish, fetch, reset) and `rsync`. The whole way on each
//! target: `r10k --incremental` and `g10k`. None of them switches in one step, and none proves anything.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

use super::{
    account::{as_builder, git, make, write},
    disk::Disk,
    machine,
};
use crate::process::output_of;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rival {
    Git,
    Rsync,
    R10k,
    G10k,
}

pub(super) const RIVALS: [Rival; 4] = [Rival::Git, Rival::Rsync, Rival::R10k, Rival::G10k];

/// Those that only distribute what was built.
pub(super) const DISTRIBUTORS: [Rival; 2] = [Rival::Git, Rival::Rsync];

impl Rival {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Git => "git publish + fetch + reset",
            Self::Rsync => "rsync -a --delete",
            Self::R10k => "r10k --incremental on each",
            Self::G10k => "g10k on each",
        }
    }

    const fn directory(self) -> &'static str {
        match self {
            Self::Git => "git",
            Self::Rsync => "rsync",
            Self::R10k => "r10k",
            Self::G10k => "g10k",
        }
    }
}

#[derive(Debug)]
pub(super) struct Rivals {
    root: PathBuf,
    remote: String,
    /// What the last rsync said that it sent to and got from each target, on average.
    rsync_bytes: AtomicU64,
}

impl Rivals {
    pub(super) fn new(disk: &Disk, remote: &str) -> Result<Self> {
        let rivals =
            Self { root: disk.path("rivals"), remote: remote.to_owned(), rsync_bytes: AtomicU64::new(0) };
        make(&rivals.built(""))?;
        write_config(
            &rivals.root.join("built.yaml"),
            &rivals.root.join("built-cache"),
            &rivals.built(""),
            remote,
        )?;
        Ok(rivals)
    }

    /// Builds on the main server, for those that only distribute. Not measured.
    pub(super) fn build(&self, environments: &[String]) -> Result<()> {
        for environment in environments {
            run_g10k(&self.root.join("built.yaml"), environment)?;
        }
        Ok(())
    }

    /// A tree that was built on the main server.
    pub(super) fn built(&self, environment: &str) -> PathBuf {
        self.root.join("built").join(environment)
    }

    /// Brings the environments to so many targets.
    pub(super) fn deploy(&self, rival: Rival, environments: &[String], targets: usize) -> Result<Duration> {
        for target in 0..targets {
            self.prepare(rival, target)?;
        }
        let began = Instant::now();
        if rival == Rival::Git {
            for environment in environments {
                self.publish(environment)?;
            }
        }
        let bring = |target: usize| -> Result<()> {
            environments.iter().try_for_each(|environment| self.bring(rival, environment, target))
        };
        thread::scope(|scope| {
            let running: Vec<_> = (0..targets).map(|target| scope.spawn(move || bring(target))).collect();
            running
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a target panicked"))?)
        })?;
        Ok(began.elapsed())
    }

    /// Removes every target of one tool, and what it keeps for them.
    pub(super) fn begin_anew(&self, rival: Rival) -> Result<()> {
        let directory = self.root.join(rival.directory());
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("could not remove {}", directory.display()))?;
        }
        machine::sync();
        Ok(())
    }

    pub(super) fn target(&self, rival: Rival, environment: &str, number: usize) -> PathBuf {
        self.place(rival, number).join("environments").join(environment)
    }

    pub(super) fn rsync_bytes(&self) -> u64 {
        self.rsync_bytes.load(Ordering::Relaxed)
    }

    fn place(&self, rival: Rival, number: usize) -> PathBuf {
        self.root.join(rival.directory()).join(format!("target{number}"))
    }

    fn prepare(&self, rival: Rival, number: usize) -> Result<()> {
        let place = self.place(rival, number);
        if place.exists() {
            return Ok(());
        }
        make(&place.join("environments"))?;
        write_config(
            &place.join("config.yaml"),
            &place.join("cache"),
            &place.join("environments"),
            &self.remote,
        )
    }

    fn bring(&self, rival: Rival, environment: &str, number: usize) -> Result<()> {
        let target = self.target(rival, environment, number);
        let config = self.place(rival, number).join("config.yaml");
        match rival {
            Rival::Git => self.fetch(environment, &target),
            Rival::Rsync => self.rsync(environment, &target),
            Rival::G10k => run_g10k(&config, environment),
            Rival::R10k => {
                let mut r10k = as_builder("r10k", &self.root)?;
                r10k.args(["deploy", "environment", environment, "--modules", "--incremental", "--config"]);
                output_of(r10k.arg(config)).map(drop)
            }
        }
    }

    /// `--force`: a `.gitignore` of the control repository must not keep modules out.
    fn publish(&self, environment: &str) -> Result<()> {
        let (repository, built) = (self.published(environment), self.built(environment));
        let directory = format!("--git-dir={}", repository.display());
        let tree = format!("--work-tree={}", built.display());
        let run = |arguments: &[&str]| git(&built, &[&[directory.as_str(), &tree], arguments].concat());
        if !repository.exists() {
            make(&repository)?;
            git(&repository, &["init", "--quiet", "--bare", "--initial-branch", "main"])?;
        }
        run(&["add", "--all", "--force", "."])?;
        run(&["commit", "--quiet", "--allow-empty", "--message", "publish"]).map(drop)
    }

    fn fetch(&self, environment: &str, target: &Path) -> Result<()> {
        if !target.exists() {
            make(target)?;
            git(target, &["init", "--quiet"])?;
        }
        let published = format!("file://{}", self.published(environment).display());
        git(target, &["fetch", "--quiet", &published, "main"])?;
        git(target, &["reset", "--quiet", "--hard", "FETCH_HEAD"]).map(drop)
    }

    fn published(&self, environment: &str) -> PathBuf {
        self.root.join("git/published").join(environment)
    }

    fn rsync(&self, environment: &str, target: &Path) -> Result<()> {
        make(target)?;
        let mut from = self.built(environment).into_os_string();
        from.push("/");
        let said =
            output_of(Command::new("rsync").args(["-a", "--delete", "--stats"]).arg(from).arg(target))?;
        let number = |name: &str| -> u64 {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.map_or(0, |line| line.replace(',', "").trim().parse().unwrap_or(0))
        };
        let bytes = number("Total bytes sent:") + number("Total bytes received:");
        self.rsync_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// The same file serves r10k and g10k.
fn write_config(path: &Path, cache: &Path, base: &Path, remote: &str) -> Result<()> {
    let (cache, base) = (cache.display(), base.display());
    let text = format!(
        "---\n:cachedir: {cache}\ngit:\n  provider: shellgit\nsources:\n  control:\n    \
         remote: {remote}\n    basedir: {base}\n"
    );
    write(path, text.as_bytes())
}

fn run_g10k(config: &Path, environment: &str) -> Result<()> {
    let at = config.parent().context("a configuration lies in a directory")?;
    let said = output_of(as_builder("g10k", at)?.arg("-config").arg(config).args(["-branch", environment]))?;
    // It exits 0 when it cannot reach the repository.
    ensure!(!said.contains("WARN"), "g10k did not deploy {environment}:\n{said}");
    Ok(())
}
