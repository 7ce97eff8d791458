//! Compilers that lack a revocation, and the balancers, one sentence a test.

use bunraku_common::{Digest, Generation};
use bunraku_engine::{CrlEvent, CrlHeld, DrainOwner, Event, SeenCrl};

use crate::site::{Site, node};

const COMPILERS: [&str; 3] = ["c1", "c2", "c3"];

fn crl(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}

/// The CA revokes one more certificate.
fn revoke(site: &mut Site, number: u64) {
    let issuer = Digest::of(b"ca").to_string().parse().unwrap();
    site.hear(Event::Crl(CrlEvent::Seen(SeenCrl {
        crl: crl(number),
        numbers: [(issuer, number.to_string().parse().unwrap())].into_iter().collect(),
        ends_s: u64::MAX,
        ca_ends_s: u64::MAX,
        half_s: u64::MAX,
        revoked: number,
        added: 1,
        since: Some(crl(number - 1)),
        canaries: [].into(),
        same_content: false,
        written_ms: 0,
    })));
}

fn holds(site: &mut Site, name: &str, number: u64) {
    let generation = Generation(number);
    let holds = CrlHeld {
        crl: Some(crl(number)),
        generation,
        provable: false,
        owed: String::new(),
        unread: String::new(),
    };
    site.hear(Event::Crl(CrlEvent::OnNode { node: node(name), holds: Some(holds) }));
}

/// All compilers hold the second change, c2 alone does not.
fn one_lacks_a_revocation() -> Site {
    let mut site = Site::new();
    COMPILERS.iter().for_each(|name| holds(&mut site, name, 0));
    revoke(&mut site, 1);
    COMPILERS.iter().for_each(|name| holds(&mut site, name, 1));
    site.presence.gone(&node("c2"), site.now);
    revoke(&mut site, 2);
    ["c1", "c3"].iter().for_each(|name| holds(&mut site, name, 2));
    site
}

fn owner(site: &Site) -> Option<DrainOwner> {
    site.state.balance().get(&node("c2")).and_then(|balance| balance.owner()).cloned()
}

fn until_it_is_due(site: &mut Site) {
    site.now += site.state.settings().crl_deadline - 1;
    site.look();
    assert_eq!(owner(site), None);
    site.now += 1;
    site.look();
    assert_eq!(site.state.deadline(&site.presence).filter(|at| *at <= site.now), None, "nobody spins");
}

fn balancers_hear(site: &mut Site) {
    site.tell_balancers();
    site.now += 1;
    site.look();
}

#[test]
fn a_compiler_that_lacks_a_revocation_is_drained_and_comes_back_when_it_has_it() {
    let mut site = one_lacks_a_revocation();
    until_it_is_due(&mut site);
    assert_eq!(owner(&site), Some(DrainOwner::Crl));
    balancers_hear(&mut site);
    assert!(!site.in_service("c2"));
    let alarms = site.alarms();
    assert!(alarms[0].contains("c2 is out of service for"), "{alarms:?}");
    assert!(alarms[0].contains("it lacks a revocation"), "{alarms:?}");
    site.connect_all();
    balancers_hear(&mut site);
    assert!(!site.in_service("c2"), "it is back, and still lacks it");
    holds(&mut site, "c2", 2);
    balancers_hear(&mut site);
    assert!(site.in_service("c2"));
    assert_eq!(site.alarms(), [""; 0]);
}

#[test]
fn one_that_has_it_in_time_stays_in_service() {
    let mut site = one_lacks_a_revocation();
    site.wait(site.state.settings().crl_deadline - 1);
    site.connect_all();
    holds(&mut site, "c2", 2);
    site.wait(site.state.settings().crl_deadline);
    site.look();
    assert_eq!(owner(&site), None);
    assert!(site.in_service("c2"));
}

#[test]
fn i3_where_the_floor_forbids_it_the_compiler_stays_and_is_an_alarm() {
    let mut site = one_lacks_a_revocation();
    site.balancer("lb2").floor = 3;
    site.look();
    until_it_is_due(&mut site);
    assert_eq!(owner(&site), None);
    assert!(site.in_service("c2"));
    let alarms = site.state.crl_alarms(&site.presence, site.now, 0);
    assert!(alarms[0].contains("c2 lacks what Puppet's CA revoked 10 s ago"), "{alarms:?}");
    // As soon as it may go, it goes.
    site.balancer("lb2").floor = 1;
    site.look();
    assert_eq!(owner(&site), Some(DrainOwner::Crl));
}

