//! Retained snapshots on every compiler, and versions that a compiler lost.

use bunraku_engine::{Event, Fact, Outcome, Policy, Presence, Request, Step};

use crate::desk::{Desk, node, production, snapshot};

/// Three deploys on one compiler, then a second compiler that holds the first of `holds` as live, and is proven.
fn three_deploys_then(holds: &[&str], keeps: usize) -> Desk {
    let mut desk = Desk::with(&["c1"]);
    for content in ["a", "b", "c"] {
        desk.deploy(content);
    }
    desk.enrol("c2").unwrap();
    desk.hello("c2", holds, keeps);
    desk
}

/// What the retained snapshot of the only step is, if there is one.
fn retained(desk: &Desk) -> Option<&'static str> {
    match &desk.steps()[..] {
        [] => None,
        [Step::Retain { node: on, snapshot: what, retained, .. }] => {
            assert_eq!(*on, node("c2"));
            assert_eq!(*retained, ["c", "b", "a"].map(snapshot));
            ["a", "b", "c"].into_iter().find(|content| snapshot(content) == *what)
        }
        other => panic!("one step at most is expected: {other:?}"),
    }
}

fn staged(desk: &mut Desk, content: &str) -> Vec<Fact> {
    let (environment, snapshot) = (production(), snapshot(content));
    desk.hear(Event::RetainedStaged { environment, node: node("c2"), snapshot })
}

#[test]
fn a_new_compiler_gets_the_retained_snapshots_after_it_is_proven_newest_first_and_one_at_a_time() {
    let mut desk = three_deploys_then(&[], 5);
    assert!(matches!(&desk.steps()[..], [Step::Bring { snapshot: what, .. }] if *what == snapshot("c")));
    desk.committed("c2", "c", 3, "Puppet Server is down");
    assert!(matches!(&desk.steps()[..], [Step::Bring { .. }]), "it is not proven yet");
    desk.proven("c2", "c", 3);
    assert_eq!(retained(&desk), Some("b"));
    assert_eq!(staged(&mut desk, "b"), [], "what a node holds is never journalled");
    assert_eq!(retained(&desk), Some("a"));
    staged(&mut desk, "a");
    assert_eq!(retained(&desk), None);
}

#[test]
fn a_compiler_is_brought_no_more_than_it_keeps_and_nothing_that_it_holds() {
    for (holds, keeps, expected) in [
        (&["c"][..], 2, Some("b")),
        (&["c"], 1, None),
        (&["c"], 0, None),
        (&["c", "b"], 2, None),
        (&["c", "b"], 3, Some("a")),
        (&["c", "b", "a"], 9, None),
    ] {
        let mut desk = three_deploys_then(holds, keeps);
        desk.proven("c2", "c", 3);
        assert_eq!(retained(&desk), expected, "holds {holds:?}, keeps {keeps}");
    }
}

#[test]
fn a_compiler_without_room_for_retained_snapshots_is_not_asked_again_until_it_comes_back() {
    let mut desk = three_deploys_then(&[], 5);
    desk.proven("c2", "c", 3);
    let (environment, reason) = (production(), "disk full".to_owned());
    assert_eq!(desk.hear(Event::RetainedRefused { environment, node: node("c2"), reason }), []);
    desk.wait(3_600_000);
    assert_eq!(retained(&desk), None);
    desk.presence.gone(&node("c2"), desk.now);
    assert_eq!(desk.hello("c2", &["c"], 5), [], "a node that comes back as it was costs no record");
    assert_eq!(retained(&desk), Some("b"));
}

#[test]
fn a_deploy_goes_before_retained_snapshots_and_is_never_failed_by_them() {
    let mut desk = three_deploys_then(&[], 5);
    desk.proven("c2", "c", 3);
    assert_eq!(retained(&desk), Some("b"));
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "d");
    assert!(desk.steps().iter().all(|step| matches!(step, Step::Stage { .. })), "{:?}", desk.steps());
    let (environment, reason) = (production(), "the call was given up".to_owned());
    desk.hear(Event::RetainedRefused { environment, node: node("c2"), reason });
    desk.staged(deploy, "c1");
    assert!(desk.steps().iter().all(|step| matches!(step, Step::Stage { .. })), "{:?}", desk.steps());
    desk.staged(deploy, "c2");
    desk.proven("c1", "d", 4);
    assert!(desk.steps().iter().all(|step| matches!(step, Step::Commit { .. })), "{:?}", desk.steps());
    desk.proven("c2", "d", 4);
    assert!(matches!(desk.outcome(deploy), Outcome::Live { .. }));
}

