//! Who may speak.

use std::collections::BTreeSet;

use bunraku_common::Role;
use bunraku_engine::{Event, Fact, Refusal, RefusalCode, Request, Right, Standing, Subject};

use crate::desk::{Desk, NOW_S, node, operator};

const DAY_S: u64 = 86_400;

fn token(desk: &mut Desk, id: &str, name: &str) -> Result<Vec<Fact>, Refusal> {
    desk.ask(Request::CreateToken {
        id: id.into(),
        hash: format!("hash of {id}"),
        node: node(name),
        roles: BTreeSet::from([Role::Compiler]),
        expires_s: NOW_S + 900,
    })
}

fn enrol(desk: &mut Desk, token: &str, name: &str, serial: &str, now_s: u64) -> Result<Vec<Fact>, Refusal> {
    desk.ask(Request::EnrolWithToken {
        hash: format!("hash of {token}"),
        name: name.into(),
        serial: serial.into(),
        key: format!("key of {serial}"),
        expires_s: now_s + DAY_S,
        now_s,
    })
}

fn renew(desk: &mut Desk, old: &str, serial: &str, now_s: u64) -> Result<Vec<Fact>, Refusal> {
    desk.ask(Request::Renew {
        old_serial: old.into(),
        old_key: format!("key of {old}"),
        serial: serial.into(),
        key: format!("key of {serial}"),
        expires_s: now_s + DAY_S,
        now_s,
    })
}

fn allowed(desk: &Desk, serial: &str) -> bool {
    matches!(desk.state.standing(serial, &format!("key of {serial}")), Standing::Allowed(_))
}

#[test]
fn a_token_works_once_for_its_name_and_in_its_time() {
    let mut desk = Desk::with(&[]);
    token(&mut desk, "t1", "c1").unwrap();
    assert_eq!(enrol(&mut desk, "t9", "c1", "s1", NOW_S).unwrap_err().code, RefusalCode::Denied);
    assert!(enrol(&mut desk, "t1", "c2", "s1", NOW_S).unwrap_err().reason.contains("another name"));
    assert!(enrol(&mut desk, "t1", "c1", "s1", NOW_S + 900).unwrap_err().reason.contains("expired"));
    enrol(&mut desk, "t1", "c1", "s1", NOW_S).unwrap();
    assert!(enrol(&mut desk, "t1", "c1", "s2", NOW_S).unwrap_err().reason.contains("used already"));
    let Standing::Allowed(Subject::Node { name, roles }) = desk.state.standing("s1", "key of s1") else {
        panic!()
    };
    assert_eq!((name, roles), (node("c1"), BTreeSet::from([Role::Compiler])));
}

#[test]
fn a_serial_with_another_key_is_nobody() {
    let mut desk = Desk::with(&[]);
    token(&mut desk, "t1", "c1").unwrap();
    enrol(&mut desk, "t1", "c1", "s1", NOW_S).unwrap();
    assert!(matches!(desk.state.standing("s1", "key of s2"), Standing::Denied(_)));
    assert!(matches!(desk.state.standing("s2", "key of s1"), Standing::Denied(_)));
}

#[test]
fn a_revoked_node_is_denied_barred_at_both_doors_and_its_tokens_are_void_until_it_is_allowed() {
    let mut desk = Desk::with(&[]);
    token(&mut desk, "t1", "c1").unwrap();
    token(&mut desk, "t2", "c1").unwrap();
    enrol(&mut desk, "t1", "c1", "s1", NOW_S).unwrap();
    desk.ask(Request::RevokeNode { node: node("c1"), reason: "stolen".into() }).unwrap();
    assert!(!allowed(&desk, "s1"));
    assert!(renew(&mut desk, "s1", "s2", NOW_S).is_err());
    assert!(enrol(&mut desk, "t2", "c1", "s2", NOW_S).is_err());
    assert!(token(&mut desk, "t3", "c1").unwrap_err().hint.contains("bunraku nodes allow c1"));
    assert_eq!(desk.enrol("c1").unwrap_err().code, RefusalCode::Denied);
    desk.ask(Request::RemoveNode { node: node("c1") }).unwrap();
    assert!(desk.enrol("c1").is_err(), "removing it does not lift the bar");
    desk.ask(Request::AllowNode { node: node("c1") }).unwrap();
    assert!(enrol(&mut desk, "t2", "c1", "s2", NOW_S).is_err(), "a void token stays void");
    desk.enrol("c1").unwrap();
    assert!(!allowed(&desk, "s1"), "the stolen identity stays denied");
}

