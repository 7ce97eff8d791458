//! F22: the rotation of the mesh CA.

use bunraku_common::Digest;
use bunraku_engine::{CaHold, CaPhase, Event, Fact, Refusal, RefusalCode, Request, Right, Standing, State};

use crate::desk::{Desk, MINUTE, NOW_S, node, operator};

fn old() -> Digest {
    Digest::of(b"the old CA")
}

fn new() -> Digest {
    Digest::of(b"the new CA")
}

fn rotate(desk: &mut Desk, phase: CaPhase, leave: &[&str]) -> Result<Vec<Fact>, Refusal> {
    let leave = leave.iter().map(|name| node(name)).collect();
    desk.ask(Request::RotateCa { phase, from: old(), to: new(), leave })
}

fn says(desk: &mut Desk, name: &str, anchors: &[Digest]) -> Vec<Fact> {
    desk.hear(Event::AnchorsSeen { node: node(name), anchors: anchors.to_vec() })
}

fn phase(desk: &Desk) -> Option<CaPhase> {
    desk.state.authority().rotation.as_ref().map(|rotation| rotation.phase)
}

#[test]
fn each_phase_waits_for_what_it_needs_of_every_node() {
    let mut desk = Desk::with(&["c1", "c2"]);
    assert!(says(&mut desk, "c1", &[old()]).is_empty(), "no news while nothing is rotated");
    rotate(&mut desk, CaPhase::Announce, &[]).unwrap();
    says(&mut desk, "c1", &[old(), new()]);
    assert!(says(&mut desk, "c1", &[old(), new()]).is_empty(), "the same again is no news");
    let waits = rotate(&mut desk, CaPhase::Overlap, &[]).unwrap_err();
    assert_eq!(waits.code, RefusalCode::Conflict);
    assert!(waits.reason.contains("c2 has not heard") && waits.hint.contains("--leave c2"), "{waits}");
    says(&mut desk, "c2", &[old(), new()]);
    rotate(&mut desk, CaPhase::Overlap, &[]).unwrap();
    rotate(&mut desk, CaPhase::Switch, &[]).unwrap();
    says(&mut desk, "c1", &[new(), old()]);
    let waits = rotate(&mut desk, CaPhase::Retire, &[]).unwrap_err();
    assert!(waits.reason.contains("c2 has no certificate by the new CA yet"), "{waits}");
    assert_eq!(desk.state.ca_lacking().into_iter().collect::<Vec<_>>(), [(node("c2"), CaHold::Anchor)]);
    says(&mut desk, "c2", &[new(), old()]);
    let facts = rotate(&mut desk, CaPhase::Retire, &[]).unwrap();
    assert_eq!(facts.len(), 1, "nobody is cut: {facts:?}");
    assert_eq!((phase(&desk), desk.state.authority().current), (None, Some(new())));
}

#[test]
fn two_who_ask_for_one_phase_begin_one() {
    let mut desk = Desk::with(&[]);
    assert!(rotate(&mut desk, CaPhase::Retire, &[]).is_err(), "the phases have an order");
    rotate(&mut desk, CaPhase::Announce, &[]).unwrap();
    let second = rotate(&mut desk, CaPhase::Announce, &[]).unwrap_err();
    assert!(second.reason.contains("the next one is overlap"), "{second}");
    assert_eq!(phase(&desk), Some(CaPhase::Announce));
}

#[test]
fn who_is_left_is_cut_with_the_retirement_and_not_before_and_may_enrol_again() {
    let mut desk = Desk::with(&["c1", "c2"]);
    assert!(rotate(&mut desk, CaPhase::Announce, &["c9"]).is_err(), "a name that is not known is a mistake");
    rotate(&mut desk, CaPhase::Announce, &["c2"]).unwrap();
    says(&mut desk, "c1", &[new(), old()]);
    for phase in [CaPhase::Overlap, CaPhase::Switch] {
        rotate(&mut desk, phase, &[]).unwrap();
        assert!(matches!(desk.state.standing("serial 2", "key 2"), Standing::Allowed(_)), "{phase:?}");
    }
    let facts = rotate(&mut desk, CaPhase::Retire, &[]).unwrap();
    // Cut off by a power loss, the phase is not over before everybody who is left was cut.
    assert!(matches!(&facts[..], [Fact::IdentityCut { .. }, Fact::CaRotationMoved { .. }]), "{facts:?}");
    assert!(matches!(desk.state.standing("serial 2", "key 2"), Standing::Denied(_)));
    assert!(matches!(desk.state.standing("serial 1", "key 1"), Standing::Allowed(_)));
    desk.enrol("c2").unwrap();
}

