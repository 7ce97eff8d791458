//! Snapshots of trees, well-meant and hostile.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bunraku_builder::{Exclude, ObjectStore, Snapshot, SnapshotError, take};
use bunraku_common::{
    hint,
    snapshot::{Node, Trees},
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

struct Tree {
    dir: TempDir,
    store: Arc<ObjectStore>,
    exclude: Vec<String>,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let store = ObjectStore::open(&dir.path().join("objects")).unwrap();
        let tree = Self { dir, store, exclude: Vec::new() };
        tree.write("manifests/site.pp", "node default {}");
        tree.write("modules/ntp/manifests/init.pp", "class ntp {}");
        tree
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("tree").join(below)
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("stat-cache")
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn take(&self) -> Result<Snapshot, SnapshotError> {
        let exclude = Exclude::parse(&self.exclude).unwrap();
        let cancel = CancellationToken::new();
        take(&self.path(""), &self.cache(), &exclude, &self.store, &cancel).map(|(snapshot, _pin)| snapshot)
    }

    /// Waits until the file system's clock has moved on, so that the next walk may remember what is there.
    fn settle(&self) {
        let probe = self.dir.path().join("probe");
        let begun = SystemTime::now();
        while fs::write(&probe, "").and_then(|()| fs::metadata(&probe)?.modified()).unwrap()
            < begun + Duration::from_millis(40)
        {
            std::thread::yield_now();
        }
    }

    fn names(&self, snapshot: &Snapshot) -> Vec<String> {
        let tree = self.store.tree(&snapshot.digest).unwrap();
        tree.entries().iter().map(|entry| entry.name.clone()).collect()
    }
}

#[test]
fn everything_that_cannot_be_part_of_a_snapshot_is_named_with_the_line_that_leaves_it_out() {
    let mut tree = Tree::new();
    symlink("/etc/passwd", tree.path("absolute")).unwrap();
    symlink("../../../x", tree.path("modules/ntp/out")).unwrap();
    symlink("hop/../../etc", tree.path("modules/two-hops")).unwrap();
    mknodat(CWD, tree.path("device"), FileType::CharacterDevice, Mode::RUSR, 0x103).unwrap();
    mknodat(CWD, tree.path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(tree.path("socket")).unwrap();
    tree.write("setuid", "x");
    fs::set_permissions(tree.path("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(tree.path("").join(OsStr::from_bytes(b"modules/not-\xff-utf8")), "x").unwrap();
    let deep = (0..70).map(|_| "d").collect::<Vec<_>>().join("/");
    tree.write(&format!("{deep}/x"), "x");
    let Err(SnapshotError::Refused { named, total }) = tree.take() else { panic!("it was taken") };
    let mut paths: Vec<&str> = named.iter().map(|offence| offence.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(total, 9);
    let too_deep = (0..64).map(|_| "d").collect::<Vec<_>>().join("/");
    let mut all = vec![
        "absolute",
        &too_deep,
        "device",
        "fifo",
        "modules/not-\u{fffd}-utf8",
        "modules/ntp/out",
        "modules/two-hops",
        "setuid",
        "socket",
    ];
    all.sort_unstable();
    assert_eq!(paths, all);
    assert!(named[0].to_string().contains("symlink that leaves the tree (to /etc/passwd)"), "{}", named[0]);
    // As somebody reads it: the line that is told leaves all of it out.
    let (reason, line) = hint::split(&SnapshotError::Refused { named, total }.to_string());
    assert!(all.iter().all(|path| reason.contains(path)), "{reason}");
    let left_out = line.strip_prefix("exclude = [\"").unwrap().strip_suffix("\"]").unwrap();
    tree.exclude = left_out.split("\", \"").map(str::to_owned).collect();
    assert_eq!(tree.exclude.len(), 9, "{line}");
    let snapshot = tree.take().expect("the named lines leave it out");
    assert_eq!(snapshot.files, 2);
}

/// A link at the root was answered with a pattern that left out whatever had its name, at any depth.
#[test]
fn the_line_that_leaves_out_an_entry_at_the_root_leaves_its_namesakes_in() {
    let mut tree = Tree::new();
    symlink("/etc", tree.path("files")).unwrap();
    tree.write("modules/ntp/files/ntp.conf", "x");
    let Err(SnapshotError::Refused { named, .. }) = tree.take() else { panic!("it was taken") };
    tree.exclude = named.into_iter().map(|offence| offence.exclude).collect();
    assert_eq!(tree.take().unwrap().files, 3, "{:?}", tree.exclude);
}

#[test]
fn a_refused_tree_names_a_bounded_number_and_counts_the_rest() {
    let tree = Tree::new();
    for number in 0..300 {
        symlink("/etc", tree.path(&format!("l{number:03}"))).unwrap();
    }
    let Err(SnapshotError::Refused { named, total }) = tree.take() else { panic!("it was taken") };
    assert_eq!((named.len(), total), (100, 300));
}

#[test]
fn git_directories_and_generated_types_stay_out_and_links_inside_stay_in() {
    let tree = Tree::new();
    tree.write(".git/config", "x");
    tree.write("modules/ntp/.git", "gitdir: elsewhere");
    tree.write(".resource_types/x.pp", "x");
    symlink("../modules", tree.path("manifests/inside")).unwrap();
    let snapshot = tree.take().unwrap();
    assert_eq!(tree.names(&snapshot), ["manifests", "modules"]);
    assert_eq!(snapshot.files, 2);
}

#[test]
fn only_content_names_and_the_executable_bit_make_the_digest() {
    let tree = Tree::new();
    let before = tree.take().unwrap().digest;
    let file = tree.path("manifests/site.pp");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::File::options().append(true).open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(tree.take().unwrap().digest, before);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    assert_ne!(tree.take().unwrap().digest, before);
}

#[test]
fn unchanged_files_are_not_opened_and_a_changed_one_is_whatever_its_mtime_says() {
    let tree = Tree::new();
    tree.settle();
    let cold = tree.take().unwrap();
    assert_eq!((cold.opened, cold.files), (2, 2));
    let warm = tree.take().unwrap();
    assert_eq!((warm.opened, warm.digest, warm.bytes), (0, cold.digest, cold.bytes));
    let file = tree.path("manifests/site.pp");
    let mtime = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "node default !}").unwrap();
    fs::File::options().append(true).open(&file).unwrap().set_modified(mtime).unwrap();
    let changed = tree.take().unwrap();
    assert_eq!(changed.opened, 1);
    assert_ne!(changed.digest, cold.digest);
}

#[test]
fn a_file_that_changed_as_late_as_the_walk_is_read_again_next_time() {
    let tree = Tree::new();
    tree.settle();
    tree.take().unwrap();
    tree.write("manifests/site.pp", "node default 1}");
    tree.take().unwrap();
    assert_eq!(tree.take().unwrap().opened, 1, "not remembered: it could have changed within the same tick");
    tree.settle();
    tree.take().unwrap();
    assert_eq!(tree.take().unwrap().opened, 0);
}

#[test]
fn a_remembered_file_whose_object_was_swept_is_read_again() {
    let tree = Tree::new();
    tree.settle();
    let first = tree.take().unwrap();
    assert_eq!(tree.take().unwrap().opened, 0);
    assert!(tree.store.sweep(&[]).unwrap().removed > 0);
    let again = tree.take().unwrap();
    assert_eq!((again.opened, again.digest), (2, first.digest));
    tree.store.sweep(&[again.digest]).expect("everything that the snapshot needs is there");
    assert_eq!(tree.take().unwrap().opened, 0);
}

#[test]
fn a_cache_of_another_tree_or_garbage_changes_nothing() {
    let tree = Tree::new();
    tree.settle();
    let first = tree.take().unwrap();
    fs::write(tree.cache(), b"garbage").unwrap();
    let again = tree.take().unwrap();
    assert_eq!((again.opened, again.digest), (2, first.digest));
}

#[test]
fn large_files_are_stored_whole() {
    let tree = Tree::new();
    let large: Vec<u8> = (0..(9 << 20)).map(|n: u32| n.to_le_bytes()[(n % 3) as usize]).collect();
    fs::write(tree.path("large.bin"), &large).unwrap();
    let snapshot = tree.take().unwrap();
    let root = tree.store.tree(&snapshot.digest).unwrap();
    let Some(Node::File { digest, size, .. }) = root.get("large.bin") else { panic!("{root:?}") };
    assert_eq!(*size, large.len() as u64);
    assert_eq!(fs::read(tree.store.objects().path(digest)).unwrap(), large);
    assert!(fs::read_dir(tree.dir.path().join("objects/tmp")).unwrap().next().is_none());
}

#[test]
fn a_directory_of_very_many_files_is_taken() {
    let tree = Tree::new();
    fs::create_dir(tree.path("many")).unwrap();
    for number in 0..20_000 {
        fs::write(tree.path("many").join(number.to_string()), "").unwrap();
    }
    assert_eq!(tree.take().unwrap().files, 20_002);
}

#[test]
fn a_cancelled_snapshot_ends() {
    let tree = Tree::new();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let taken = take(&tree.path(""), &tree.cache(), &Exclude::default(), &tree.store, &cancel);
    assert!(matches!(taken, Err(SnapshotError::Cancelled)));
}

#[test]
fn a_tree_that_is_not_there_is_named() {
    let tree = Tree::new();
    let cancel = CancellationToken::new();
    let taken = take(Path::new("/nowhere/tree"), &tree.cache(), &Exclude::default(), &tree.store, &cancel);
    assert!(taken.unwrap_err().to_string().contains("/nowhere/tree"));
}
