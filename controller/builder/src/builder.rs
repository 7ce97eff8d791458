//! A build, from the branch to the snapshot in the store.
//!
//! 1. the mirror fetches the control repository, and the commit is fixed;
//! 2. a repository is made that holds one branch at that commit, and the builder deploys it into its base directory;
//! 3. the transports of what it fetched are checked, the tree is taken into the store, and the builder's own
//!    manifest in it must name that commit.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bunraku_common::{Chain, Digest, EnvironmentName};
use tokio::sync::{OnceCell, OwnedMutexGuard, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    BuildConfig,
    account::Account,
    branches::{Branches, shown},
    credentials::Credentials,
    error::BuildError,
    git::{self, Git, Mirror},
    manifest::{self, Module},
    output::hide_passwords,
    place::Place,
    remotes,
    run::{Run, was_cut_off},
    seed,
    snapshot::{self, Exclude, Snapshot, SnapshotError},
    store::{ObjectStore, Pin},
};

/// Builds environments. One is enough for a controller; its root must not be used by another.
#[derive(Debug)]
pub struct Builder {
    config: BuildConfig,
    account: Account,
    credentials: Credentials,
    exclude: Exclude,
    store: Arc<ObjectStore>,
    home: PathBuf,
    git: Git,
    mirror: tokio::sync::Mutex<Mirror>,
    /// One build of an environment at a time.
    turns: Mutex<BTreeMap<EnvironmentName, Arc<tokio::sync::Mutex<()>>>>,
    side_by_side: Semaphore,
    version: OnceCell<String>,
}

/// A snapshot, and where it came from.
#[derive(Debug)]
pub struct Built {
    pub digest: Digest,
    pub branch: String,
    /// Full id of the control repository's commit.
    pub commit: String,
    pub files: u64,
    pub bytes: u64,
    /// Files that were read; the others had not changed since the last build.
    pub opened: u64,
    pub modules: Vec<Module>,
    /// `r10k 3.15.4`.
    pub builder: String,
    /// What the builder printed, its end.
    pub output: String,
    /// Keeps the snapshot through sweeps until the deploy is on record.
    pub pin: Pin,
}

impl Builder {
    /// Makes the build root. Fails where the user does not exist or this process may not become it. Blocks shortly.
    pub fn new(config: BuildConfig, store: Arc<ObjectStore>) -> Result<Self, BuildError> {
        config.check_remote()?;
        let account = Account::resolve(&config.user)?;
        let exclude = Exclude::parse(&config.exclude)?;
        let home = config.root.join("home");
        let make = || {
            fs::create_dir_all(config.root.join("environments"))?;
            for dir in [&config.root, &config.root.join("environments")] {
                // The build user must pass through; nobody lists what is there.
                fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
            }
            account.make_dir(&home)
        };
        make().map_err(|source| BuildError::Prepare { path: config.root.clone(), source })?;
        let credentials = Credentials::new(config.git_credentials.clone(), &config.root);
        credentials.ready(&account)?;
        Ok(Self {
            git: Git::new(&config, account, &home),
            mirror: tokio::sync::Mutex::new(Mirror::new(&config, account, &home)),
            side_by_side: Semaphore::new(config.parallel.max(1)),
            turns: Mutex::new(BTreeMap::new()),
            version: OnceCell::new(),
            config,
            account,
            credentials,
            exclude,
            store,
            home,
        })
    }

    /// Fetches the control repository and tells its branches.
    pub async fn branches(&self) -> Result<Branches, BuildError> {
        let mirror = self.mirror.lock().await;
        self.credentials.ready(&self.account)?;
        mirror.fetch(&CancellationToken::new()).await?;
        mirror.branches().await
    }

