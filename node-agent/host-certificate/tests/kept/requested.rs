//! A key and a request, once for an order.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt};

use bunraku_certificates::{AltName, SigningRequest, Wanted};
use bunraku_common::NodeName;
use bunraku_host_certificate::{Refused, alt_names};

use crate::world::{Host, NAME, order};

#[test]
fn a_request_asks_for_the_hosts_own_name_and_those_of_the_order_and_for_nothing_else() {
    let mut host = Host::new();
    let pem = host.request(1, &["puppet.example", "puppet"]).unwrap();
    let request = SigningRequest::parse(&pem).unwrap();
    let names = ["puppet", "puppet.example", NAME].map(|name| AltName::Dns(name.to_owned()));
    assert_eq!(*request.alt_names(), BTreeSet::from(names.clone()));
    request.judge(&Wanted::new(NodeName::parse(NAME).unwrap(), BTreeSet::from(names))).unwrap();
    let alone = SigningRequest::parse(&host.request(2, &[]).unwrap()).unwrap();
    assert_eq!(alone.alt_names().len(), 1);
}

#[test]
fn the_same_order_gives_the_same_request_also_after_a_restart_and_in_the_next_term() {
    let mut host = Host::new();
    let first = host.request(5, &["puppet.example"]).unwrap();
    assert_eq!(host.request(5, &["puppet.example"]).unwrap(), first);
    host.start_again();
    assert_eq!(host.request(5, &["puppet.example", NAME]).unwrap(), first);
    let mut later = order(5);
    later.fence.term.number = 2;
    let names = alt_names(&["puppet.example".to_owned()]).unwrap();
    assert_eq!(host.kept.request(later, &NodeName::parse(NAME).unwrap(), names).unwrap(), first);
    assert!(matches!(host.request(5, &["other.example"]), Err(Refused::OtherRequest)));
}

#[test]
fn a_newer_order_has_a_key_of_its_own_and_the_older_ones_is_gone() {
    let mut host = Host::new();
    let first = host.request(5, &["puppet.example"]).unwrap();
    let second = host.request(6, &["puppet.example"]).unwrap();
    assert_ne!(SigningRequest::parse(&first).unwrap().key(), SigningRequest::parse(&second).unwrap().key());
    assert_eq!(host.keys(), 1);
    assert!(matches!(host.stage(5, &host.ca.sign(&first, |_| ())), Err(Refused::NotAsked)));
    // Of another fleet, whose numbers begin anew.
    let mut other = order(6);
    other.fleet = None;
    let third = host.kept.request(other, &NodeName::parse(NAME).unwrap(), BTreeSet::new()).unwrap();
    assert_ne!(second, third);
}

#[test]
fn only_the_agent_can_look_at_the_key() {
    let mut host = Host::new();
    host.request(5, &[]).unwrap();
    let request = format!("data/request-{}-1-5", order(5).fleet.unwrap().short());
    let mode = |below: &str| fs::metadata(host.path(below)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data"), mode(&request)), (0o700, 0o700));
    assert_eq!(mode(&format!("{request}/key.pem")), 0o600);
}
