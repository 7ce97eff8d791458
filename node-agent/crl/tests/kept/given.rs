//! What the controller sends: taken, or refused without a trace.

use std::fs;

use bunraku_crl::{Offer, Seen};

use crate::world::{Chain, Host, NOW_MS, NOW_S, fence};

#[test]
fn crls_are_put_in_every_file_and_told_of() {
    let mut host = Host::new();
    let seen = Seen { digest: None, fence: None, owed: String::new(), written_ms: 0 };
    assert_eq!(host.keeper.seen(), seen);
    let crls = host.chain.crls(2, &[5]);
    host.install(&crls, 1).unwrap();
    host.expect(&crls);
    let seen = host.keeper.seen();
    assert_eq!((seen.digest, seen.fence, seen.written_ms), (Host::digest(&crls), Some(fence(1)), NOW_MS));
    assert!(host.keeper.in_place(&host.puppets()).unwrap().revokes("5"));
}

#[test]
fn i11_what_is_empty_truncated_forged_ended_or_incomplete_never_reaches_a_file() {
    let mut host = Host::new();
    let good = host.chain.crls(2, &[]);
    host.install(&good, 1).unwrap();
    let next = host.chain.crls(3, &[5]);
    let forged = Chain::new().crls(9, &[]);
    for (bad, why) in [
        (String::new(), "holds no block"),
        ("# nothing\n".to_owned(), "holds no block"),
        (next[..next.len() - 40].to_owned(), "truncated"),
        (next.replace("X509 CRL", "CERTIFICATE"), "`X509 CRL` is expected"),
        (forged, "not of an authority in the CA bundle"),
        (host.chain.first(3), "the chain is incomplete"),
        (host.chain.until(3, &[], NOW_S - 60), " ended "),
    ] {
        let refused = host.refused(&bad, 2);
        assert!(refused.contains(why), "{why}: {refused}");
        host.expect(&good);
        assert_eq!(host.keeper.seen().fence, Some(fence(1)), "nothing is remembered of it");
    }
    host.install(&next, 2).unwrap();
    host.expect(&next);
}

#[test]
fn i11_older_crls_and_other_ones_of_the_same_number_are_refused_also_after_a_restart() {
    let mut host = Host::new();
    let good = host.chain.crls(5, &[1]);
    host.install(&good, 1).unwrap();
    for start_again in [false, true] {
        if start_again {
            host.start_again();
        }
        let refused = host.refused(&host.chain.crls(4, &[1, 2]), 2);
        assert!(refused.contains("number 4 where 5 is known") && refused.contains("hint: "), "{refused}");
        let refused = host.refused(&host.chain.crls(5, &[]), 2);
        assert!(refused.contains("have the numbers of") && refused.contains("hint: "), "{refused}");
        host.expect(&good);
    }
}

#[test]
fn i11_nothing_older_than_what_puppets_agent_has_brought_is_taken_before_the_first_order() {
    for (there, refused) in [(9, true), (8, true), (7, false)] {
        let mut host = Host::new();
        let brought = host.chain.crls(there, &[5]);
        fs::write(host.puppets(), &brought).unwrap();
        let offered = host.chain.crls(8, &[]);
        assert_eq!(host.install(&offered, 1).is_err(), refused, "{there}");
        let left = if refused { brought } else { offered };
        assert_eq!(fs::read_to_string(host.puppets()).unwrap(), left);
    }
}

#[test]
fn a_forged_file_of_high_numbers_does_not_lock_the_genuine_ones_out_and_a_part_of_a_genuine_one_counts() {
    let mut host = Host::new();
    fs::write(host.puppets(), Chain::new().crls(u64::MAX, &[])).unwrap();
    fs::write(host.balancers(), host.chain.first(3)).unwrap();
    let refused = host.refused(&host.chain.crls(2, &[]), 1);
    assert!(refused.contains("number 2 where 3 is known"), "{refused}");
    let crls = host.chain.crls(4, &[]);
    host.install(&crls, 1).unwrap();
    host.expect(&crls);
}

