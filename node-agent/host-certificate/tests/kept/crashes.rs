//! Killed at every step: this program runs itself, and `BUNRAKU_CRASH_AT` ends it there.

use std::{fs, os::unix::process::ExitStatusExt, path::PathBuf, process::Command};

use bunraku_common::NodeName;
use bunraku_host_certificate::{Kept, Pair, World, alt_names};
use zeroize::Zeroizing;

use crate::world::{Host, NAME, NOW_S, files, order};

const HOST: &str = "BUNRAKU_TEST_CERTIFICATE_HOST";

/// The part of the process that is killed: run by itself it does nothing.
#[test]
fn killed_while_it_works() {
    let Some(dir) = std::env::var_os(HOST).map(PathBuf::from) else { return };
    let mut kept = Kept::open(&dir.join("data")).unwrap();
    let todo = fs::read_to_string(dir.join("todo")).unwrap();
    match todo.split_once(' ').unwrap() {
        ("request", _) => {
            let names = alt_names(&["puppet.example".to_owned()]).unwrap();
            kept.request(order(1), &NodeName::parse(NAME).unwrap(), names).unwrap();
        }
        ("stage", _) => {
            let (ca, crl) = (dir.join("ssl/ca.pem"), dir.join("ssl/crl.pem"));
            let world = World { ca: &ca, crl: &crl, now_s: NOW_S };
            kept.stage(order(1), &fs::read(dir.join("signed.pem")).unwrap(), &world).unwrap();
        }
        ("place", fingerprint) => {
            let (ca, crl) = (dir.join("ssl/ca.pem"), dir.join("ssl/crl.pem"));
            let world = World { ca: &ca, crl: &crl, now_s: NOW_S };
            kept.place(fingerprint, &files(&dir), &world).unwrap();
        }
        ("back", fingerprint) => kept.put_back(fingerprint, &files(&dir)).unwrap(),
        (other, _) => panic!("{other}"),
    }
}

fn kill(host: &Host, todo: &str, point: &str) {
    fs::write(host.path("todo"), todo).unwrap();
    let mut itself = Command::new(std::env::current_exe().unwrap());
    itself.args(["crashes::killed_while_it_works", "--exact"]);
    let ended = itself.env(HOST, host.dir.path()).env("BUNRAKU_CRASH_AT", point).output().unwrap();
    assert_eq!(ended.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&ended.stdout));
}

#[test]
fn killed_while_it_asks_and_stages_the_same_order_ends_it_with_one_key() {
    for point in ["certificate-key-made", "certificate-noted"] {
        let mut host = Host::new();
        kill(&host, "request ", point);
        host.start_again();
        let request = host.request(1, &["puppet.example"]).unwrap();
        assert_eq!(host.request(1, &["puppet.example"]).unwrap(), request);
        assert_eq!(host.keys(), 1, "{point}");
        fs::write(host.path("signed.pem"), host.ca.sign(&request, |_| ())).unwrap();
        for point in ["certificate-staged", "certificate-noted"] {
            kill(&host, "stage ", point);
        }
        host.start_again();
        host.stage(1, &fs::read(host.path("signed.pem")).unwrap()).unwrap();
    }
}

#[test]
fn killed_at_any_step_the_pair_is_mended_by_the_repeated_act_and_the_way_back_leads_to_the_old_one() {
    let steps = [
        "certificate-copied",
        "certificate-noted",
        "certificate-key-written",
        "certificate-key-renamed",
        "certificate-between",
        "certificate-written",
        "certificate-renamed",
        "certificate-placed",
    ];
    for point in steps {
        let mut host = Host::new();
        let before = host.read();
        let (certificate, new) = host.ready(1);
        kill(&host, &format!("place {new}"), point);
        host.start_again();
        host.can_place(&new).unwrap();
        host.place(&new).unwrap();
        let (there, key) = host.read();
        assert_eq!(there, certificate, "{point}");
        Pair::new(there, Zeroizing::new(key)).unwrap();

        let back = ["certificate-put-back", "certificate-between", "certificate-renamed"];
        for point in back {
            kill(&host, &format!("back {new}"), point);
            host.start_again();
        }
        host.kept.put_back(&new, &host.files()).unwrap();
        assert_eq!(host.read(), before, "{point}");
        let left = fs::read_dir(host.path("ssl")).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_str().unwrap().starts_with('.')).collect();
        assert!(left.is_empty(), "{point}: {left:?}");
    }
}

#[test]
fn killed_on_the_way_back_it_may_be_placed_again() {
    let mut host = Host::new();
    let before = host.read();
    let (certificate, new) = host.ready(1);
    host.place(&new).unwrap();
    kill(&host, &format!("back {new}"), "certificate-between");
    host.start_again();
    host.place(&new).unwrap();
    assert_eq!(host.read().0, certificate);
    host.kept.put_back(&new, &host.files()).unwrap();
    assert_eq!(host.read(), before);
}
