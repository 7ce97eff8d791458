//! The index may be lost, old, foreign or broken: the answers stay the same.

use std::{fs, path::Path};

use bunraku_store::{LocalStore, Store, WhyRebuilt};

use super::{answers, append_up_to, flip_bit, open, segments};

/// A store with twelve records in two segments; answers what it answered.
fn twelve_records(dir: &Path) -> Vec<Vec<u64>> {
    let (mut store, _) = open(dir);
    append_up_to(&mut store, 5);
    store.checkpoint(b"five").unwrap();
    append_up_to(&mut store, 12);
    answers(&store)
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Opens the store, and checks that it answers as before and goes on.
fn answers_as_before(dir: &Path, before: &[Vec<u64>]) -> Option<WhyRebuilt> {
    let (mut store, found) = open(dir);
    assert_eq!(answers(&store), before);
    let next = store.head().sequence + 1;
    append_up_to(&mut store, next);
    assert_eq!(store.find(&format!("deploy/{next}"), 1).unwrap().len(), 1);
    drop(store);
    assert_eq!(open(dir).1.rebuilt_index, None, "the new index serves the next start");
    found.rebuilt_index
}

#[test]
fn a_missing_index_is_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    let before = twelve_records(dir.path());
    fs::remove_dir_all(dir.path().join("store/index")).unwrap();
    assert_eq!(answers_as_before(dir.path(), &before), Some(WhyRebuilt::Missing));
}

#[test]
fn an_index_whose_opening_never_ended_is_not_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let before = twelve_records(dir.path());
    fs::write(dir.path().join("store/index.opening"), "").unwrap();
    assert_eq!(answers_as_before(dir.path(), &before), Some(WhyRebuilt::OpeningNeverEnded));
}

#[test]
fn an_index_that_is_behind_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("store/index");
    let (mut store, _) = open(dir.path());
    append_up_to(&mut store, 3);
    drop(store);
    copy_dir(&index, &dir.path().join("old"));
    let before = twelve_records_more(dir.path());
    fs::remove_dir_all(&index).unwrap();
    copy_dir(&dir.path().join("old"), &index);
    assert_eq!(answers_as_before(dir.path(), &before), None);
}

fn twelve_records_more(dir: &Path) -> Vec<Vec<u64>> {
    let (mut store, _) = open(dir);
    append_up_to(&mut store, 9);
    store.checkpoint(b"nine").unwrap();
    append_up_to(&mut store, 12);
    answers(&store)
}

#[test]
fn an_index_that_is_ahead_is_built_anew_and_the_loss_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (root, old) = (dir.path().join("store"), dir.path().join("old"));
    let before = twelve_records(dir.path());
    copy_dir(&root.join("journal"), &old);
    let (mut store, _) = open(dir.path());
    append_up_to(&mut store, 15);
    drop(store);
    fs::remove_dir_all(root.join("journal")).unwrap();
    copy_dir(&old, &root.join("journal"));

    let (store, found) = open(dir.path());
    assert_eq!(found.rebuilt_index, Some(WhyRebuilt::Ahead));
    assert_eq!(found.lost.map(|lost| (lost.acknowledged, lost.kept)), Some((15, 12)));
    assert_eq!(answers(&store), before);
}

#[test]
fn an_index_of_another_journal_is_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let before = twelve_records(dir.path());
    twelve_records(other.path());
    let index = dir.path().join("store/index");
    fs::remove_dir_all(&index).unwrap();
    copy_dir(&other.path().join("store/index"), &index);
    assert_eq!(answers_as_before(dir.path(), &before), Some(WhyRebuilt::OtherJournal));
}

#[test]
fn an_index_of_a_history_that_was_replaced_is_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (root, old) = (dir.path().join("store"), dir.path().join("old"));
    let (mut store, _) = open(dir.path());
    append_up_to(&mut store, 3);
    drop(store);
    copy_dir(&root, &old);
    // Two histories of the same journal: records 4 to 6 came in one batch here, and one by one there.
    let (mut store, _) = open(dir.path());
    store.append((7..=9).map(super::new_record).collect()).unwrap();
    drop(store);
    let (mut store, _) = LocalStore::open(&old).unwrap();
    append_up_to(&mut store, 12);
    let before = answers(&store);
    drop(store);
    fs::remove_dir_all(root.join("journal")).unwrap();
    copy_dir(&old.join("journal"), &root.join("journal"));
    assert_eq!(answers_as_before(dir.path(), &before), Some(WhyRebuilt::Disagrees));
}

#[test]
fn an_index_that_was_overwritten_or_cut_is_never_believed() {
    let whole = tempfile::tempdir().unwrap();
    let before = twelve_records(whole.path());
    let length = usize::try_from(fs::metadata(whole.path().join("store/index/db")).unwrap().len()).unwrap();
    type Harm = Box<dyn Fn(&mut Vec<u8>)>;
    let mut harms: Vec<(String, Harm)> = vec![
        ("garbage".to_owned(), Box::new(|bytes| bytes.fill(0xa5))),
        ("zeroes".to_owned(), Box::new(|bytes| bytes.fill(0))),
        ("empty".to_owned(), Box::new(Vec::clear)),
    ];
    for part in 1..8 {
        let cut = length * part / 8;
        harms.push((format!("cut at {cut}"), Box::new(move |bytes| bytes.truncate(cut))));
        harms.push((format!("garbage from {cut}"), Box::new(move |bytes| bytes[cut..].fill(0x5a))));
    }
    for (what, harm) in harms {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(whole.path(), dir.path());
        let db = dir.path().join("store/index/db");
        let mut bytes = fs::read(&db).unwrap();
        harm(&mut bytes);
        fs::write(&db, bytes).unwrap();
        let (store, _) = open(dir.path());
        assert_eq!(answers(&store), before, "{what}");
    }
}

#[test]
fn an_index_whose_configuration_is_broken_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let before = twelve_records(dir.path());
    fs::write(dir.path().join("store/index/conf"), "not sled's").unwrap();
    let why = answers_as_before(dir.path(), &before);
    assert!(matches!(why, Some(WhyRebuilt::Unreadable(_))), "{why:?}");
    assert!(dir.path().join("store/index.damaged").exists());
}

#[test]
fn a_damaged_journal_is_not_hidden_by_a_good_index() {
    let dir = tempfile::tempdir().unwrap();
    twelve_records(dir.path());
    let (store, _) = open(dir.path());
    let oldest = segments(dir.path()).remove(0);
    flip_bit(&oldest, fs::metadata(&oldest).unwrap().len() - 10);
    // Record 5 is damaged: the index cannot be followed, and the journal says why.
    assert!(store.find("deploy/5", 1).is_err());
    assert_eq!(store.find("deploy/12", 1).unwrap().len(), 1);
}
