//! Power loss at every operation, with every (or very many) of the states that it may leave behind.

use super::{tests::*, *};
use crate::disk::power_loss::PowerLossDisk;

/// What the workload knows when its disk dies.
#[derive(Debug, Default)]
struct Witness {
    /// Sequences at which a batch that was given to the journal ends.
    batch_ends: Vec<u64>,
    acknowledged: u64,
    /// The oldest record that was not given up to pruning.
    kept_from: u64,
}

/// Appends, rotates and prunes until it is done or the disk dies.
fn work(disk: PowerLossDisk, witness: &mut Witness) -> Result<(), StoreError> {
    witness.batch_ends.push(0);
    let (mut journal, _) = Journal::open(disk)?;
    for (round, size) in [1, 3, 2, 1, 4, 1, 2, 3].into_iter().enumerate() {
        witness.batch_ends.push(journal.head().sequence + size);
        journal.append(&batch(journal.head().sequence, size))?;
        witness.acknowledged = journal.head().sequence;
        if round % 2 == 1 {
            journal.rotate(&checkpoint_at(journal.head().sequence))?;
        }
        if round % 3 == 2 {
            let keep = Keep { bytes: 2000, since_wall_ms: 0 };
            while let Some(records) = journal.superfluous(keep)? {
                witness.kept_from = records.last().map_or(0, |record| record.sequence + 1);
                journal.remove_oldest()?;
            }
        }
    }
    Ok(())
}

/// What must hold whatever the power loss left; answers the journal's disk for more.
fn check(disk: &PowerLossDisk, witness: &Witness, state: &str) {
    let (mut journal, opened) =
        Journal::open(disk.clone()).unwrap_or_else(|error| panic!("{state}: {error}"));
    let head = journal.head().sequence;
    assert!(
        head >= witness.acknowledged,
        "{state}: {} was acknowledged, {head} is there",
        witness.acknowledged
    );
    assert!(witness.batch_ends.contains(&head), "{state}: half a batch up to {head} is there");
    let kept = all(&journal);
    assert!(
        kept.first().is_none_or(|first| first.sequence <= witness.kept_from.max(1)),
        "{state}: audit is gone"
    );
    for record in &kept {
        assert_eq!(record.payload, payload(record.sequence), "{state}");
    }
    let covered = head - opened.records.len() as u64;
    assert_eq!(opened.checkpoint, (covered > 0).then(|| checkpoint_at(covered)), "{state}");
    assert_eq!(super::tests::verify(&journal).unwrap().head, journal.head(), "{state}");

    journal.append(&batch(head, 2)).unwrap();
    let again = disk.after_power_loss(512, |_| false, |_| false);
    let (journal, _) = Journal::open(again).unwrap_or_else(|error| panic!("{state}, then again: {error}"));
    assert_eq!(journal.head().sequence, head + 2, "{state}, then again");
}

/// Every subset of few things; of many the empty one, all, each alone, all but each, each prefix, and some at random.
fn subsets(of: usize) -> Vec<Vec<bool>> {
    if of <= 6 {
        return (0..1_usize << of).map(|bits| (0..of).map(|one| bits & (1 << one) != 0).collect()).collect();
    }
    let mut found: Vec<Vec<bool>> =
        (0..=of).map(|prefix| (0..of).map(|one| one < prefix).collect()).collect();
    for alone in 0..of {
        found.push((0..of).map(|one| one == alone).collect());
        found.push((0..of).map(|one| one != alone).collect());
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..40 {
        let mut one_random = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random & 1 == 0
        };
        found.push((0..of).map(|_| one_random()).collect());
    }
    found
}

/// Calls `each` with the disk after each power loss that the workload can meet.
fn every_power_loss(sector: usize, mut each: impl FnMut(&PowerLossDisk, &Witness, String)) {
    for operation in 0.. {
        let disk = PowerLossDisk::default().dies_at(operation);
        let mut witness = Witness::default();
        let done = work(disk.clone(), &mut witness);
        if !disk.died() {
            done.unwrap();
            assert!(operation > 50, "the workload did only {operation} operations");
            return;
        }
        let (pieces, names) = disk.undecided(sector);
        for pieces in subsets(pieces) {
            for names in subsets(names) {
                let after = disk.after_power_loss(sector, |one| pieces[one], |one| names[one]);
                let state =
                    format!("power loss at operation {operation}, pieces {pieces:?}, names {names:?}");
                each(&after, &witness, state);
            }
        }
    }
}

#[test]
fn f4_whatever_a_power_loss_leaves_every_acknowledged_record_is_there_and_no_half_batch() {
    every_power_loss(512, |disk, witness, state| check(disk, witness, &state));
}