#[test]
fn whoever_enables_it_by_hand_has_the_last_word_until_the_next_revocation() {
    let mut site = one_lacks_a_revocation();
    until_it_is_due(&mut site);
    balancers_hear(&mut site);
    site.enable("c2").unwrap();
    site.wait(60_000);
    assert_eq!(owner(&site), None);
    revoke(&mut site, 3);
    ["c1", "c3"].iter().for_each(|name| holds(&mut site, name, 3));
    site.look();
    assert_eq!(owner(&site), Some(DrainOwner::Crl));
}

#[test]
fn a_controller_that_was_away_gives_compilers_their_time_again() {
    let mut site = one_lacks_a_revocation();
    site.now += 60_000;
    site.restart();
    site.connect_all();
    site.presence.gone(&node("c2"), site.now);
    site.look();
    assert_eq!(owner(&site), None);
    until_it_is_due(&mut site);
    assert_eq!(owner(&site), Some(DrainOwner::Crl));
}

/// Regression: any decision about the compiler after the revocation ended its drain for good.
#[test]
fn a_drain_that_a_balancer_did_not_do_is_tried_again_after_a_while() {
    let mut site = one_lacks_a_revocation();
    until_it_is_due(&mut site);
    site.wait(site.state.settings().balance_deadline);
    assert_eq!(owner(&site), None, "undone: no balancer has heard of it");
    site.look();
    assert_eq!(owner(&site), None, "not at once");
    site.now += site.state.settings().balance_deadline;
    site.look();
    assert_eq!(owner(&site), Some(DrainOwner::Crl));
    balancers_hear(&mut site);
    assert!(!site.in_service("c2"));
}

/// Regression: the CRL came first, and with it the compiler came back, with the code of before.
#[test]
fn i2_a_compiler_that_was_drained_for_a_revocation_comes_back_when_it_serves_what_is_committed_too() {
    let mut site = one_lacks_a_revocation();
    until_it_is_due(&mut site);
    balancers_hear(&mut site);
    site.commit_on_all_but("c2");
    site.connect_all();
    holds(&mut site, "c2", 2);
    balancers_hear(&mut site);
    assert!(!site.in_service("c2"), "it serves the code of before");
    site.prove("c2");
    balancers_hear(&mut site);
    assert!(site.in_service("c2"));
}

/// A compiler that is being added must not begin to serve because its CRLs have come.
#[test]
fn an_operator_who_drains_it_meanwhile_keeps_it_out_when_it_has_it() {
    let mut site = one_lacks_a_revocation();
    until_it_is_due(&mut site);
    balancers_hear(&mut site);
    site.drain("c2").unwrap();
    assert_eq!(owner(&site), Some(DrainOwner::Operator("ann".into())));
    site.connect_all();
    holds(&mut site, "c2", 2);
    balancers_hear(&mut site);
    assert!(!site.in_service("c2"));
    site.enable("c2").unwrap();
    balancers_hear(&mut site);
    assert!(site.in_service("c2"));
}

/// c2 was away for a deploy, which drained it, and is back.
fn one_did_not_follow_a_deploy() -> Site {
    let mut site = Site::new();
    COMPILERS.iter().for_each(|name| holds(&mut site, name, 0));
    site.commit_on_all_but("c2");
    site.presence.gone(&node("c2"), site.now);
    site.now += site.state.settings().unreachable;
    site.look();
    balancers_hear(&mut site);
    site.connect_all();
    assert!(matches!(owner(&site), Some(DrainOwner::Deploy(_))), "{}", site.story());
    site
}

/// Regression: without a CRL that is watched, a compiler that a deploy had drained never came back.
#[test]
fn a_compiler_that_follows_a_deploy_comes_back_where_no_crl_is_watched() {
    let mut site = one_did_not_follow_a_deploy();
    site.prove("c2");
    balancers_hear(&mut site);
    assert!(site.in_service("c2"));
}

#[test]
fn a_compiler_that_follows_a_deploy_and_lacks_a_revocation_stays_out_until_it_has_it() {
    let mut site = one_did_not_follow_a_deploy();
    revoke(&mut site, 1);
    site.prove("c2");
    balancers_hear(&mut site);
    assert!(!site.in_service("c2"), "it lacks a revocation");
    holds(&mut site, "c2", 1);
    balancers_hear(&mut site);
    assert!(site.in_service("c2"));
}
