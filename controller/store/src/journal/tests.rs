//! The journal on a healthy disk, a full one, and a damaged one.

use super::*;
use crate::{Damage, Verified, disk::power_loss::PowerLossDisk};

/// Long enough that a batch covers several sectors.
pub(super) fn payload(sequence: u64) -> Vec<u8> {
    format!("{{\"number\":{sequence},\"text\":\"{}\"}}", "x".repeat(500)).into_bytes()
}

/// So many records to follow `head`.
pub(super) fn batch(head: u64, size: u64) -> Vec<NewRecord> {
    let new = |sequence| NewRecord {
        at_ms: sequence,
        wall_ms: 1_000_000 + sequence,
        who: "root".to_owned(),
        keys: vec![format!("deploy/{sequence}"), "kind/test".to_owned()],
        payload: payload(sequence),
    };
    (head + 1..=head + size).map(new).collect()
}

pub(super) fn checkpoint_at(sequence: u64) -> Vec<u8> {
    format!("everything up to {sequence}").into_bytes()
}

pub(super) fn all<D: Disk>(journal: &Journal<D>) -> Vec<Record> {
    let mut found = Vec::new();
    let each = |records: Vec<(Record, Position)>| {
        found.extend(records.into_iter().map(|(record, _)| record));
        Ok(true)
    };
    journal.read_from(0, each).unwrap();
    found
}

/// Three segments of two batches with two records each.
fn three_segments() -> (PowerLossDisk, Journal<PowerLossDisk>) {
    let disk = PowerLossDisk::default();
    let (mut journal, _) = Journal::open(disk.clone()).unwrap();
    for segment in 0..3 {
        if segment > 0 {
            journal.rotate(&checkpoint_at(journal.head().sequence)).unwrap();
        }
        for _ in 0..2 {
            journal.append(&batch(journal.head().sequence, 2)).unwrap();
        }
    }
    (disk, journal)
}

pub(super) fn verify<D: Disk>(journal: &Journal<D>) -> Result<Verified, StoreError> {
    journal.kept().verify(|| true).map(Option::unwrap)
}

fn damage(outcome: Result<(Journal<PowerLossDisk>, Opened), StoreError>) -> Damage {
    match outcome {
        Err(StoreError::Damaged(damage)) => *damage,
        other => panic!("damage was expected: {other:?}"),
    }
}

#[test]
fn a_restart_goes_on_from_the_newest_checkpoint_and_the_records_behind_it() {
    let (disk, before) = three_segments();
    let (journal, opened) = Journal::open(disk).unwrap();
    assert_eq!(opened.checkpoint, Some(checkpoint_at(8)));
    assert_eq!(opened.records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [9, 10, 11, 12]);
    assert_eq!((opened.cut_bytes, journal.head(), journal.id()), (0, before.head(), before.id()));
    assert_eq!(all(&journal).len(), 12);
}

#[test]
fn each_record_is_chained_to_the_one_before_across_segments() {
    let (_, journal) = three_segments();
    let mut previous = journal.id().genesis().hash;
    for record in all(&journal) {
        assert_eq!(record.previous, previous);
        previous = record.hash;
    }
    assert_eq!(journal.head().hash, previous);
}

#[test]
fn an_empty_batch_writes_nothing_and_a_checkpoint_without_news_does_nothing() {
    let (disk, mut journal) = three_segments();
    journal.rotate(b"new").unwrap();
    let before = disk.undecided(512);
    assert_eq!(journal.append(&[]).unwrap(), []);
    journal.rotate(b"newer").unwrap();
    assert_eq!(disk.undecided(512), before);
    assert_eq!(Journal::open(disk).unwrap().1.checkpoint, Some(b"new".to_vec()));
}

#[test]
fn a_full_segment_asks_for_a_checkpoint_and_an_empty_one_does_not() {
    let (mut journal, _) = Journal::open(PowerLossDisk::default()).unwrap();
    assert!(!journal.should_rotate());
    let large = NewRecord { payload: vec![b'1'; 3 << 20], ..batch(0, 1).remove(0) };
    journal.append(&[large.clone(), large.clone(), large]).unwrap();
    assert!(journal.should_rotate());
    journal.rotate(&vec![0; 9 << 20]).unwrap();
    journal.append(&batch(3, 1)).unwrap();
    assert!(!journal.should_rotate(), "a large checkpoint alone is no reason for the next one");
}

