//! Reads the live links all the time, far more often than a compile would.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

const LOOK: Duration = Duration::from_millis(1);

/// Looks until it is dropped.
pub(crate) struct Witness {
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    looks: u64,
    violations: Vec<String>,
}

impl Witness {
    /// One link of each node, and where that node keeps the versions of this environment.
    pub(crate) fn watch(links: Vec<PathBuf>, versions: Vec<PathBuf>) -> Self {
        let (seen, over) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (told, stop) = (seen.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut last: Vec<Option<PathBuf>> = vec![None; links.len()];
            while !stop.load(Ordering::Relaxed) {
                for (link, last) in links.iter().zip(&mut last) {
                    look(link, last, &versions, &told);
                }
                std::thread::sleep(LOOK);
            }
        });
        Self { seen, over, thread: Some(thread) }
    }

    pub(crate) fn check(&self) {
        let seen = locked(&self.seen);
        assert!(seen.looks > 0, "the witness never looked");
        assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _a_panic_was_printed = thread.join();
        }
    }
}

fn look(link: &Path, last: &mut Option<PathBuf>, versions: &[PathBuf], seen: &Mutex<Seen>) {
    locked(seen).looks += 1;
    let target = fs::read_link(link).ok();
    if *last == target {
        return;
    }
    match &target {
        None => violated(seen, format!("I1: {} is gone for an instant", link.display())),
        Some(target) => everybody_has_staged(target, versions, seen),
    }
    *last = target;
}

/// I2: whoever serves a version, all others have it verified and sealed.
fn everybody_has_staged(target: &Path, versions: &[PathBuf], seen: &Mutex<Seen>) {
    let Some(name) = target.file_name().and_then(|name| name.to_str()) else {
        violated(seen, format!("I1: a link leads to {}", target.display()));
        return;
    };
    for versions in versions {
        if !versions.join(format!("{name}.seal")).exists() {
            violated(seen, format!("I2: {name} is served while {} has not sealed it", versions.display()));
        }
    }
}

fn violated(seen: &Mutex<Seen>, what: String) {
    locked(seen).violations.push(what);
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
