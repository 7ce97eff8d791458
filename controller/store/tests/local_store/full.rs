//! A real file system that is full: a tmpfs of a few megabytes, in a mount namespace of the child's own.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use bunraku_store::{LocalStore, NewRecord, Store, StoreError};

use super::{new_record, sequences};

/// Set for the child: the directory that is its small file system.
const SMALL: &str = "BUNRAKU_STORE_TEST_SMALL";

fn large_record(number: u64) -> NewRecord {
    NewRecord { payload: vec![b'1'; 100_000], ..new_record(number) }
}

/// Appends until it is refused; answers the refusal.
fn fill(store: &mut LocalStore) -> StoreError {
    loop {
        let next = store.head().sequence + 1;
        if let Err(refused) = store.append(vec![large_record(next)]) {
            return refused;
        }
    }
}

#[test]
fn a_full_disk_refuses_cleanly_and_requests_are_accepted_when_there_is_room_again() {
    let Some(dir) = env::var_os(SMALL) else { return in_a_small_file_system() };
    let dir = Path::new(&dir);
    let filler = dir.join("filler");
    fs::write(&filler, vec![0; 4 << 20]).unwrap();
    let (mut store, _) = LocalStore::open(&dir.join("store")).unwrap();

    let refused = fill(&mut store);
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    let hint =
        format!("hint: make room there, then ask again: df -h {0}/store/journal; df -ih", dir.display());
    assert!(refused.to_string().contains(&hint), "{refused}");
    let acknowledged = store.head();
    assert!(acknowledged.sequence > 3, "{acknowledged:?}");
    assert!(matches!(fill(&mut store), StoreError::Full { .. }), "it is refused again, and not poisoned");
    assert!(matches!(store.checkpoint(b"state"), Err(StoreError::Full { .. })));
    assert_eq!(store.find("kind/test", 1).unwrap()[0].sequence, acknowledged.sequence);
    drop(store);

    let (mut store, found) =
        LocalStore::open(&dir.join("store")).expect("a full disk does not keep it from starting");
    assert_eq!(
        (store.head(), found.cut_bytes, found.lost),
        (acknowledged, 0, None),
        "nothing refused appears"
    );
    assert!(matches!(fill(&mut store), StoreError::Full { .. }));

    fs::remove_file(filler).unwrap();
    let next = store.head().sequence + 1;
    store.append(vec![large_record(next)]).unwrap();
    store.checkpoint(b"state").unwrap();
    drop(store);
    let (store, found) = LocalStore::open(&dir.join("store")).unwrap();
    assert_eq!((store.head().sequence, found.checkpoint), (next, Some(b"state".to_vec())));
    assert_eq!(sequences(&store.find("kind/test", 2).unwrap()), [next, next - 1]);
}

/// Runs the test again where `SMALL` is a file system of 8 MiB. It ends with its namespace.
fn in_a_small_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount --make-rprivate / && mount -t tmpfs -o size=8m,mode=700 small \"$0\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(dir.path())
        .arg(env::current_exe().unwrap())
        .args(["--nocapture", "--exact"])
        .arg("full::a_full_disk_refuses_cleanly_and_requests_are_accepted_when_there_is_room_again")
        .env(SMALL, dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