#[test]
fn a_new_enrolment_ends_the_earlier_identity_and_a_renewal_does_not() {
    let mut desk = Desk::with(&[]);
    token(&mut desk, "t1", "c1").unwrap();
    token(&mut desk, "t2", "c1").unwrap();
    enrol(&mut desk, "t1", "c1", "s1", NOW_S).unwrap();
    renew(&mut desk, "s1", "s2", NOW_S).unwrap();
    assert!(allowed(&desk, "s1") && allowed(&desk, "s2"), "the answer to a renewal may be lost");
    enrol(&mut desk, "t2", "c1", "s3", NOW_S).unwrap();
    assert!(!allowed(&desk, "s1") && !allowed(&desk, "s2") && allowed(&desk, "s3"));
    desk.ask(Request::EnrolWithPuppet {
        node: node("c1"),
        roles: BTreeSet::from([Role::Compiler]),
        puppet_serial: "p1".into(),
        serial: "s4".into(),
        key: "key of s3".into(),
        expires_s: NOW_S + DAY_S,
    })
    .unwrap();
    assert!(matches!(desk.state.standing("s4", "key of s3"), Standing::Allowed(_)), "a kept key goes on");
    assert!(matches!(desk.state.standing("s3", "key of s3"), Standing::Denied(_)));
}

#[test]
fn a_denied_key_and_a_key_of_somebody_else_never_enrol() {
    let mut desk = Desk::with(&[]);
    for (id, name) in [("t1", "c1"), ("t2", "c2"), ("t3", "c3")] {
        token(&mut desk, id, name).unwrap();
    }
    enrol(&mut desk, "t1", "c1", "s1", NOW_S).unwrap();
    let with_key = |token: &str, name: &str, key: &str| Request::EnrolWithToken {
        hash: format!("hash of {token}"),
        name: name.into(),
        serial: "s2".into(),
        key: key.into(),
        expires_s: NOW_S + DAY_S,
        now_s: NOW_S,
    };
    assert!(desk.ask(with_key("t2", "c2", "key of s1")).is_err());
    desk.ask(Request::RevokeNode { node: node("c1"), reason: "stolen".into() }).unwrap();
    assert!(desk.ask(with_key("t3", "c3", "key of s1")).is_err());
}

#[test]
fn an_expired_identity_may_renew_itself_for_thirty_days() {
    let mut desk = Desk::with(&[]);
    token(&mut desk, "t1", "c1").unwrap();
    enrol(&mut desk, "t1", "c1", "s1", NOW_S).unwrap();
    assert!(renew(&mut desk, "s1", "s2", NOW_S + 32 * DAY_S).is_err());
    renew(&mut desk, "s1", "s2", NOW_S + 30 * DAY_S).unwrap();
}

#[test]
fn an_identity_born_from_a_puppet_certificate_ends_with_it_but_the_name_may_enrol_again() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let facts = desk.hear(Event::PuppetRevoked { serials: BTreeSet::from(["puppet c1".to_owned()]) });
    assert_eq!(facts.len(), 1);
    assert!(matches!(desk.state.standing("serial 1", "key 1"), Standing::Denied(_)));
    assert!(matches!(desk.state.standing("serial 2", "key 2"), Standing::Allowed(_)));
    desk.enrol("c1").unwrap();
}

