//! Others write the files, too: Puppet's agent, administrators, whoever has the rights.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bunraku_crl::{Keeper, Offer};
use proptest::prelude::*;

use crate::world::{Chain, Host, NOW_MS, NOW_S, fence};

#[test]
fn i11_what_is_damaged_emptied_taken_away_or_older_is_put_back() {
    let mut host = Host::new();
    let older = host.chain.crls(2, &[]);
    let good = host.chain.crls(3, &[5]);
    host.install(&good, 1).unwrap();
    let forged = Chain::new().crls(9, &[]);
    let same_number = host.chain.crls(3, &[]);
    let bad = ["", "garbage", &good[..good.len() / 2], &older, &forged, &same_number, &host.chain.first(9)];
    for bad in bad {
        fs::write(host.puppets(), bad).unwrap();
        host.look();
        host.expect(&good);
    }
    fs::remove_file(host.puppets()).unwrap();
    fs::remove_file(host.balancers()).unwrap();
    host.look();
    host.expect(&good);
}

#[test]
fn i11_newer_crls_that_puppets_agent_brings_stay_and_reach_the_other_files() {
    let mut host = Host::new();
    host.install(&host.chain.crls(3, &[]), 1).unwrap();
    let reloads = host.keeper.reloads();
    let newer = host.chain.crls(4, &[5]);
    fs::write(host.balancers(), &newer).unwrap();
    host.look();
    host.expect(&newer);
    let seen = host.keeper.seen();
    assert_eq!((seen.digest, seen.fence), (Host::digest(&newer), Some(fence(1))));
    assert_ne!(host.keeper.reloads(), reloads, "the balancer has not read what somebody else wrote");
    host.start_again();
    fs::write(host.puppets(), "").unwrap();
    host.look();
    host.expect(&newer);
    assert!(host.refused(&host.chain.crls(3, &[]), 2).contains("number 3 where 4 is known"));
}

#[test]
fn newer_crls_that_have_ended_are_not_taken_over_and_not_gone_back_from() {
    let mut host = Host::new();
    host.install(&host.chain.crls(3, &[]), 1).unwrap();
    let ended = host.chain.until(4, &[], NOW_S - 60);
    fs::write(host.puppets(), &ended).unwrap();
    host.keeper.look(NOW_MS + 600_000);
    assert_eq!(fs::read_to_string(host.puppets()).unwrap(), ended);
    assert!(host.keeper.seen().owed.contains("it is newer"), "{}", host.keeper.seen().owed);
    let next = host.chain.crls(5, &[]);
    host.install(&next, 2).unwrap();
    host.expect(&next);
}

#[test]
fn nothing_is_put_anywhere_before_the_first_order() {
    let mut host = Host::new();
    fs::write(host.puppets(), "garbage").unwrap();
    host.look();
    assert_eq!(fs::read(host.puppets()).unwrap(), b"garbage");
    assert!(!host.balancers().exists());
}

#[test]
fn a_file_under_its_writers_hand_is_given_time_but_not_for_ever() {
    let mut host = Host::new();
    let good = host.chain.crls(3, &[]);
    host.install(&good, 1).unwrap();
    fs::write(host.puppets(), &good[..100]).unwrap();
    let file = fs::File::options().append(true).open(host.puppets()).unwrap();
    let (written, now) = (SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS), NOW_MS);
    file.set_modified(written).unwrap();
    assert!(host.keeper.look(now + 100), "soon again");
    assert_eq!(fs::read_to_string(host.puppets()).unwrap(), good[..100]);
    assert!(!host.keeper.seen().owed.is_empty());
    // Written again and again.
    for step in 1_u32..7 {
        file.set_modified(written + Duration::from_millis(500) * step).unwrap();
        host.keeper.look(now + 100 + 500 * u64::from(step));
    }
    host.expect(&good);
}

#[test]
fn an_empty_file_is_given_no_time_because_it_refuses_everybody() {
    let mut host = Host::new();
    let good = host.chain.crls(3, &[]);
    host.install(&good, 1).unwrap();
    fs::write(host.puppets(), "").unwrap();
    let file = fs::File::options().append(true).open(host.puppets()).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS)).unwrap();
    assert!(!host.keeper.look(NOW_MS + 1), "nothing is left to do");
    host.expect(&good);
}