#[test]
fn a_deploy_of_another_environment_goes_first_on_the_same_compiler() {
    let mut desk = three_deploys_then(&[], 5);
    desk.proven("c2", "c", 3);
    assert_eq!(retained(&desk), Some("b"));
    let environment = bunraku_common::EnvironmentName::parse("testing").unwrap();
    let (branch, policy) = ("testing".to_owned(), Some(Policy::Fail));
    let facts = desk.ask(Request::Deploy { environment, branch, commit: None, plan: false, policy }).unwrap();
    let deploy = Fact::accepted(&facts).unwrap();
    desk.built(deploy, "t");
    assert!(desk.steps().iter().all(|step| matches!(step, Step::Stage { .. })), "{:?}", desk.steps());
    desk.staged(deploy, "c2");
    assert_eq!(desk.steps().len(), 2, "c1 stages still, and c2 has nothing else to do: {:?}", desk.steps());
}

#[test]
fn a_compiler_that_a_commit_passed_by_gets_that_snapshot_later() {
    let mut desk = Desk::with(&["c1", "c2"]);
    desk.hello("c2", &[], 5);
    desk.deploy("a");
    for content in ["b", "c"] {
        let deploy = desk.ask_deploy(Policy::Skip).unwrap();
        desk.built(deploy, content);
        desk.staged(deploy, "c1");
        desk.stage_failed(deploy, "c2", bunraku_engine::Fault::Node);
        let generation = desk.get(deploy).generation().unwrap().0;
        desk.proven("c1", content, generation);
    }
    desk.proven("c2", "c", 3);
    assert_eq!(retained(&desk), Some("b"));
}

#[test]
fn a_restarted_controller_asks_for_nothing_until_the_node_has_said_what_it_holds() {
    let mut desk = three_deploys_then(&[], 5);
    desk.proven("c2", "c", 3);
    desk.term(2, None);
    desk.presence = Presence::new(desk.now);
    desk.presence.connected(node("c2"));
    assert_eq!(retained(&desk), None);
    desk.hello("c2", &["c", "b"], 5);
    assert_eq!(retained(&desk), Some("a"));
}

#[test]
fn a_node_that_lost_what_it_staged_after_the_decision_is_staged_again_within_the_deploy() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.staged(deploy, "c1");
    desk.staged(deploy, "c2");
    desk.proven("c1", "a", 1);
    let lost = Event::NotStaged { deploy, node: node("c2") };
    let facts = desk.hear(lost.clone());
    assert!(matches!(&facts[..], [Fact::NodeUnstaged { .. }]), "{facts:?}");
    assert_eq!(desk.hear(lost), [], "said once");
    let again = |desk: &Desk| {
        matches!(&desk.steps()[..], [Step::Bring { node: on, snapshot: what, generation, .. }]
            if *on == node("c2") && *what == snapshot("a") && generation.0 == 1)
    };
    assert!(again(&desk), "{:?}", desk.steps());
    let (environment, generation) = (production(), bunraku_common::Generation(1));
    let failed =
        Event::BringFailed { environment, node: node("c2"), generation, reason: "disk full".to_owned() };
    assert_eq!(desk.hear(failed.clone()).len(), 1);
    assert_eq!(desk.hear(failed), [], "retries do not fill the journal");
    assert!(again(&desk), "{:?}", desk.steps());
    assert_eq!(desk.get(deploy).nodes()[&node("c2")].note, "disk full");
    desk.proven("c2", "a", 1);
    assert!(matches!(desk.outcome(deploy), Outcome::Live { .. }));
}

#[test]
fn a_node_that_loses_what_it_staged_again_and_again_is_behind_at_the_deadline() {
    let mut desk = Desk::with(&["c1"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.staged(deploy, "c1");
    desk.hear(Event::NotStaged { deploy, node: node("c1") });
    desk.wait(desk.state.settings().commit_deadline);
    assert!(matches!(desk.outcome(deploy), Outcome::Behind { .. }));
    assert!(matches!(&desk.steps()[..], [Step::Bring { .. }]), "it is brought on, by the same steps");
    assert_eq!(desk.hear(Event::NotStaged { deploy, node: node("c1") }), []);
}