#[test]
fn operators_log_in_once_with_their_token_and_are_gone_when_revoked() {
    let mut desk = Desk::with(&[]);
    let add = |token: &str| Request::AddOperator {
        name: operator("eve"),
        right: Right::parse("deployer:prod*").unwrap(),
        token: token.into(),
        hash: format!("hash of {token}"),
        expires_s: NOW_S + 900,
    };
    desk.ask(add("t1")).unwrap();
    assert_eq!(desk.ask(add("t2")).unwrap_err().code, RefusalCode::Conflict);
    enrol(&mut desk, "t1", "eve", "s1", NOW_S).unwrap();
    assert!(allowed(&desk, "s1"));
    let again = enrol(&mut desk, "t1", "eve", "s9", NOW_S).unwrap_err();
    assert!(again.hint.contains("bunraku operator add NAME"), "no token of a node helps: {}", again.hint);
    renew(&mut desk, "s1", "s2", NOW_S).unwrap();
    desk.ask(Request::RevokeOperator { name: operator("eve") }).unwrap();
    assert!(!allowed(&desk, "s1") && !allowed(&desk, "s2"));
    desk.ask(add("t3")).unwrap();
    assert!(!allowed(&desk, "s1"), "added again, the old identity stays denied");
}

#[test]
fn i10_an_identity_that_renews_without_end_is_refused_and_may_again_an_hour_later() {
    let mut desk = Desk::with(&[]);
    token(&mut desk, "t1", "c1").unwrap();
    enrol(&mut desk, "t1", "c1", "s0", NOW_S).unwrap();
    let refused = (1..100).find(|n| renew(&mut desk, "s0", &format!("s{n}"), NOW_S).is_err());
    assert_eq!(refused, Some(8));
    assert!(renew(&mut desk, "s0", "later", NOW_S + 3600).is_ok());
}

#[test]
fn a_token_for_an_operator_enrols_no_node_of_the_same_name() {
    let mut desk = Desk::with(&[]);
    let request = Request::AddOperator {
        name: operator("c1"),
        right: Right::Viewer,
        token: "t1".into(),
        hash: "hash of t1".into(),
        expires_s: NOW_S + 900,
    };
    desk.ask(request).unwrap();
    enrol(&mut desk, "t1", "c1", "s1", NOW_S).unwrap();
    assert!(desk.state.fleet().nodes.is_empty());
}

#[test]
fn what_expired_long_ago_is_forgotten_and_what_may_still_renew_is_not() {
    let mut desk = Desk::with(&[]);
    token(&mut desk, "t1", "c1").unwrap();
    token(&mut desk, "t2", "c2").unwrap();
    enrol(&mut desk, "t1", "c1", "s1", NOW_S).unwrap();
    renew(&mut desk, "s1", "s2", NOW_S + 100).unwrap();
    enrol(&mut desk, "t2", "c2", "s3", NOW_S).unwrap();
    desk.ask(Request::RevokeNode { node: node("c2"), reason: "stolen".into() }).unwrap();
    desk.hear(Event::Housekeeping { now_s: NOW_S + 3 * DAY_S, now: desk.now });
    let fleet = desk.state.fleet();
    assert!(fleet.tokens.is_empty());
    assert_eq!(fleet.identities.keys().collect::<Vec<_>>(), ["s2"]);
    assert!(fleet.denied_serials.contains_key("s3"), "its holder could still try to renew");
    desk.hear(Event::Housekeeping { now_s: NOW_S + 33 * DAY_S, now: desk.now });
    let fleet = desk.state.fleet();
    assert!(fleet.denied_serials.is_empty() && fleet.denied_keys.is_empty());
    assert!(fleet.barred.contains_key(&node("c2")), "a bar never expires");
    assert!(desk.hear(Event::Housekeeping { now_s: NOW_S + 33 * DAY_S, now: desk.now }).is_empty());
}

#[test]
fn facts_survive_json_and_their_kind_is_their_name_there() {
    let mut desk = Desk::with(&["c1"]);
    let mut facts = token(&mut desk, "t1", "c2").unwrap();
    facts.extend(enrol(&mut desk, "t1", "c2", "s1", NOW_S).unwrap());
    facts.extend(desk.ask(Request::HoldNode { node: node("c1"), reason: "x".into() }).unwrap());
    facts.push(Fact::Refused { what: "deploy".into(), reason: "no right".into() });
    for fact in facts {
        let json = serde_json::to_value(&fact).unwrap();
        assert_eq!(json["fact"], fact.kind());
        assert_eq!(serde_json::from_value::<Fact>(json).unwrap(), fact);
    }
}
