//! The store on a real disk: what a restart finds, whatever happened to the files in between.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails that should not")]

mod full;
mod index;
mod killed;

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bunraku_store::{
    Keep, LocalStore, MemoryStore, NewRecord, Record, Recovered, Store, StoreError, Verified,
};

fn new_record(number: u64) -> NewRecord {
    NewRecord {
        at_ms: number,
        wall_ms: 1_700_000_000_000 + number,
        who: "root".to_owned(),
        keys: vec![format!("deploy/{number}"), format!("node/c{}", number % 3), "kind/test".to_owned()],
        payload: format!("{{\"number\":{number}}}").into_bytes(),
    }
}

/// Appends records numbered as their sequences, up to `last`.
fn append_up_to(store: &mut dyn Store, last: u64) {
    let next = store.head().sequence + 1;
    store.append((next..=last).map(new_record).collect()).unwrap();
}

fn open(dir: &Path) -> (LocalStore, Recovered) {
    LocalStore::open(&dir.join("store")).unwrap()
}

fn verify(store: &LocalStore) -> Result<Verified, StoreError> {
    store.verification().run(|| true).map(Option::unwrap)
}

fn sequences(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.sequence).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("store/journal")).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn flip_bit(file: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Every answer that does not depend on where the records are kept.
fn answers(store: &dyn Store) -> Vec<Vec<u64>> {
    let asked = ["node/c0", "node/c1", "node/c2", "kind/test", "deploy/4", "deploy/44", "nothing"];
    let mut found: Vec<_> = asked.iter().map(|key| sequences(&store.find(key, 7).unwrap())).collect();
    for (after, limit) in [(0, 3), (0, 1000), (5, 4), (11, 10), (99, 1), (u64::MAX, 1)] {
        found.push(sequences(&store.after(after, limit).unwrap()));
    }
    found
}

#[test]
fn a_restart_finds_the_checkpoint_and_what_came_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, fresh) = open(dir.path());
    assert_eq!(fresh, Recovered::default());
    append_up_to(&mut store, 5);
    store.checkpoint(b"five").unwrap();
    append_up_to(&mut store, 8);
    let (head, id) = (store.head(), store.journal_id());
    drop(store);

    let (store, found) = open(dir.path());
    assert_eq!(
        (found.checkpoint.as_deref(), sequences(&found.records)),
        (Some(b"five".as_slice()), vec![6, 7, 8])
    );
    assert_eq!((found.cut_bytes, found.lost, found.rebuilt_index), (0, None, None));
    assert_eq!((store.head(), store.journal_id()), (head, id));
    assert_eq!(found.records[0].payload, new_record(6).payload);
    assert_eq!(verify(&store).unwrap().records, 8);
}

#[test]
fn both_stores_give_the_same_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (mut local, _) = open(dir.path());
    let mut memory = MemoryStore::new();
    for store in [&mut local as &mut dyn Store, &mut memory] {
        append_up_to(store, 5);
        store.checkpoint(b"five").unwrap();
        append_up_to(store, 11);
    }
    assert_eq!(answers(&local), answers(&memory));
    drop(local);
    let (_, found) = open(dir.path());
    let (from_disk, from_memory) = (found, memory.recovered());
    assert_eq!(from_disk.checkpoint, from_memory.checkpoint);
    assert_eq!(sequences(&from_disk.records), sequences(&from_memory.records));
}

#[test]
fn a_second_process_is_refused_while_the_store_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let refused = LocalStore::open(&dir.path().join("store")).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains("hint: "));
    drop(store);
    open(dir.path());
}

#[test]
fn only_its_owner_may_read_any_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    append_up_to(&mut store, 3);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let root = dir.path().join("store");
    for directory in [root.clone(), root.join("journal"), root.join("index")] {
        assert_eq!(mode(&directory), 0o700, "{}", directory.display());
    }
    for file in [root.join("lock"), segments(dir.path()).remove(0)] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_cut_tail_is_cut_to_the_last_whole_batch_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    append_up_to(&mut store, 3);
    drop(store);
    let segment = segments(dir.path()).remove(0);
    let whole = fs::metadata(&segment).unwrap().len();
    let file = File::options().write(true).open(&segment).unwrap();
    file.write_all_at(&[0x55; 40], whole).unwrap();

    let (mut store, found) = open(dir.path());
    assert_eq!((found.cut_bytes, found.lost, found.records.len()), (40, None, 3));
    append_up_to(&mut store, 4);
    drop(store);
    assert_eq!(open(dir.path()).1.records.len(), 4);
}

#[test]
fn a_flipped_bit_in_the_middle_refuses_to_open_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    append_up_to(&mut store, 1);
    let second = fs::metadata(&segments(dir.path())[0]).unwrap().len();
    append_up_to(&mut store, 2);
    append_up_to(&mut store, 3);
    drop(store);
    let segment = segments(dir.path()).remove(0);
    flip_bit(&segment, second + 70);
    let refused = LocalStore::open(&dir.path().join("store")).unwrap_err();
    let StoreError::Damaged(damage) = &refused else { panic!("{refused}") };
    assert_eq!((&damage.file, damage.offset, damage.sequence), (&segment, second, 2));
}

#[test]
fn a_damaged_last_record_that_was_acknowledged_is_reported_as_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    append_up_to(&mut store, 2);
    append_up_to(&mut store, 3);
    drop(store);
    let segment = segments(dir.path()).remove(0);
    flip_bit(&segment, fs::metadata(&segment).unwrap().len() - 10);
    let (_, found) = open(dir.path());
    let lost = found.lost.expect("the index remembers record 3");
    assert_eq!((lost.acknowledged, lost.kept, found.records.len()), (3, 2, 2));
    assert!(found.cut_bytes > 0);
}

#[test]
fn verify_detects_a_changed_record_in_an_old_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    append_up_to(&mut store, 4);
    store.checkpoint(b"four").unwrap();
    append_up_to(&mut store, 6);
    assert_eq!(verify(&store).unwrap().segments, 2);
    let old = segments(dir.path()).remove(0);
    flip_bit(&old, fs::metadata(&old).unwrap().len() - 10);
    let broken = verify(&store).unwrap_err();
    assert!(
        matches!(&broken, StoreError::Damaged(damage) if damage.file == old && damage.sequence == 4),
        "{broken}"
    );
}

#[test]
fn pruned_records_are_found_no_more_and_the_rest_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    for last in [5, 10, 15] {
        append_up_to(&mut store, last);
        store.checkpoint(format!("{last}").as_bytes()).unwrap();
    }
    assert_eq!(store.prune(Keep { bytes: 1 << 20, since_wall_ms: 0 }).unwrap(), 0);
    assert!(store.prune(Keep { bytes: 0, since_wall_ms: 0 }).unwrap() > 1000);
    assert_eq!(segments(dir.path()).len(), 2);
    assert_eq!(sequences(&store.find("kind/test", 100).unwrap()), [15, 14, 13, 12, 11]);
    assert_eq!(sequences(&store.after(0, 2).unwrap()), [11, 12]);
    drop(store);
    let (store, found) = open(dir.path());
    assert_eq!((found.checkpoint.as_deref(), found.rebuilt_index), (Some(b"15".as_slice()), None));
    assert_eq!((verify(&store).unwrap().records, store.head().sequence), (5, 15));
}