#[test]
fn a_full_disk_refuses_cleanly_and_the_same_batch_fits_when_there_is_room_again() {
    let disk = PowerLossDisk::default();
    let (mut journal, _) = Journal::open(disk.clone()).unwrap();
    journal.append(&batch(0, 1)).unwrap();
    disk.set_room(Some(100));
    let large = NewRecord { payload: vec![b'1'; 2 << 20], ..batch(1, 1).remove(0) };
    let refused = journal.append(std::slice::from_ref(&large));
    assert!(matches!(refused, Err(StoreError::Full { needed, .. }) if needed > 2 << 20), "{refused:?}");
    assert!(matches!(journal.rotate(b"state"), Err(StoreError::Full { .. })));
    assert!(!disk.list().unwrap().iter().any(|name| name.ends_with(UNFINISHED)));
    // What was reserved before still takes small ones.
    journal.append(&batch(1, 1)).unwrap();
    assert_eq!(Journal::open(disk.clone()).unwrap().0.head().sequence, 2, "nothing refused appears");
    disk.set_room(None);
    journal.append(&[large]).unwrap();
    journal.rotate(b"state").unwrap();
    assert_eq!(Journal::open(disk).unwrap().0.head(), journal.head());
}

#[test]
fn a_record_that_is_too_large_is_refused_and_its_whole_batch_with_it() {
    let disk = PowerLossDisk::default();
    let (mut journal, _) = Journal::open(disk.clone()).unwrap();
    let mut records = batch(0, 2);
    records[1].payload = vec![b'1'; 5 << 20];
    assert!(matches!(journal.append(&records), Err(StoreError::TooLarge { .. })));
    journal.append(&batch(0, 1)).unwrap();
    assert_eq!(all(&Journal::open(disk).unwrap().0), all(&journal));
}

#[test]
fn every_flipped_bit_before_the_last_batch_refuses_to_open_and_says_where() {
    let (disk, journal) = three_segments();
    let names: Vec<String> = journal.segments.iter().map(Segment::name).collect();
    for (name, segment) in names.iter().zip(&journal.segments) {
        let newest = segment.number == 3;
        let bytes = usize::try_from(segment.bytes).unwrap();
        // Both records of the last batch are the last 1,300 bytes or so; every 37th bit meets every field.
        let end = if newest { bytes - 1400 } else { bytes };
        for bit in (0..end * 8).step_by(37) {
            disk.flip_bit(name, bit);
            let damage = damage(Journal::open(disk.clone()));
            disk.flip_bit(name, bit);
            let text = damage.to_string();
            assert!(text.contains(&damage.file.display().to_string()) && text.contains("hint: "), "{text}");
            let here = damage.file.ends_with(name) && damage.offset <= (bit / 8) as u64;
            // A torn end of an older segment is where the next one does not continue, or in the segment itself.
            assert!(here, "bit {bit} of {name}: {damage:?}");
        }
    }
    Journal::open(disk).unwrap();
}

#[test]
fn a_flipped_bit_in_the_last_batch_is_cut_and_reported_and_what_was_cut_is_kept_beside() {
    let (disk, journal) = three_segments();
    let name = journal.newest().name();
    disk.flip_bit(&name, usize::try_from(journal.newest().bytes).unwrap() * 8 - 9);
    let damaged = disk.read(&name, u64::MAX).unwrap();
    let (mut journal, opened) = Journal::open(disk.clone()).unwrap();
    assert_eq!(journal.head().sequence, 10);
    assert!(opened.cut_bytes > 1000, "{opened:?}");
    let beside = disk.read(&format!("{name}{CUT}"), u64::MAX).unwrap();
    assert_eq!(beside, damaged[damaged.len() - beside.len()..]);
    assert_eq!(beside.len() as u64, opened.cut_bytes);

    while journal.oldest() <= 9 {
        journal.append(&batch(journal.head().sequence, 1)).unwrap();
        journal.rotate(b"state").unwrap();
        journal.remove_oldest().unwrap();
    }
    assert_eq!(
        disk.list().unwrap().iter().filter(|name| first_of(name).is_none()).count(),
        0,
        "it goes with its segment"
    );
}

#[test]
fn a_missing_segment_in_the_middle_refuses_to_open() {
    let (disk, journal) = three_segments();
    disk.remove(&journal.segments[1].name()).unwrap();
    let damage = damage(Journal::open(disk));
    assert_eq!((damage.sequence, damage.what.as_str()), (9, "this is segment 3, and the one before is 1"));
}

#[test]
fn the_end_of_an_older_segment_cannot_be_cut_off_unnoticed() {
    let (disk, journal) = three_segments();
    let oldest = &journal.segments[0];
    let file = disk.open(&oldest.name()).unwrap();
    disk.truncate(&file, oldest.bytes - 10).unwrap();
    assert_eq!(damage(Journal::open(disk.clone())).sequence, 4);
    // At the boundary of a batch nothing is torn: only the next header tells.
    let end = Walk::default().step(&disk, 1).unwrap().scan.end;
    disk.truncate(&file, end as u64).unwrap();
    let damage = damage(Journal::open(disk));
    assert_eq!(damage.what, "it continues record 4, and the segment before ends with another record 2");
}

