//! Rollback, release, and nodes that are put aside.

use bunraku_engine::{Event, Fact, Kind, Outcome, Phase, Policy, RefusalCode, Request, Step};

use crate::desk::{Desk, node, production, snapshot};

fn rollback(to: Option<&str>) -> Request {
    Request::Rollback { environment: production(), to: to.map(str::to_owned) }
}

#[test]
fn a_rollback_stages_at_once_and_holds_the_environment_until_it_is_released() {
    let mut desk = Desk::with(&["c1"]);
    desk.deploy("a");
    desk.deploy("b");
    let facts = desk.ask(rollback(None)).unwrap();
    let deploy = Fact::accepted(&facts).unwrap();
    assert!(matches!(&desk.steps()[..], [Step::Stage { snapshot: to, .. }] if *to == snapshot("a")));
    desk.finish(deploy, "a");
    let refusal = desk.ask_deploy(Policy::Fail).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Conflict);
    assert!(refusal.reason.contains("held by ann: rollback to"), "{refusal}");
    assert_eq!(refusal.hint, "bunraku release production");
    desk.ask(Request::Release { environment: production() }).unwrap();
    assert!(desk.ask(Request::Release { environment: production() }).unwrap().is_empty(), "already so");
    desk.ask_deploy(Policy::Fail).unwrap();
}

#[test]
fn a_second_rollback_goes_further_back() {
    let mut desk = Desk::with(&["c1"]);
    for content in ["a", "b", "c"] {
        desk.deploy(content);
    }
    for content in ["b", "a"] {
        let facts = desk.ask(rollback(None)).unwrap();
        desk.finish(Fact::accepted(&facts).unwrap(), content);
    }
    assert_eq!(desk.ask(rollback(None)).unwrap_err().code, RefusalCode::NotFound);
}

#[test]
fn a_rollback_abandons_what_is_staged_and_supersedes_what_is_queued() {
    let mut desk = Desk::with(&["c1"]);
    desk.deploy("a");
    desk.deploy("b");
    let active = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(active, "c");
    let queued = desk.ask_deploy(Policy::Fail).unwrap();
    let facts = desk.ask(rollback(None)).unwrap();
    let deploy = Fact::accepted(&facts).unwrap();
    assert!(matches!(desk.outcome(active), Outcome::Abandoned { .. }));
    assert_eq!(desk.outcome(queued), Outcome::Superseded { by: deploy });
    desk.finish(deploy, "a");
    assert_eq!(desk.live(), Some(snapshot("a")));
}

#[test]
fn a_rollback_waits_for_a_commit_that_is_decided() {
    let mut desk = Desk::with(&["c1"]);
    desk.deploy("a");
    let active = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(active, "b");
    desk.staged(active, "c1");
    let facts = desk.ask(rollback(None)).unwrap();
    let deploy = Fact::accepted(&facts).unwrap();
    assert_eq!(desk.get(deploy).phase, Phase::Queued);
    desk.proven("c1", "b", 2);
    assert!(matches!(desk.outcome(active), Outcome::Live { .. }));
    desk.finish(deploy, "a");
}

#[test]
fn a_proof_of_the_same_snapshot_by_an_earlier_decision_proves_nothing() {
    let mut desk = Desk::with(&["c1", "c2"]);
    desk.deploy("a");
    let second = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(second, "b");
    desk.staged(second, "c1");
    desk.staged(second, "c2");
    desk.proven("c1", "b", 2);
    // c2 may have swapped; nobody knows. Now everything goes back to what c2 last proved.
    desk.wait(desk.state.settings().commit_deadline);
    let facts = desk.ask(rollback(None)).unwrap();
    let back = Fact::accepted(&facts).unwrap();
    desk.staged(back, "c1");
    desk.staged(back, "c2");
    desk.proven("c1", "a", 3);
    desk.proven("c2", "a", 1);
    assert!(!desk.get(back).is_ended(), "an answer to an older order counts for nothing");
    desk.proven("c2", "a", 3);
    assert!(matches!(desk.outcome(back), Outcome::Live { .. }));
}

#[test]
fn a_snapshot_is_named_by_a_unique_beginning_of_its_digest() {
    let mut desk = Desk::with(&["c1"]);
    desk.deploy("a");
    desk.deploy("b");
    let digest = snapshot("a").to_string();
    assert_eq!(desk.ask(rollback(Some("zz"))).unwrap_err().code, RefusalCode::Invalid);
    assert_eq!(desk.ask(rollback(Some("0000000"))).unwrap_err().code, RefusalCode::NotFound);
    let facts = desk.ask(rollback(Some(&digest[..8]))).unwrap();
    let deploy = Fact::accepted(&facts).unwrap();
    assert_eq!(desk.get(deploy).kind, Kind::Rollback { snapshot: snapshot("a") });
    let again = desk.ask(rollback(Some(&digest))).unwrap();
    assert_eq!(Fact::accepted(&again), Some(deploy), "an impatient second request joins");
}

#[test]
fn a_held_node_is_waited_for_by_nobody_and_follows_when_it_is_released() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.staged(deploy, "c1");
    desk.ask(Request::HoldNode { node: node("c2"), reason: "new disk".into() }).unwrap();
    assert_eq!(desk.live(), Some(snapshot("a")), "c2 was the last one missing");
    desk.proven("c1", "a", 1);
    assert!(matches!(desk.outcome(deploy), Outcome::Live { .. }));
    assert!(desk.steps().is_empty());
    desk.ask(Request::ReleaseNode { node: node("c2") }).unwrap();
    assert!(matches!(&desk.steps()[..], [Step::Bring { node: behind, .. }] if *behind == node("c2")));
}

#[test]
fn a_node_revoked_while_committing_keeps_no_deploy_open() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.staged(deploy, "c1");
    desk.staged(deploy, "c2");
    desk.proven("c1", "a", 1);
    desk.ask(Request::RevokeNode { node: node("c2"), reason: "stolen".into() }).unwrap();
    assert!(matches!(desk.outcome(deploy), Outcome::Live { .. }));
}

#[test]
fn a_node_that_serves_something_else_loses_its_proof_and_is_brought_back() {
    let mut desk = Desk::with(&["c1"]);
    desk.deploy("a");
    desk.observed("c1", Some("a"), true);
    assert!(desk.steps().is_empty());
    desk.observed("c1", Some("mischief"), true);
    assert!(matches!(&desk.steps()[..], [Step::Bring { .. }]));
}

#[test]
fn a_node_that_forgot_what_it_staged_stages_again() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.staged(deploy, "c1");
    desk.hear(Event::NodeObserved { node: node("c1"), environments: Vec::new(), keeps: 0 });
    desk.staged(deploy, "c2");
    assert_eq!(desk.live(), None);
    assert!(matches!(&desk.steps()[..], [Step::Stage { node: again, .. }] if *again == node("c1")));
}

#[test]
fn another_host_under_the_same_name_has_staged_nothing() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.staged(deploy, "c1");
    desk.enrol("c1").unwrap();
    desk.staged(deploy, "c2");
    assert_eq!(desk.live(), None);
}

#[test]
fn a_new_compiler_is_brought_every_environment() {
    let mut desk = Desk::with(&["c1"]);
    desk.deploy("a");
    desk.enrol("c9").unwrap();
    assert!(desk.steps().is_empty(), "it is not connected yet");
    desk.presence.connected(node("c9"));
    assert!(matches!(&desk.steps()[..], [Step::Bring { node: new, .. }] if *new == node("c9")));
}
