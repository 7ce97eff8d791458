//! The versions on a node: what is here, what is sealed, what is live.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bunraku_common::{Digest, EnvironmentName, limits, objects::Objects};

use crate::{
    VersionsError,
    ages::Ages,
    layout::{Layout, parse_version_name},
    seal::Seal,
};

/// The versions of all environments on this node. Cheap to share between threads; work on one environment takes its
/// turn, different environments go side by side.
pub struct Versions {
    pub(crate) layout: Layout,
    pub(crate) trees: Objects,
    /// By environment: what one stage has received must not be taken by another that runs beside it.
    incoming: Mutex<BTreeMap<EnvironmentName, Arc<Objects>>>,
    turns: Mutex<BTreeMap<EnvironmentName, Arc<Mutex<()>>>>,
    /// Held by the stage that begins with nothing: environments share almost everything, so others that come beside
    /// it wait, and begin with what it made.
    pub(crate) from_nothing: Mutex<()>,
    /// Held shared while something may need objects that no sealed version needs yet.
    pub(crate) collecting: RwLock<()>,
    /// Counts stages, so that a collection notices one that came in between.
    pub(crate) stages: AtomicU64,
    pub(crate) ages: Mutex<Ages>,
    pub(crate) drift: Mutex<BTreeMap<EnvironmentName, BTreeSet<String>>>,
    run: String,
    next_name: AtomicU64,
}

/// What a node holds and serves of one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentState {
    pub environment: EnvironmentName,
    /// What the live link resolves to, if it is a link of ours.
    pub live: Option<Digest>,
    /// The live version is sealed.
    pub sealed: bool,
    /// Sealed versions, newest first.
    pub versions: Vec<Digest>,
    /// Paths changed by hand, as the last scrub saw them; at most 100.
    pub drift: Vec<String>,
    /// A real directory stands where the link would be.
    pub unmanaged: bool,
    /// A link stands there that is none of ours; its target.
    pub foreign_link: Option<PathBuf>,
}