#[test]
fn f4_a_write_that_is_torn_inside_a_sector_is_cut_and_nothing_before_it() {
    for operation in 0.. {
        let disk = PowerLossDisk::default().dies_at(operation);
        let mut witness = Witness::default();
        let _outcome = work(disk.clone(), &mut witness);
        if !disk.died() {
            return;
        }
        let (pieces, _) = disk.undecided(1);
        // Every byte is tried on the bytes alone (`segment.rs`); here a sample, with all that opening does.
        for prefix in (0..=pieces).step_by(7).chain([pieces]) {
            let after = disk.after_power_loss(1, |one| one < prefix, |_| true);
            check(&after, &witness, &format!("operation {operation}, {prefix} of {pieces} bytes"));
        }
    }
}

#[test]
fn f4_a_second_power_loss_while_recovering_from_the_first_loses_nothing_either() {
    let mut runs = 0_usize;
    every_power_loss(512, |disk, witness, state| {
        runs += 1;
        // A sample: each of these states is opened many times more.
        if !runs.is_multiple_of(7) {
            return;
        }
        for operation in 0..8 {
            let disk = disk.after_power_loss(512, |_| true, |_| true).dies_at(operation);
            let _outcome = Journal::open(disk.clone());
            for survives in [true, false] {
                let after = disk.after_power_loss(512, |one| (one % 2 == 0) == survives, |_| survives);
                check(&after, witness, &format!("{state}, then at operation {operation} of the recovery"));
            }
        }
    });
    assert!(runs > 100);
}

#[test]
fn f4_a_checkpoint_that_is_interrupted_at_any_step_is_there_whole_or_not_at_all() {
    let mut seen = (0, 0);
    for operation in 0.. {
        let disk = PowerLossDisk::default();
        let (mut journal, _) = Journal::open(disk.clone()).unwrap();
        journal.append(&batch(0, 3)).unwrap();
        let disk = disk.dies_at(operation);
        let done = journal.rotate(&checkpoint_at(3));
        if !disk.died() {
            done.unwrap();
            break;
        }
        for survives in [true, false] {
            let after = disk.after_power_loss(512, |_| survives, |_| survives);
            let (recovered, opened) = Journal::open(after.clone()).unwrap();
            assert_eq!(
                (recovered.head(), recovered.id()),
                (journal.head(), journal.id()),
                "operation {operation}"
            );
            match opened.checkpoint {
                Some(state) => assert_eq!((state, opened.records.len()), (checkpoint_at(3), 0)),
                None => assert_eq!(opened.records.len(), 3),
            }
            seen = (seen.0 + usize::from(opened.records.is_empty()), seen.1 + 1);
            assert!(
                after.list().unwrap().iter().all(|name| first_of(name).is_some()),
                "nothing is left lying about"
            );
        }
    }
    assert!(seen.0 > 0 && seen.0 < seen.1, "both outcomes were met: {seen:?}");
}

#[test]
fn f4_what_a_restart_showed_survives_a_later_power_loss_even_if_it_was_never_acknowledged() {
    let disk = PowerLossDisk::default();
    let (mut journal, _) = Journal::open(disk.clone()).unwrap();
    journal.append(&batch(0, 1)).unwrap();
    // Killed between write and sync: the kernel still has the record.
    let disk = disk.dies_at(1);
    assert!(journal.append(&batch(1, 1)).is_err());
    assert!(disk.died());
    let disk = disk.dies_at(usize::MAX);

    let (journal, _) = Journal::open(disk.clone()).unwrap();
    let shown = journal.head();
    let (journal, _) = Journal::open(disk.after_power_loss(512, |_| false, |_| false)).unwrap();
    assert_eq!((shown.sequence, journal.head()), (2, shown));
}

#[test]
fn f4_a_failed_sync_ends_it_and_what_the_next_start_shows_is_durable() {
    let disk = PowerLossDisk::default();
    let (mut journal, _) = Journal::open(disk.clone()).unwrap();
    journal.append(&batch(0, 1)).unwrap();
    disk.fail_next_sync();
    assert!(matches!(journal.append(&batch(1, 1)), Err(StoreError::Io { doing: "append to", .. })));
    assert!(matches!(journal.append(&batch(1, 1)), Err(StoreError::Poisoned { .. })));
    assert!(matches!(journal.rotate(b"state"), Err(StoreError::Poisoned { .. })));

    // The kernel still shows the record, though no drive ever got it.
    let (journal, _) = Journal::open(disk.clone()).unwrap();
    let shown = journal.head();
    let (journal, _) = Journal::open(disk.after_power_loss(512, |_| false, |_| false)).unwrap();
    assert_eq!((shown.sequence, journal.head()), (2, shown));
}