#[test]
fn what_is_in_place_already_is_not_written_again() {
    let mut host = Host::new();
    let crls = host.chain.crls(2, &[]);
    let by_others = Chain::rewritten(&crls);
    fs::write(host.puppets(), &by_others).unwrap();
    fs::write(host.balancers(), &crls).unwrap();
    host.install(&crls, 1).unwrap();
    assert_eq!(fs::read_to_string(host.puppets()).unwrap(), by_others, "the same CRLs in other bytes");
    let seen = host.keeper.seen();
    assert_eq!((seen.digest, seen.owed.as_str(), seen.written_ms), (Host::digest(&crls), "", NOW_MS));
    assert_eq!(host.keeper.reloads(), [], "nothing changed");
    // The controller's file was written anew with the same CRLs.
    host.install(&by_others, 2).unwrap();
    assert_eq!(host.keeper.seen().digest, Host::digest(&by_others));
    assert_eq!(fs::read_to_string(host.balancers()).unwrap(), crls);
}

#[test]
fn an_accepted_reset_goes_back_once_and_then_counts_on() {
    let mut host = Host::new();
    host.install(&host.chain.crls(9, &[]), 1).unwrap();
    let restored = host.chain.crls(3, &[7]);
    host.install_reset(&restored, 2).unwrap();
    host.expect(&restored);
    host.start_again();
    host.look();
    host.expect(&restored);
    let next = host.chain.crls(4, &[7]);
    fs::write(host.puppets(), &next).unwrap();
    host.look();
    host.expect(&next);
    // The order is repeated: what came after it stays.
    host.install_reset(&restored, 2).unwrap();
    host.expect(&next);
    assert!(host.install(&restored, 3).is_err());
}

#[test]
fn a_file_with_a_ca_bundle_of_its_own_does_not_keep_the_others_from_getting_theirs() {
    let mut host = Host::new();
    fs::write(host.path("other.pem"), Chain::new().bundle()).unwrap();
    let mut places = host.places();
    places[1].ca = host.path("other.pem");
    host.keeper.keep(places);
    let crls = host.chain.crls(2, &[]);
    host.install(&crls, 1).unwrap();
    assert_eq!(fs::read_to_string(host.puppets()).unwrap(), crls);
    assert!(!host.balancers().exists());
    let owed = host.keeper.seen().owed;
    assert!(owed.contains("haproxy/crl.pem") && owed.contains("other.pem"), "{owed}");
}

#[test]
fn without_a_ca_bundle_nothing_is_taken_and_what_lies_there_stays() {
    let mut host = Host::new();
    let crls = host.chain.crls(2, &[]);
    host.install(&crls, 1).unwrap();
    fs::rename(host.path("ssl/ca.pem"), host.path("ssl/ca.away")).unwrap();
    let refused = host.refused(&host.chain.crls(3, &[]), 2);
    assert!(refused.contains("ssl/ca.pem could not be read"), "{refused}");
    host.look();
    host.expect(&crls);
}

#[test]
fn a_service_is_owed_its_reload_until_it_has_read_the_newest_change() {
    let mut host = Host::new();
    host.install(&host.chain.crls(2, &[]), 1).unwrap();
    let first = host.keeper.reloads();
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].service, "haproxy");
    // The file changes again while the service reloads.
    host.install(&host.chain.crls(3, &[]), 2).unwrap();
    host.keeper.reloaded(&first[0]).unwrap();
    host.start_again();
    let second = host.keeper.reloads();
    assert_eq!(second.len(), 1);
    host.keeper.reloaded(&second[0]).unwrap();
    host.start_again();
    assert_eq!(host.keeper.reloads(), []);
    // Its table was taken out of the configuration.
    host.install(&host.chain.crls(4, &[]), 3).unwrap();
    host.keeper.keep(vec![host.place(host.puppets(), None)]);
    assert_eq!(host.keeper.reloads(), []);
}

#[test]
fn a_node_without_files_takes_nothing() {
    let mut host = Host::new();
    host.keeper.keep(Vec::new());
    let crls = host.chain.crls(2, &[]);
    let offer = Offer { crls: crls.as_bytes(), fence: fence(1), number_reset: true };
    assert!(host.keeper.install(&offer, NOW_MS).unwrap_err().to_string().contains("keeps no file"));
    assert_eq!(host.keeper.seen().digest, None);
}