impl Versions {
    /// Opens or makes the directories, and removes what an earlier process left unfinished.
    pub fn open(layout: Layout) -> Result<Self, VersionsError> {
        for path in [&layout.root, &layout.environments_dir] {
            if !path.is_absolute() {
                return Err(VersionsError::NotAbsolute { path: path.clone() });
            }
        }
        prepare_directories(&layout)?;
        let objects =
            |path: PathBuf| Objects::open(&path).map_err(VersionsError::io("open the objects in", &path));
        let versions = Self {
            trees: objects(layout.root.join("trees"))?,
            incoming: Mutex::default(),
            layout,
            turns: Mutex::default(),
            from_nothing: Mutex::default(),
            collecting: RwLock::default(),
            stages: AtomicU64::new(0),
            ages: Mutex::default(),
            drift: Mutex::default(),
            run: run_name(),
            next_name: AtomicU64::new(0),
        };
        versions.clean_up()?;
        Ok(versions)
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Files that were received for this environment and are not yet in a version.
    pub(crate) fn incoming(&self, env: &EnvironmentName) -> Result<Arc<Objects>, VersionsError> {
        let mut all = locked(&self.incoming);
        if let Some(known) = all.get(env) {
            return Ok(Arc::clone(known));
        }
        let path = self.layout.incoming().join(env.as_str());
        let opened = Arc::new(Objects::open(&path).map_err(VersionsError::io("open the objects in", &path))?);
        all.insert(env.clone(), Arc::clone(&opened));
        Ok(opened)
    }

    /// Where this version is, whether it is there or not.
    pub fn resolve(&self, env: &EnvironmentName, digest: &Digest) -> PathBuf {
        self.layout.version(env, digest)
    }

    pub fn is_sealed(&self, env: &EnvironmentName, digest: &Digest) -> bool {
        self.seal_of(env, digest).is_some()
    }

    /// What the live link names, if it is a link of ours. Whether it is sealed is another question.
    pub fn live(&self, env: &EnvironmentName) -> Option<Digest> {
        let target = fs::read_link(self.layout.link(env)).ok()?;
        let name = target.file_name()?.to_str()?;
        let digest = parse_version_name(env, name)?;
        (target == self.layout.version(env, &digest)).then_some(digest)
    }

    /// A real directory stands where the link would be.
    pub fn unmanaged(&self, env: &EnvironmentName) -> bool {
        fs::symlink_metadata(self.layout.link(env)).is_ok_and(|found| found.is_dir())
    }

    /// Sealed versions, newest first.
    pub fn list(&self, env: &EnvironmentName) -> Vec<Digest> {
        let mut seals = self.seals(env);
        seals.sort_by_key(|seal| std::cmp::Reverse(seal.order));
        seals.into_iter().map(|seal| seal.digest).collect()
    }

    /// What this node holds and serves, environment by environment.
    pub fn observe(&self) -> Vec<EnvironmentState> {
        let mut environments = self.environments();
        let is_environment = |env: &EnvironmentName| {
            fs::symlink_metadata(self.layout.link(env)).is_ok_and(|found| !found.is_file())
        };
        environments.extend(names_in(&self.layout.environments_dir).into_iter().filter(is_environment));
        environments.into_iter().map(|env| self.observe_one(env)).collect()
    }

    fn observe_one(&self, environment: EnvironmentName) -> EnvironmentState {
        let live = self.live(&environment);
        let foreign_link =
            if live.is_none() { fs::read_link(self.layout.link(&environment)).ok() } else { None };
        EnvironmentState {
            live,
            sealed: live.is_some_and(|digest| self.is_sealed(&environment, &digest)),
            versions: self.list(&environment),
            drift: locked(&self.drift)
                .get(&environment)
                .map(|paths| paths.iter().take(100).cloned().collect())
                .unwrap_or_default(),
            unmanaged: self.unmanaged(&environment),
            foreign_link,
            environment,
        }
    }

    /// Digests to name as held when asking for `want`, best base first: the spare's, the live one, other versions,
    /// then what is live in other environments, or the newest where nothing is.
    pub fn haves(&self, env: &EnvironmentName, want: &Digest) -> Vec<Digest> {
        self.held(env, want).into_iter().map(|held| held.seal.digest).collect()
    }

    pub(crate) fn held(&self, env: &EnvironmentName, want: &Digest) -> Vec<Held> {
        let mut held: Vec<Held> = Vec::new();
        let mut add = |seal: Seal, at: Option<PathBuf>| {
            if let Some(known) = held.iter_mut().find(|known| known.seal.digest == seal.digest) {
                known.at = known.at.take().or(at);
            } else if held.len() < limits::HAVES {
                held.push(Held { seal, spare: at.is_none(), at });
            }
        };
        if let Some(seal) = self.spare_seal(env) {
            add(seal, None);
        }
        let mut seals = self.seals(env);
        seals.sort_by_key(|seal| std::cmp::Reverse(seal.order));
        let live = self.live(env);
        seals.sort_by_key(|seal| Some(seal.digest) != live);
        for seal in seals.into_iter().filter(|seal| seal.digest != *want) {
            add(seal, Some(self.layout.version(env, &seal.digest)));
        }
        for other in self.environments().into_iter().filter(|other| other != env) {
            let live = self.live(&other).and_then(|digest| self.seal_of(&other, &digest));
            let newest = || self.seals(&other).into_iter().max_by_key(|seal| seal.order);
            if let Some(seal) = live.or_else(newest) {
                add(seal, Some(self.layout.version(&other, &seal.digest)));
            }
        }
        held
    }

    /// Environments that have a directory of versions.
    pub(crate) fn environments(&self) -> BTreeSet<EnvironmentName> {
        names_in(&self.layout.versions()).into_iter().collect()
    }

    pub(crate) fn seals(&self, env: &EnvironmentName) -> Vec<Seal> {
        file_names(&self.layout.versions_of(env))
            .iter()
            .filter_map(|name| parse_version_name(env, name.strip_suffix(".seal")?))
            .filter_map(|digest| self.seal_of(env, &digest))
            .collect()
    }

    pub(crate) fn seal_of(&self, env: &EnvironmentName, digest: &Digest) -> Option<Seal> {
        let seal = Seal::read(&self.layout.seal(env, digest)).filter(|seal| seal.digest == *digest)?;
        is_real_directory(&self.layout.version(env, digest)).then_some(seal)
    }

    pub(crate) fn spare_seal(&self, env: &EnvironmentName) -> Option<Seal> {
        let seal = Seal::read(&self.layout.spare_seal(env))?;
        is_real_directory(&self.layout.spare(env)).then_some(seal)
    }

    /// The environment's turn; hold the guard of the mutex while working on its versions.
    pub(crate) fn turn(&self, env: &EnvironmentName) -> Arc<Mutex<()>> {
        locked(&self.turns).entry(env.clone()).or_default().clone()
    }

    /// A free name for something that will be renamed into place.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.layout.tmp().join(self.unique_name())
    }