#[test]
fn a_node_that_enrols_anew_during_a_rotation_is_asked_anew() {
    let mut desk = Desk::with(&["c1"]);
    rotate(&mut desk, CaPhase::Announce, &[]).unwrap();
    says(&mut desk, "c1", &[old(), new()]);
    desk.enrol("c1").unwrap();
    assert_eq!(desk.state.ca_lacking().len(), 1);
    assert!(says(&mut desk, "c9", &[new()]).is_empty(), "nobody else's word counts");
}

#[test]
fn an_operator_who_got_no_identity_by_the_new_ca_ends_with_the_old_one() {
    let mut desk = Desk::with(&[]);
    for (name, serial) in [("ann", "s1"), ("bob", "s2")] {
        let right = Right::parse("admin").unwrap();
        let (token, hash) = (format!("token of {name}"), format!("hash of {name}"));
        let expires_s = NOW_S + 900;
        desk.ask(Request::AddOperator { name: operator(name), right, token, hash: hash.clone(), expires_s })
            .unwrap();
        let (name, serial, key) = (name.to_owned(), serial.to_owned(), format!("key of {serial}"));
        let expires_s = NOW_S + 86_400;
        desk.ask(Request::EnrolWithToken { hash, name, serial, key, expires_s, now_s: NOW_S }).unwrap();
    }
    rotate(&mut desk, CaPhase::Announce, &[]).unwrap();
    rotate(&mut desk, CaPhase::Overlap, &[]).unwrap();
    desk.ask(Request::Renew {
        old_serial: "s1".into(),
        old_key: "key of s1".into(),
        serial: "s3".into(),
        key: "key of s1".into(),
        expires_s: NOW_S + 86_400,
        now_s: NOW_S,
    })
    .unwrap();
    for phase in [CaPhase::Switch, CaPhase::Retire] {
        rotate(&mut desk, phase, &[]).unwrap();
    }
    assert!(matches!(desk.state.standing("s3", "key of s1"), Standing::Allowed(_)));
    assert!(matches!(desk.state.standing("s2", "key of s2"), Standing::Denied(_)));
}

#[test]
fn a_rotation_survives_a_checkpoint_in_each_phase_and_its_facts_survive_json() {
    let mut desk = Desk::with(&["c1"]);
    for phase in [CaPhase::Announce, CaPhase::Overlap, CaPhase::Switch, CaPhase::Retire] {
        let mut facts = rotate(&mut desk, phase, &["c1"]).unwrap();
        facts.extend(says(&mut desk, "c1", &[new(), old()]));
        let kept = serde_json::to_vec(&desk.state).unwrap();
        assert_eq!(serde_json::from_slice::<State>(&kept).unwrap(), desk.state, "{phase:?}");
        for fact in facts {
            let json = serde_json::to_value(&fact).unwrap();
            assert_eq!(json["fact"], fact.kind());
            assert_eq!(serde_json::from_value::<Fact>(json).unwrap(), fact);
        }
    }
    assert_eq!(phase(&desk), None);
}

#[test]
fn a_rotation_that_nobody_goes_on_with_is_an_alarm() {
    let mut desk = Desk::with(&[]);
    rotate(&mut desk, CaPhase::Announce, &[]).unwrap();
    let day = 24 * 60 * MINUTE;
    assert!(desk.state.alarms(desk.now + 3 * day).is_empty());
    let told = desk.state.alarms(desk.now + 4 * day).join("\n");
    assert!(told.contains("stands in phase announce") && told.contains("bunraku ca status"), "{told}");
}