    /// Builds one environment from its branch, at its tip or at `commit` (a full id). Waits for another build of the
    /// same environment. A cancelled build leaves nothing that the next one would trip over.
    pub async fn build(
        &self,
        environment: &EnvironmentName,
        branch: &str,
        commit: Option<&str>,
        cancel: CancellationToken,
    ) -> Result<Built, BuildError> {
        let cancelled = || BuildError::Cancelled(environment.clone());
        let turn = tokio::select! {
            turn = self.turn(environment).lock_owned() => turn,
            () = cancel.cancelled() => return Err(cancelled()),
        };
        let _side_by_side = tokio::select! {
            permit = self.side_by_side.acquire() => permit.expect("the semaphore is never closed"),
            () = cancel.cancelled() => return Err(cancelled()),
        };
        let place = Place::new(&self.config.root, environment, self.config.kind);
        let commit = self.offer(&place, environment, branch, commit, &cancel).await?;
        let output = self.deploy(&place, environment, branch, &cancel).await?;
        let (snapshot, pin) = self.snapshot(&place, environment, turn, &cancel).await?;
        self.confirm(environment, &snapshot.digest, &commit)?;
        let modules = manifest::modules(&self.store, &snapshot.digest)
            .map_err(|source| BuildError::ReadBack { environment: environment.clone(), source })?;
        Ok(Built {
            digest: snapshot.digest,
            branch: branch.to_owned(),
            commit,
            files: snapshot.files,
            bytes: snapshot.bytes,
            opened: snapshot.opened,
            modules,
            builder: self.version().await.to_owned(),
            output,
            pin,
        })
    }

    /// What helps against a failure that is not the builder's own.
    pub fn hint(&self, error: &BuildError) -> Option<String> {
        let root = self.config.root.display();
        error.is_full_disk().then(|| format!("free space or inodes: `df -h {root}; df -i {root}`"))
    }