    /// A free name in the trash.
    pub(crate) fn trash_name(&self) -> PathBuf {
        self.layout.trash().join(self.unique_name())
    }

    fn unique_name(&self) -> String {
        format!("{}-{}", self.run, self.next_name.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a tree out of the way at once; `empty_trash` deletes it later.
    pub(crate) fn throw_away(&self, path: &Path) -> Result<(), VersionsError> {
        match fs::rename(path, self.trash_name()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(VersionsError::io("move away", path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn clean_up(&self) -> Result<(), VersionsError> {
        for env in self.environments() {
            let directory = self.layout.versions_of(&env);
            for name in file_names(&directory) {
                let digest = parse_version_name(&env, name.strip_suffix(".seal").unwrap_or(&name));
                let kept = digest
                    .is_some_and(|digest| self.is_sealed(&env, &digest) || self.live(&env) == Some(digest));
                if !kept {
                    self.throw_away(&directory.join(name))?;
                }
            }
        }
        let spares = self.layout.spares();
        for name in file_names(&spares) {
            let env = EnvironmentName::parse(name.strip_suffix(".seal").unwrap_or(&name)).ok();
            if env.is_none_or(|env| self.spare_seal(&env).is_none()) {
                self.throw_away(&spares.join(name))?;
            }
        }
        self.clean_up_links()
    }

    /// A link that lay ready is removed. A directory under that name is one whose adoption was interrupted between
    /// the exchange and the move: it is never deleted.
    fn clean_up_links(&self) -> Result<(), VersionsError> {
        let directory = &self.layout.environments_dir;
        for name in file_names(directory) {
            let env = name.strip_prefix('.').and_then(|name| name.strip_suffix(".bunraku"));
            let Some(Ok(env)) = env.map(EnvironmentName::parse) else { continue };
            let path = directory.join(&name);
            let is_link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
            if is_link {
                fs::remove_file(&path).map_err(VersionsError::io("remove", &path))?;
            } else {
                self.move_to_adopted(&env, &path)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Versions({})", self.layout.root.display())
    }
}

/// A snapshot whose files are here.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) seal: Seal,
    /// The version that holds it; none when only the spare does.
    pub(crate) at: Option<PathBuf>,
    pub(crate) spare: bool,
}

/// A lock whose holder panicked protects nothing that could be half changed: the disk is the truth.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn is_real_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// UTF-8 names in a directory; none when it is not there.
pub(crate) fn file_names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn names_in(directory: &Path) -> Vec<EnvironmentName> {
    file_names(directory).iter().filter_map(|name| EnvironmentName::parse(name).ok()).collect()
}

fn prepare_directories(layout: &Layout) -> Result<(), VersionsError> {
    let root = &layout.root;
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent).map_err(VersionsError::io("make", parent))?;
    }
    layout.make_root().map_err(VersionsError::io("make", root))?;
    let all = layout.versions();
    layout.make_passage(&all).map_err(VersionsError::io("make", &all))?;
    for env in names_in(&layout.versions()) {
        let directory = layout.versions_of(&env);
        layout.make_passage(&directory).map_err(VersionsError::io("make", &directory))?;
    }
    let mut private = fs::DirBuilder::new();
    private.mode(0o700).recursive(true);
    let names = ["spare", "incoming", "trees", "tmp", "trash", "adopted"];
    for path in names.map(|name| root.join(name)) {
        private.create(&path).map_err(VersionsError::io("make", &path))?;
    }
    // Temporary names of an earlier process: nothing refers to them.
    let tmp = layout.tmp();
    fs::remove_dir_all(&tmp).and_then(|()| private.create(&tmp)).map_err(VersionsError::io("empty", &tmp))
}

/// Differs from run to run: what an earlier process left in the trash keeps its name.
fn run_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), since.as_nanos())
}