#[test]
fn a_link_in_the_place_of_the_file_is_neither_followed_nor_replaced() {
    let mut host = Host::new();
    let elsewhere = host.path("elsewhere.pem");
    fs::write(&elsewhere, "precious").unwrap();
    symlink(&elsewhere, host.puppets()).unwrap();
    let crls = host.chain.crls(2, &[]);
    host.install(&crls, 1).unwrap();
    assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    assert!(host.puppets().is_symlink());
    assert_eq!(fs::read_to_string(host.balancers()).unwrap(), crls, "the others are served");
    let owed = host.keeper.seen().owed;
    assert!(owed.contains("is a symbolic link") && owed.contains("readlink -f"), "{owed}");
    fs::remove_file(host.puppets()).unwrap();
    host.look();
    host.expect(&crls);
}

#[test]
fn a_ca_bundle_without_end_or_without_a_writer_is_not_waited_for() {
    let mut host = Host::new();
    let (crls, ca) = (host.chain.crls(2, &[]), host.path("ssl/ca.pem"));
    for strange in ["/dev/zero", "fifo"] {
        fs::remove_file(&ca).unwrap();
        match strange {
            "fifo" => fifo(&ca),
            device => symlink(device, &ca).unwrap(),
        }
        let refused = host.refused(&crls, 1);
        assert!(refused.contains("it is not a file"), "{refused}");
    }
}

fn fifo(path: &std::path::Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn what_is_no_file_is_owed_and_does_not_hold_anybody_up() {
    let mut host = Host::new();
    fifo(&host.puppets());
    let crls = host.chain.crls(2, &[]);
    host.install(&crls, 1).unwrap();
    assert_eq!(fs::read_to_string(host.balancers()).unwrap(), crls);
    assert!(host.keeper.seen().owed.contains("is not a file"));
}

#[test]
fn i11_readers_see_only_whole_files_while_crls_are_given_and_meddled_with() {
    let mut host = Host::new();
    host.install(&host.chain.crls(1, &[]), 1).unwrap();
    let offers: Vec<String> = (2..20).map(|number| host.chain.crls(number, &[number])).collect();
    let path = host.puppets();
    let (authorities, done) = (host.chain.authorities(), Arc::new(Mutex::new(false)));
    let unused = Keeper::open(&host.path("unused")).unwrap();
    let keeper = Mutex::new(std::mem::replace(&mut host.keeper, unused));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut newest = 0.into();
            while !*done.lock().unwrap() {
                let crls = bunraku_certificates::Crls::parse(&fs::read(&path).unwrap()).unwrap();
                crls.check(&authorities, NOW_S).unwrap();
                let number = crls.iter().map(bunraku_certificates::Crl::number).max().unwrap();
                assert!(number >= newest, "{number} after {newest}");
                newest = number;
            }
        });
        scope.spawn(|| {
            while !*done.lock().unwrap() {
                keeper.lock().unwrap().look(NOW_MS);
            }
        });
        for (at, offer) in (1..).zip(&offers) {
            let offer = Offer { crls: offer.as_bytes(), fence: fence(1 + at), number_reset: false };
            keeper.lock().unwrap().install(&offer, NOW_MS).unwrap();
        }
        *done.lock().unwrap() = true;
    });
    host.keeper = keeper.into_inner().unwrap();
    host.expect(&offers[offers.len() - 1]);
}

/// What may happen to a host.
#[derive(Debug, Clone)]
enum Event {
    Given(u64),
    Brought(u64),
    Damaged(usize),
    Removed,
    Killed,
    Look,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1_u64..8).prop_map(Event::Given),
        (1_u64..8).prop_map(Event::Brought),
        (0_usize..600).prop_map(Event::Damaged),
        Just(Event::Removed),
        Just(Event::Killed),
        Just(Event::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn i11_whatever_happens_after_a_look_every_file_is_sound_and_never_older(events in prop::collection::vec(event(), 1..12)) {
        let mut host = Host::new();
        let all: Vec<String> = (0..8).map(|number| host.chain.crls(number, &[number])).collect();
        host.install(&all[1], 1).unwrap();
        let mut newest = 1;
        for (at, event) in (2..).zip(events) {
            match event {
                Event::Given(number) => {
                    let taken = host.install(&all[usize::try_from(number).unwrap()], at).is_ok();
                    prop_assert_eq!(taken, number >= newest, "{} after {}", number, newest);
                    newest = newest.max(number);
                }
                Event::Brought(number) => {
                    fs::write(host.puppets(), &all[usize::try_from(number).unwrap()]).unwrap();
                    host.look();
                    newest = newest.max(number);
                }
                Event::Damaged(length) => fs::write(host.puppets(), &all[1].as_bytes()[..length.min(all[1].len() - 2)]).unwrap(),
                Event::Removed => drop(fs::remove_file(host.puppets())),
                Event::Killed => host.start_again(),
                Event::Look => host.look(),
            }
        }
        host.look();
        for path in [host.puppets(), host.balancers()] {
            host.expect_sound(&path, newest.into());
        }
    }
}
