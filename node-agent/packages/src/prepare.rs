//! All that can be found out and fetched before a compiler is drained.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{CallError, Called, Change, Manager, Plan, PlanError, Planned, Refusal, Simulated, call::call};

/// A question to the package database.
const ASKING: Duration = Duration::from_secs(60);
/// One package of 100 MB over a slow line.
const FETCHING: Duration = Duration::from_secs(600);

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub package: String,
    pub version: String,
}

/// What this node's configuration allows.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// Packages that may get another version, or be removed. New ones that these depend on may come.
    pub packages: Vec<String>,
    pub downgrade: bool,
    /// Whether it may become older: it was asked for.
    pub older: bool,
    /// Whether it may be done though there is no way back: it was asked for.
    pub no_way_back: bool,
}

/// The packages of this host.
#[derive(Debug)]
pub struct Packages<'a> {
    pub manager: &'a dyn Manager,
    /// Of our own, on a disk: the plan and its packages.
    pub directory: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("`{0}` is not the name of a package")]
    Package(String),
    #[error("`{0}` is not a version")]
    Version(String),
    #[error(
        "this node does not grant changes of {package}{because}\nhint: add it to allow below [packages] in agent.toml, and restart bunraku-agent"
    )]
    NotAllowed { package: String, because: String },
    #[error(
        "{package} {version} would be older than what is installed\nhint: add --downgrade, if that is meant"
    )]
    Older { package: String, version: String },
    #[error(
        "this node does not grant that {package} becomes older, as {version} is\nhint: downgrade = true below [packages] in agent.toml, and restart bunraku-agent"
    )]
    Downgrade { package: String, version: String },
    #[error(
        "there is no way back from {package} {version}: the present version of {lost} is in no repository, not in the cache, and could not be rebuilt\nhint: install dpkg-repack there (Debian, Ubuntu), or add --no-revert: then a failed update stays as it is"
    )]
    NoWayBack { package: String, version: String, lost: String },
    #[error("could not fetch {package} {version}: {why}")]
    Fetch { package: String, version: String, why: String },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("could not use {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What a transaction would do, as far as is known before anything is fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreseen {
    pub changes: Vec<Change>,
    /// The packages whose present version can be had from nowhere: there is no way back.
    pub lost: Vec<String>,
}