#[test]
fn verify_finds_a_changed_record_in_an_old_segment_even_with_its_checksum_made_right() {
    let (disk, journal) = three_segments();
    let head = journal.head();
    assert_eq!(verify(&journal).unwrap(), Verified { records: 12, segments: 3, pruned: 0, head });
    let name = journal.segments[0].name();
    let mut bytes = disk.read(&name, u64::MAX).unwrap();
    let read = Walk::default().step(&disk, 1).unwrap();
    let (record, place) = &read.scan.records[1];
    let mut forged = Vec::new();
    let head = read.scan.records[0].0.link();
    let new = NewRecord { who: "evil".to_owned(), ..batch(record.sequence - 1, 1).remove(0) };
    encode(&mut forged, head, 1, 0, &new).unwrap();
    let start = usize::try_from(place.offset).unwrap();
    bytes[start..start + forged.len()].copy_from_slice(&forged);
    let file = disk.open(&name).unwrap();
    disk.write_at(&file, 0, &bytes).unwrap();
    let broken = verify(&journal).unwrap_err();
    assert!(matches!(&broken, StoreError::Damaged(damage) if damage.sequence == 3), "{broken}");
}

#[test]
fn verify_notices_when_the_newest_records_were_taken_away() {
    let (disk, journal) = three_segments();
    let before = Walk::default().step(&disk, 9).unwrap().scan.last_batch;
    disk.truncate(&journal.tail.file, before as u64).unwrap();
    let broken = verify(&journal).unwrap_err();
    assert!(matches!(&broken, StoreError::Damaged(damage) if damage.sequence == 11), "{broken}");
}

#[test]
fn verify_notices_that_the_open_segment_or_the_oldest_one_was_written_anew() {
    for (first, head) in [(9, 8), (1, 0)] {
        let (disk, journal) = three_segments();
        let mut read = Walk::default().step(&disk, first).unwrap();
        if head == 0 {
            read.header.head.hash = bunraku_common::Digest::of(b"another beginning");
        }
        let mut forged = read.header.encode();
        let mut link = read.header.head;
        for (number, size) in [(head, 2), (head + 2, 2)] {
            for (new, left) in batch(number, size).iter_mut().zip((0..2).rev()) {
                new.who = "evil".to_owned();
                link = encode(&mut forged, link, number + 1, left, new).unwrap();
            }
        }
        let file = disk.create(&file_name(first)).unwrap();
        disk.allocate(&file, 0, 1 << 20).unwrap();
        disk.write_at(&file, 0, &forged).unwrap();
        let broken = verify(&journal).unwrap_err();
        assert!(
            matches!(&broken, StoreError::Damaged(damage) if damage.sequence == if head == 0 { 1 } else { 12 }),
            "{broken}"
        );
    }
}

#[test]
fn records_are_appended_segments_begun_and_removed_while_an_older_state_is_verified() {
    let (disk, mut journal) = three_segments();
    let before = journal.head();
    let (kept, mut asked) = (journal.kept(), 0);
    let found = kept.verify(|| {
        asked += 1;
        journal.append(&batch(journal.head().sequence, 2)).unwrap();
        match asked {
            1 => journal.rotate(b"fourth").unwrap(),
            2 => drop((journal.remove_oldest().unwrap(), journal.remove_oldest().unwrap())),
            _ => {}
        }
        true
    });
    // The first was read, the second was removed before it was its turn, the third ended with record 12.
    assert_eq!(found.unwrap().unwrap(), Verified { records: 8, segments: 2, pruned: 1, head: before });
    assert_eq!(verify(&journal).unwrap().records, 10);

    let kept = journal.kept();
    disk.remove(&journal.segments[0].name()).unwrap();
    let lost = kept.verify(|| true).unwrap_err();
    assert!(matches!(lost, StoreError::Io { doing: "read", .. }), "not retention's work: {lost}");
}

#[test]
fn a_verification_ends_when_nobody_wants_it_any_more() {
    let (_, journal) = three_segments();
    let mut left = 2;
    let found = journal.kept().verify(|| {
        left -= 1;
        left > 0
    });
    assert_eq!((found.unwrap(), left), (None, 0));
}

#[test]
fn pruning_goes_by_size_and_by_age_and_never_takes_the_newest_two() {
    let prune = |keep: Keep| {
        let (disk, mut journal) = three_segments();
        let mut removed = Vec::new();
        while let Some(records) = journal.superfluous(keep).unwrap() {
            removed.extend(records.iter().map(|record| record.sequence));
            journal.remove_oldest().unwrap();
        }
        let oldest = journal.oldest();
        assert_eq!(verify(&Journal::open(disk).unwrap().0).unwrap().head, journal.head());
        (removed, oldest)
    };
    assert_eq!(prune(Keep { bytes: 1 << 20, since_wall_ms: 0 }), (vec![], 1));
    assert_eq!(prune(Keep { bytes: 0, since_wall_ms: 0 }), (vec![1, 2, 3, 4], 5));
    assert_eq!(prune(Keep { bytes: 1 << 20, since_wall_ms: 1_000_004 }), (vec![], 1));
    assert_eq!(prune(Keep { bytes: 1 << 20, since_wall_ms: 1_000_005 }), (vec![1, 2, 3, 4], 5));
}