    fn turn(&self, environment: &EnvironmentName) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(environment.clone()).or_default())
    }

    /// Fixes the commit and makes the repository that the builder reads.
    async fn offer(
        &self,
        place: &Place,
        environment: &EnvironmentName,
        branch: &str,
        commit: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<String, BuildError> {
        let prepare = |source| BuildError::Prepare { path: place.dir().into(), source };
        place.found().map_err(prepare)?;
        if was_cut_off(&place.mark()).await {
            tracing::info!(%environment, "the last build was cut off: its tree and its cache are made anew");
            place.clear().map_err(prepare)?;
        }
        if !place.cache().exists() {
            self.seed(place, environment).await;
        }
        place.furnish(&self.account).map_err(prepare)?;
        self.credentials.ready(&self.account)?;
        let mirror = self.mirror.lock().await;
        let known = match commit {
            Some(asked) => mirror.knows(environment, branch, asked).await?,
            None => false,
        };
        if !known {
            mirror.fetch(cancel).await?;
        }
        let branches = mirror.branches().await?;
        let found = branches.find(environment, branch)?;
        let commit = match commit {
            None => found.commit.clone(),
            Some(asked) if mirror.has(asked).await? => asked.to_owned(),
            Some(asked) => return Err(BuildError::NoCommit { commit: shown(asked) }),
        };
        mirror.offer(&place.control(), &found.name, &commit).await?;
        Ok(commit)
    }

    /// From the environment that was built last, of those that are not being built.
    async fn seed(&self, place: &Place, environment: &EnvironmentName) {
        let built = |name: String| {
            let donor = EnvironmentName::parse(&name).ok()?;
            let from = Place::new(&self.config.root, &donor, self.config.kind);
            let when = fs::metadata(from.stat_cache()).and_then(|meta| meta.modified()).ok()?;
            Some((when, donor, from))
        };
        let names = fs::read_dir(self.config.root.join("environments")).into_iter().flatten();
        let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut donors: Vec<_> = names.filter_map(built).collect();
        donors.sort_by_key(|(when, ..)| std::cmp::Reverse(*when));
        for (_, donor, from) in donors {
            let Ok(_nobody_builds_there) = self.turn(&donor).try_lock_owned() else { continue };
            if from.mark().exists() {
                continue;
            }
            if let Err(error) = seed::seed(&self.git, &self.account, &from, place).await {
                let error = Chain(&error).to_string();
                tracing::info!(%environment, %donor, error, "no modules could be taken over");
            }
            return;
        }
    }

    async fn deploy(
        &self,
        place: &Place,
        environment: &EnvironmentName,
        branch: &str,
        cancel: &CancellationToken,
    ) -> Result<String, BuildError> {
        let prepare = |source| BuildError::Prepare { path: place.dir().into(), source };
        let own = place.control_url();
        let (kind, allowed) = (self.config.kind, &self.config.transports);
        let left = remotes::forbidden_places(&place.cache(), &own, allowed).map_err(prepare)?;
        self.git.remove(&place.cache(), &left).await?;
        let yaml = kind.configuration(place, self.config.forge.as_deref(), self.config.deadline_s);
        place.configure(&self.account, &yaml).map_err(prepare)?;
        let run = Run {
            what: format!("{} for {environment}", kind.as_str()),
            program: self.program(),
            args: kind.arguments(place, branch),
            dir: place.dir(),
            environment: &git::environment(&self.config, &self.home, true),
            deadline: self.config.deadline(),
            mark: Some(&place.mark()),
        };
        let output = run.talk(&self.account, cancel).await?;
        let forbidden = remotes::forbidden(&place.cache(), &own, allowed).map_err(prepare)?;
        if forbidden.is_empty() { Ok(output) } else { Err(BuildError::Transport { forbidden }) }
    }

    async fn snapshot(
        &self,
        place: &Place,
        environment: &EnvironmentName,
        turn: OwnedMutexGuard<()>,
        cancel: &CancellationToken,
    ) -> Result<(Snapshot, Pin), BuildError> {
        let tree = place.base().join(environment.as_str());
        let (cache, exclude, cancel) = (place.stat_cache(), self.exclude.clone(), cancel.clone());
        let store = Arc::clone(&self.store);
        let taken = tokio::task::spawn_blocking(move || {
            // A caller that goes away does not stop this thread: the turn must stay with it.
            let _turn = turn;
            snapshot::take(&tree, &cache, &exclude, &store, &cancel)
        });
        let failed = |source| BuildError::Snapshot { environment: environment.clone(), source };
        match taken.await {
            Ok(Err(SnapshotError::Cancelled)) => Err(BuildError::Cancelled(environment.clone())),
            Ok(taken) => taken.map_err(failed),
            Err(error) => Err(failed(SnapshotError::Store(std::io::Error::other(error)))),
        }
    }

    fn confirm(
        &self,
        environment: &EnvironmentName,
        digest: &Digest,
        commit: &str,
    ) -> Result<(), BuildError> {
        let kind = self.config.kind;
        let said = manifest::confirms(&self.store, digest, kind, commit)
            .map_err(|source| BuildError::ReadBack { environment: environment.clone(), source })?;
        said.map_err(|reason| BuildError::NotDeployed {
            builder: kind.as_str(),
            file: kind.manifest(),
            environment: environment.clone(),
            reason,
        })
    }

    fn program(&self) -> &Path {
        match self.config.kind {
            crate::Kind::R10k => &self.config.r10k,
            crate::Kind::G10k => &self.config.g10k,
        }
    }

    /// `r10k 3.15.4`; only the name where the program does not tell more (Debian's g10k).
    async fn version(&self) -> &str {
        let kind = self.config.kind;
        let ask = || async {
            let run = Run {
                what: format!("{} version", kind.as_str()),
                program: self.program(),
                args: vec![kind.version_argument().into()],
                dir: &self.home,
                environment: &git::environment(&self.config, &self.home, false),
                deadline: self.config.deadline(),
                mark: None,
            };
            let said = run.talk(&self.account, &CancellationToken::new()).await.unwrap_or_default();
            let number = said.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
            let number = number.map_or_else(String::new, |n| format!(" {}", hide_passwords(n)));
            format!("{}{number}", kind.as_str())
        };
        self.version.get_or_init(ask).await
    }
}