impl Packages<'_> {
    /// The version that is installed.
    pub async fn installed(&self, package: &str) -> Result<Option<String>, PrepareError> {
        if !self.manager.is_package(package.split(':').next().unwrap_or(package)) {
            return Err(PrepareError::Package(package.to_owned()));
        }
        let called = self.ask(&self.manager.installed(package)).await?;
        Ok(self.manager.read_installed(&called))
    }

    /// Whether an earlier transaction was cut short, and of what.
    pub async fn audit(&self) -> Result<(), PrepareError> {
        match self.manager.audit() {
            Some(words) => Ok(self.manager.read_audit(&self.ask(&words).await?)?),
            None => Ok(()),
        }
    }

    /// What is not as the plan wants it, the way back included: the first package that differs.
    pub async fn differs(&self, plan: &Plan, back: bool) -> Result<Option<String>, PrepareError> {
        let Target { package, version } = &plan.target;
        let whole = [(package, None, Some(version))];
        let changes = plan.changes.iter().map(|it| (&it.package, it.from.as_ref(), it.to.as_ref()));
        for (package, from, to) in changes.chain(whole.into_iter().filter(|_| !back)) {
            let wanted = if back { from } else { to };
            let found = self.installed(package).await?;
            if found.as_ref() != wanted {
                let word =
                    |version: Option<&String>| version.map_or("not installed".to_owned(), Clone::clone);
                let (found, wanted) = (word(found.as_ref()), word(wanted));
                return Ok(Some(format!("{package} is {found}, and should be {wanted}")));
            }
        }
        Ok(None)
    }

    /// What a transaction would change, if it is granted and possible. Empty: nothing. Nothing is fetched.
    pub async fn foresee(&self, target: &Target, allowed: &Allowed) -> Result<Foreseen, PrepareError> {
        let Some(Simulated { changes, .. }) = self.simulated(target, allowed).await? else {
            return Ok(Foreseen::default());
        };
        let mut lost = Vec::new();
        for Change { package, from, .. } in &changes {
            if let Some(version) = from
                && !self.can_be_had(package, version).await?
            {
                lost.push(package.clone());
            }
        }
        consented(target, &lost.join(", "), allowed)?;
        Ok(Foreseen { changes, lost })
    }

    /// Simulates, judges, fetches, and saves the plan. Nothing on this host changes but our own directory. Where the
    /// target is installed and a plan for it is there, that one is answered: of an order that ended well it has to be
    /// forgotten before.
    pub async fn prepare(&self, target: &Target, allowed: &Allowed) -> Result<Plan, PrepareError> {
        let Some(simulated) = self.simulated(target, allowed).await? else {
            return self.nothing_to_do(target).await;
        };
        let plan = self.fetch(target, simulated.changes, simulated.downgrades).await?;
        consented(target, &plan.no_way_back().join(", "), allowed)?;
        plan.save(&self.directory)?;
        Ok(plan)
    }

    /// `None`: it is installed.
    async fn simulated(&self, target: &Target, allowed: &Allowed) -> Result<Option<Simulated>, PrepareError> {
        let Target { package, version } = target;
        if !self.manager.is_package(package) {
            return Err(PrepareError::Package(package.clone()));
        }
        if !self.manager.is_version(version) {
            return Err(PrepareError::Version(version.clone()));
        }
        if !allowed.packages.contains(package) {
            return Err(PrepareError::NotAllowed { package: package.clone(), because: String::new() });
        }
        self.audit().await?;
        if self.installed(package).await?.as_ref() == Some(version) {
            return Ok(None);
        }
        let called = self.ask(&self.manager.simulate(package, version)).await?;
        let mut simulated = self.manager.read_simulated(package, version, &called)?;
        for change in simulated.changes.iter_mut().filter(|change| change.from.is_none()) {
            change.from = self.installed(&change.package).await?;
        }
        self.judge(target, &simulated.changes, allowed).await?;
        if simulated.downgrades && !allowed.older {
            return Err(PrepareError::Older { package: package.clone(), version: version.clone() });
        }
        if simulated.downgrades && !allowed.downgrade {
            return Err(PrepareError::Downgrade { package: package.clone(), version: version.clone() });
        }
        Ok(Some(simulated))
    }

    /// A plan of the same target, of which nothing differs, is kept: it knows the way back from what it has done.
    async fn nothing_to_do(&self, target: &Target) -> Result<Plan, PrepareError> {
        if let Some(known) = Plan::open(&self.directory)?.filter(|plan| plan.target == *target)
            && self.differs(&known, false).await?.is_none()
        {
            return Ok(known);
        }
        let plan = Plan { target: target.clone(), changes: Vec::new(), downgrades: false };
        self.emptied()?;
        plan.save(&self.directory)?;
        Ok(plan)
    }

    /// Without a plan, and with room for the packages of before and of then.
    fn emptied(&self) -> Result<(PathBuf, PathBuf), PrepareError> {
        let (old, new) = (self.directory.join("old"), self.directory.join("new"));
        Plan::forget(&self.directory)
            .and_then(|()| fs::create_dir_all(&old))
            .and_then(|()| fs::create_dir_all(&new))
            .map_err(|source| PrepareError::Directory { path: self.directory.clone(), source })?;
        Ok((old, new))
    }

    async fn judge(
        &self,
        target: &Target,
        changes: &[Change],
        allowed: &Allowed,
    ) -> Result<(), PrepareError> {
        let held = match self.manager.held() {
            Some(words) => self.ask(&words).await?.stdout,
            None => String::new(),
        };
        for change in changes {
            if held.lines().any(|held| held == change.package) {
                return Err(Refusal::Held(change.package.clone()).into());
            }
            if change.from.is_some() && !allowed.packages.contains(&change.package) {
                let does = if change.to.is_some() { "changes" } else { "removes" };
                let because = format!(", which {} {} {does}", target.package, target.version);
                return Err(PrepareError::NotAllowed { package: change.package.clone(), because });
            }
        }
        Ok(())
    }

    async fn fetch(
        &self,
        target: &Target,
        changes: Vec<Change>,
        downgrades: bool,
    ) -> Result<Plan, PrepareError> {
        let (old, new) = self.emptied()?;
        let mut planned = Vec::new();
        for Change { package, from, to } in changes {
            let new_file = match &to {
                Some(version) => Some(self.wanted(&package, version, &new).await?),
                None => None,
            };
            let old_file = match &from {
                Some(version) => self.present(&package, version, &old).await?,
                None => None,
            };
            planned.push(Planned { package, from, to, old: old_file, new: new_file });
        }
        Ok(Plan { target: target.clone(), changes: planned, downgrades })
    }

    async fn wanted(&self, package: &str, version: &str, into: &Path) -> Result<PathBuf, PrepareError> {
        let called = call(&self.manager.download(package, version, into), FETCHING).await?;
        self.file(package, version, into, 0).ok_or_else(|| PrepareError::Fetch {
            package: package.into(),
            version: version.into(),
            why: called.complaint(),
        })
    }

    /// From a repository, from the cache, or rebuilt of what is installed.
    async fn present(
        &self,
        package: &str,
        version: &str,
        into: &Path,
    ) -> Result<Option<PathBuf>, PrepareError> {
        call(&self.manager.download(package, version, into), FETCHING).await?;
        if let Some(file) = self.file(package, version, into, 0) {
            return Ok(Some(file));
        }
        if let Some(cached) = self.cached(package, version)
            && let Some(name) = cached.file_name()
            && fs::copy(&cached, into.join(name)).is_ok()
        {
            return Ok(Some(into.join(name)));
        }
        if let Some(words) = self.manager.rebuild(package, into) {
            // Its program need not be there.
            call(&words, FETCHING).await.ok();
        }
        Ok(self.file(package, version, into, 0))
    }

    /// As [`Self::present`] would find it.
    async fn can_be_had(&self, package: &str, version: &str) -> Result<bool, PrepareError> {
        let located = self.ask(&self.manager.locate(package, version)).await?;
        if (located.is_success() && !located.stdout.trim().is_empty())
            || self.cached(package, version).is_some()
        {
            return Ok(true);
        }
        match self.manager.rebuilds() {
            Some(words) => Ok(self.ask(&words).await?.is_success()),
            None => Ok(false),
        }
    }

    fn cached(&self, package: &str, version: &str) -> Option<PathBuf> {
        self.file(package, version, &self.manager.cache(), self.manager.cache_depth())
    }

    /// In a directory, or so deep below it.
    fn file(&self, package: &str, version: &str, directory: &Path, depth: usize) -> Option<PathBuf> {
        let prefix = self.manager.file_prefix(package, version);
        let entries: Vec<_> = fs::read_dir(directory).ok()?.filter_map(Result::ok).collect();
        let fits =
            |name: &str| name.starts_with(&prefix) && (name.ends_with(".deb") || name.ends_with(".rpm"));
        let here = entries.iter().find(|entry| fits(&entry.file_name().to_string_lossy()));
        here.map(fs::DirEntry::path).or_else(|| {
            let depth = depth.checked_sub(1)?;
            let below = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            below.map(fs::DirEntry::path).find_map(|below| self.file(package, version, &below, depth))
        })
    }

    async fn ask(&self, words: &[String]) -> Result<Called, CallError> {
        call(words, ASKING).await
    }
}

/// `lost`: what cannot be brought back.
fn consented(target: &Target, lost: &str, allowed: &Allowed) -> Result<(), PrepareError> {
    if lost.is_empty() || allowed.no_way_back {
        return Ok(());
    }
    let Target { package, version } = target.clone();
    Err(PrepareError::NoWayBack { package, version, lost: lost.to_owned() })
}
