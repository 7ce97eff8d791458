//! In place of the certificate before, and back.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use bunraku_host_certificate::{Fallback, Pair, PlaceError, Refused, Served};
use zeroize::Zeroizing;

use crate::world::{Host, NOW_S, fingerprint};

fn belong_together((certificate, key): &(Vec<u8>, Vec<u8>)) -> bool {
    Pair::new(certificate.clone(), Zeroizing::new(key.clone())).is_ok()
}

#[test]
fn the_new_pair_comes_into_place_and_the_old_one_back_with_the_modes_of_before() {
    let mut host = Host::new();
    let before = host.read();
    let (certificate, new) = host.ready(1);
    assert_eq!(host.kept.served_before(&new).unwrap(), None);
    host.place(&new).unwrap();
    let now = host.read();
    assert!(now.0 == certificate && belong_together(&now));
    let mode = |name: &str| fs::metadata(host.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ssl/cert.pem"), mode("ssl/key.pem")), (0o644, 0o600));
    let served = host.kept.served_after(&new).unwrap();
    assert_eq!((served.fingerprint, served.alt_names.len()), (Some(new.clone()), 2));

    host.kept.put_back(&new, &host.files()).unwrap();
    assert_eq!(host.read(), before);
    let back = Served { fingerprint: Some(fingerprint(&before.0)), alt_names: Vec::new() };
    assert_eq!(host.kept.served_before(&new).unwrap(), Some(back));
    host.place(&new).unwrap();
    host.kept.put_back(&new, &host.files()).unwrap();
    assert_eq!(host.read(), before, "also the second time");
}

#[test]
fn placed_twice_the_way_back_leads_to_what_was_there_first() {
    let mut host = Host::new();
    let before = host.read();
    let (_, new) = host.ready(1);
    host.place(&new).unwrap();
    host.start_again();
    host.place(&new).unwrap();
    // Also when a newer order has replaced the request by then.
    host.request(2, &[]).unwrap();
    host.place(&new).unwrap();
    host.kept.put_back(&new, &host.files()).unwrap();
    assert_eq!(host.read(), before);
}

#[test]
fn the_next_certificate_forgets_the_keys_of_the_one_before() {
    let mut host = Host::new();
    let (first, fingerprint_1) = host.ready(1);
    host.place(&fingerprint_1).unwrap();
    let (_, fingerprint_2) = host.ready(2);
    host.place(&fingerprint_2).unwrap();
    // The request's, the new one's copy, and the one to go back to.
    assert_eq!(host.keys(), 3);
    let error = host.kept.put_back(&fingerprint_1, &host.files()).unwrap_err();
    assert!(matches!(error, PlaceError::NothingBefore { .. }), "{error}");
    host.kept.put_back(&fingerprint_2, &host.files()).unwrap();
    assert_eq!(host.read().0, first);
}

#[test]
fn a_host_that_had_no_certificate_gets_one_for_puppet_servers_user_and_none_on_the_way_back() {
    let mut host = Host::new();
    for name in ["ssl/cert.pem", "ssl/key.pem"] {
        fs::remove_file(host.path(name)).unwrap();
    }
    let (_, new) = host.ready(1);
    let mut files = host.files();
    let around = fs::metadata(host.path("ssl")).unwrap();
    let (owner, group) = if around.uid() == 0 { (65534, 65534) } else { (around.uid(), around.gid()) };
    files.fallback = Fallback { owner: Some(owner), group: Some(group) };
    host.place_at(&new, &files).unwrap();
    for (name, mode) in [("ssl/cert.pem", 0o644), ("ssl/key.pem", 0o640)] {
        let meta = fs::metadata(host.path(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (owner, group, mode), "{name}");
    }
    host.kept.put_back(&new, &files).unwrap();
    assert!(!host.path("ssl/cert.pem").exists() && !host.path("ssl/key.pem").exists());
    assert_eq!(host.kept.served_before(&new).unwrap().unwrap().fingerprint, None);
}

#[test]
fn a_file_that_is_a_link_or_half_of_a_pair_is_found_before_anything_changes() {
    for name in ["ssl/cert.pem", "ssl/key.pem"] {
        let mut host = Host::new();
        let (_, new) = host.ready(1);
        host.can_place(&new).unwrap();
        let real = host.path("real.pem");
        fs::rename(host.path(name), &real).unwrap();
        let half = host.can_place(&new).unwrap_err();
        assert!(half.contains("only one of"), "{half}");
        symlink(&real, host.path(name)).unwrap();
        let link = host.can_place(&new).unwrap_err();
        assert!(link.contains("is a symbolic link") && link.contains("readlink -f"), "{link}");
        let before = host.read();
        assert!(host.place(&new).is_err());
        assert_eq!(host.read(), before);
        assert!(host.path(name).is_symlink());
    }
}

#[test]
fn a_pair_that_was_broken_before_is_replaced_and_comes_back_as_it_was() {
    let mut host = Host::new();
    fs::write(host.path("ssl/cert.pem"), "broken").unwrap();
    let before = host.read();
    let (_, new) = host.ready(1);
    host.can_place(&new).unwrap();
    host.place(&new).unwrap();
    assert_eq!(host.kept.served_before(&new).unwrap().unwrap().fingerprint, None);
    host.kept.put_back(&new, &host.files()).unwrap();
    assert_eq!(host.read(), before);
}

#[test]
fn once_taken_back_it_is_placed_again_only_while_its_request_is_the_newest() {
    let mut host = Host::new();
    let (_, new) = host.ready(1);
    host.place(&new).unwrap();
    host.kept.put_back(&new, &host.files()).unwrap();
    host.can_place(&new).unwrap();
    host.request(2, &[]).unwrap();
    assert!(host.can_place(&new).unwrap_err().contains("does not lie here"));
    let before = host.read();
    assert!(host.place(&new).is_err());
    assert_eq!(host.read(), before);
}

#[test]
fn what_does_not_lie_there_is_not_placed() {
    let mut host = Host::new();
    let before = host.read();
    host.ready(1);
    let error = host.place(&"0".repeat(64)).unwrap_err();
    assert!(matches!(error, PlaceError::NotStaged { .. }), "{error}");
    assert!(host.can_place(&"0".repeat(64)).unwrap_err().contains("bunraku cert request"));
    assert_eq!(host.read(), before);
}

#[test]
fn what_has_ended_since_it_was_staged_is_not_placed_and_what_was_begun_is_ended() {
    let mut host = Host::new();
    let before = host.read();
    let (certificate, new) = host.ready(1);
    host.now_s = NOW_S + 86_401;
    assert!(host.can_place(&new).unwrap_err().contains("no longer holds: it ended 1 s ago"));
    let refused = host.place(&new).unwrap_err();
    assert!(matches!(refused, PlaceError::Refused(Refused::Ended { since_s: 1 })), "{refused}");
    assert_eq!(host.read(), before);
    assert_eq!(host.kept.served_before(&new).unwrap(), None, "it was never begun");

    host.now_s = NOW_S;
    host.place(&new).unwrap();
    fs::write(host.path("ssl/cert.pem"), &before.0).unwrap();
    host.now_s = NOW_S + 86_401;
    host.place(&new).unwrap();
    assert_eq!(host.read().0, certificate, "half of it is worse than what has ended");
}
