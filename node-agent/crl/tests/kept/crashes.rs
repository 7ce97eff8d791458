//! Killed at every step: this program runs itself, and `BUNRAKU_CRASH_AT` ends it there.

use std::{fs, os::unix::process::ExitStatusExt, process::Command};

use bunraku_crl::{Keeper, Offer};

use crate::world::{Host, NOW_MS, fence};

const HOST: &str = "BUNRAKU_TEST_CRL_HOST";

/// The part of the process that is killed: run by itself it does nothing.
#[test]
fn killed_while_it_installs() {
    let Some(dir) = std::env::var_os(HOST).map(std::path::PathBuf::from) else { return };
    let mut host = Host::new();
    let places = host.places().into_iter().map(|mut place| {
        let below = place.path.strip_prefix(host.dir.path()).unwrap().to_owned();
        (place.path, place.ca) = (dir.join(below), dir.join("ssl/ca.pem"));
        place
    });
    let places = places.collect();
    host.keeper = Keeper::open(&dir.join("data")).unwrap();
    host.keeper.keep(places);
    let crls = fs::read(dir.join("offer.pem")).unwrap();
    let number_reset = dir.join("reset").exists();
    host.keeper.install(&Offer { crls: &crls, fence: fence(2), number_reset }, NOW_MS).unwrap();
}

#[test]
fn i11_killed_at_any_step_the_files_are_whole_and_the_next_look_ends_what_was_begun() {
    // Once for each file where a step comes twice.
    let points =
        ["crl-copied", "crl-remembered", "crl-written", "crl-written:2", "crl-renamed", "crl-placed"];
    for (point, reset) in points.iter().flat_map(|point| [(point, false), (point, true)]) {
        let mut host = Host::new();
        let (first, second) = match reset {
            false => (host.chain.crls(2, &[]), host.chain.crls(3, &[5])),
            true => (host.chain.crls(9, &[]), host.chain.crls(3, &[5])),
        };
        host.install(&first, 1).unwrap();
        fs::write(host.path("offer.pem"), &second).unwrap();
        if reset {
            fs::write(host.path("reset"), "").unwrap();
        }
        let mut itself = Command::new(std::env::current_exe().unwrap());
        itself.args(["crashes::killed_while_it_installs", "--exact"]);
        itself.env(HOST, host.dir.path()).env("BUNRAKU_CRASH_AT", point);
        let ended = itself.output().unwrap();
        assert_eq!(ended.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&ended.stdout));

        for path in [host.puppets(), host.balancers()] {
            host.expect_sound(&path, 2);
        }
        host.start_again();
        for dir in ["ssl", "haproxy"] {
            let names = fs::read_dir(host.path(dir)).unwrap().map(|entry| entry.unwrap().file_name());
            let left: Vec<_> = names.filter(|name| name.to_str().unwrap().starts_with('.')).collect();
            assert!(left.is_empty(), "{point}: {left:?}");
        }
        host.look();
        // Before it was remembered the order had no effect, and comes again.
        host.expect(if *point == "crl-copied" { &first } else { &second });
        let repeated = if reset { host.install_reset(&second, 2) } else { host.install(&second, 2) };
        repeated.unwrap();
        host.expect(&second);
        assert_eq!(host.keeper.reloads().len(), 1, "{point}");
    }
}
