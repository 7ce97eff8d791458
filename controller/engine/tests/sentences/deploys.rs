//! From a request to live code.

use bunraku_engine::{Event, Fact, Fault, Kind, Outcome, Phase, Policy, Presence, Request, Step};

use crate::desk::{Desk, MINUTE, node, production, snapshot};

#[test]
fn a_deploy_goes_from_request_to_live() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    assert!(matches!(&desk.steps()[..], [Step::Build { commit: None, .. }]));
    desk.built(deploy, "a");
    assert!(matches!(&desk.steps()[..], [Step::Stage { .. }, Step::Stage { .. }]));
    desk.staged(deploy, "c1");
    assert!(matches!(&desk.steps()[..], [Step::Stage { .. }]), "only c2 is left");
    desk.staged(deploy, "c2");
    assert!(matches!(&desk.steps()[..], [Step::Commit { .. }, Step::Commit { .. }]));
    desk.proven("c1", "a", 1);
    desk.now += 40;
    desk.proven("c2", "a", 1);
    assert_eq!(desk.outcome(deploy), Outcome::Live { skew_ms: Some(40) });
    assert_eq!(desk.live(), Some(snapshot("a")));
    assert!(desk.steps().is_empty());
    assert_eq!(desk.state.deadline(&desk.presence), None);
}

#[test]
fn no_commit_is_decided_until_every_compiler_has_staged() {
    let mut desk = Desk::with(&["c1", "c2", "c3"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.staged(deploy, "c1");
    desk.staged(deploy, "c2");
    desk.staged(deploy, "c2");
    assert_eq!(desk.live(), None);
    desk.staged(deploy, "c3");
    assert_eq!(desk.live(), Some(snapshot("a")));
}

#[test]
fn content_that_one_node_refuses_is_abandoned_everywhere_whatever_the_policy() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Skip).unwrap();
    desk.built(deploy, "bad");
    desk.staged(deploy, "c1");
    desk.stage_failed(deploy, "c2", Fault::Content);
    assert!(matches!(desk.outcome(deploy), Outcome::Abandoned { .. }));
    assert_eq!(desk.live(), None);
}

#[test]
fn an_abandoned_stage_is_discarded_by_an_order_newer_than_itself() {
    let mut desk = Desk::with(&["c1"]);
    desk.deploy("a");
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "bad");
    let Step::Stage { generation: staged, .. } = desk.steps()[0].clone() else {
        panic!("{:?}", desk.steps())
    };
    desk.stage_failed(deploy, "c1", Fault::Content);
    let [Step::Discard { generation, snapshot: discarded, .. }] = desk.steps()[..] else {
        panic!("{:?}", desk.steps());
    };
    assert!(generation > staged);
    assert_eq!(discarded, snapshot("bad"));
    desk.hear(Event::Discarded { environment: production(), node: node("c1"), snapshot: discarded });
    assert!(desk.steps().is_empty());
}

#[test]
fn a_discard_that_nobody_answers_is_given_up() {
    let mut desk = Desk::with(&["c1"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "bad");
    desk.stage_failed(deploy, "c1", Fault::Content);
    desk.wait(5 * MINUTE);
    assert!(desk.steps().is_empty());
}

#[test]
fn a_retained_snapshot_is_never_discarded() {
    let mut desk = Desk::with(&["c1"]);
    desk.deploy("a");
    desk.deploy("b");
    let again = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(again, "a");
    desk.stage_failed(again, "c1", Fault::Node);
    assert!(matches!(desk.outcome(again), Outcome::Abandoned { .. }));
    assert!(desk.steps().is_empty(), "{:?}", desk.steps());
}

#[test]
fn a_node_that_cannot_stage_abandons_the_deploy_by_policy_fail() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.stage_failed(deploy, "c1", Fault::Node);
    let Outcome::Abandoned { reason, hint, .. } = desk.outcome(deploy) else { panic!() };
    assert_eq!(reason, "c1 could not stage: disk full");
    assert!(hint.contains("bunraku nodes hold c1"), "{hint}");
}

#[test]
fn an_abandoned_deploy_tells_of_each_compiler_whether_it_failed_staged_or_never_came_to_it() {
    let mut desk = Desk::with(&["c1", "c2", "c3"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.staged(deploy, "c2");
    desk.stage_failed(deploy, "c1", Fault::Node);
    let told = desk.state.deploy(deploy).unwrap().nodes();
    let told: Vec<_> = told.values().map(|n| (n.state.as_str(), n.note.as_str())).collect();
    assert_eq!(told, [("failed", "disk full"), ("staged", ""), ("not staged", "")]);
}

#[test]
fn a_node_that_cannot_stage_is_left_behind_by_policy_skip_and_brought_later() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Skip).unwrap();
    desk.built(deploy, "a");
    desk.stage_failed(deploy, "c1", Fault::Node);
    desk.staged(deploy, "c2");
    desk.proven("c2", "a", 1);
    assert!(matches!(desk.outcome(deploy), Outcome::Behind { nodes, .. } if nodes == [node("c1")].into()));
    assert_eq!(desk.state.alarms(desk.now).len(), 1);
    assert!(matches!(&desk.steps()[..], [Step::Bring { node: behind, .. }] if *behind == node("c1")));
    desk.proven("c1", "a", 1);
    assert!(desk.steps().is_empty() && desk.state.alarms(desk.now).is_empty());
}

#[test]
fn skipping_every_compiler_abandons_the_deploy() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Skip).unwrap();
    desk.built(deploy, "a");
    desk.stage_failed(deploy, "c1", Fault::Node);
    desk.stage_failed(deploy, "c2", Fault::Node);
    assert!(matches!(desk.outcome(deploy), Outcome::Abandoned { .. }));
    assert_eq!(desk.live(), None);
}

#[test]
fn a_node_is_unreachable_only_when_it_was_gone_for_a_minute_of_a_controller_that_was_up_for_one() {
    let mut desk = Desk::with(&["c1", "c2"]);
    desk.now = 5 * MINUTE;
    desk.presence = Presence::new(desk.now);
    desk.presence.connected(node("c2"));
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    assert_eq!(desk.state.deadline(&desk.presence), Some(6 * MINUTE));
    desk.wait(MINUTE - 1);
    assert!(!desk.get(deploy).is_ended());
    desk.wait(1);
    assert!(
        matches!(desk.outcome(deploy), Outcome::Abandoned { reason, .. } if reason.contains("no connection"))
    );
}

#[test]
fn staging_ends_at_its_deadline() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.staged(deploy, "c1");
    assert_eq!(
        desk.get(deploy).waiting(desk.now),
        "for c2 to stage, at most 10 min; then the deploy is abandoned and every node stays on the old code"
    );
    desk.wait(10 * MINUTE);
    assert!(matches!(desk.outcome(deploy), Outcome::Abandoned { .. }));
}

#[test]
fn a_deploy_ends_behind_at_its_deadline_and_the_next_one_may_start() {
    let mut desk = Desk::with(&["c1", "c2"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.staged(deploy, "c1");
    desk.staged(deploy, "c2");
    desk.proven("c1", "a", 1);
    desk.committed("c2", "a", 1, "Puppet Server is down");
    assert!(desk.committed("c2", "a", 1, "Puppet Server is down").is_empty(), "a known excuse is no news");
    assert!(matches!(&desk.steps()[..], [Step::Commit { .. }]), "what is owed is asked for again");
    let next = desk.ask_deploy(Policy::Fail).unwrap();
    desk.wait(5 * MINUTE);
    assert!(matches!(desk.outcome(deploy), Outcome::Behind { .. }));
    assert!(matches!(desk.get(next).phase, Phase::Building { .. }));
    let alarms = desk.state.alarms(desk.now);
    assert_eq!(alarms, ["c2 is behind in production for 5 min: Puppet Server is down"]);
}

#[test]
fn nobody_is_brought_anywhere_while_a_new_snapshot_is_staged() {
    let mut desk = Desk::with(&["c1", "c2"]);
    desk.deploy("a");
    desk.observed("c2", Some("a"), false);
    assert!(matches!(&desk.steps()[..], [Step::Bring { .. }]));
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "b");
    assert!(desk.steps().iter().all(|step| matches!(step, Step::Stage { .. })), "{:?}", desk.steps());
}

#[test]
fn requests_join_the_queued_deploy_of_their_kind_and_a_different_one_takes_its_place() {
    let mut desk = Desk::with(&["c1"]);
    let active = desk.ask_deploy(Policy::Fail).unwrap();
    let next = desk.ask_deploy(Policy::Fail).unwrap();
    assert_ne!(active, next, "the active one has begun to build");
    assert_eq!(desk.ask_deploy(Policy::Fail).unwrap(), next);
    let other = desk.ask_deploy(Policy::Skip).unwrap();
    assert_eq!(desk.outcome(next), Outcome::Superseded { by: other });
    desk.hear(Event::BuildFailed { deploy: active, reason: "r10k failed".into(), hint: String::new() });
    assert!(matches!(desk.get(other).phase, Phase::Building { .. }));
}

#[test]
fn a_thousand_requests_are_at_most_two_deploys() {
    let mut desk = Desk::with(&["c1"]);
    for _ in 0..1000 {
        desk.ask_deploy(Policy::Fail).unwrap();
    }
    assert_eq!(desk.state.deploys().len(), 2);
}

#[test]
fn the_committed_snapshot_again_changes_nothing() {
    let mut desk = Desk::with(&["c1"]);
    desk.deploy("a");
    let generation = desk.state.environments()[&production()].generation;
    let again = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(again, "a");
    assert!(matches!(desk.outcome(again), Outcome::Unchanged { .. }));
    assert_eq!(desk.state.environments()[&production()].generation, generation);
    assert!(desk.steps().is_empty());
}

#[test]
fn a_plan_moves_nothing_and_takes_no_deploys_place() {
    let mut desk = Desk::with(&["c1"]);
    let active = desk.ask_deploy(Policy::Fail).unwrap();
    let next = desk.ask_deploy(Policy::Fail).unwrap();
    let plan = Request::Deploy {
        environment: production(),
        branch: "production".into(),
        commit: None,
        plan: true,
        policy: None,
    };
    let facts = desk.ask(plan).unwrap();
    let plan = Fact::accepted(&facts).unwrap();
    assert_eq!(desk.get(next).phase, Phase::Queued);
    for (deploy, content) in [(active, "a"), (next, "b")] {
        desk.built(deploy, content);
        desk.finish(deploy, content);
    }
    assert!(matches!(desk.get(plan).kind, Kind::Plan { .. }));
    desk.built(plan, "c");
    assert!(matches!(desk.outcome(plan), Outcome::Planned { .. }));
    assert_eq!(desk.live(), Some(snapshot("b")));
}

#[test]
fn builds_of_several_environments_run_side_by_side_up_to_the_limit() {
    let mut desk = Desk::with(&["c1"]);
    for name in ["a", "b", "c"] {
        let environment = bunraku_common::EnvironmentName::parse(name).unwrap();
        let (branch, commit, policy) = (name.to_owned(), None, None);
        desk.ask(Request::Deploy { environment, branch, commit, plan: false, policy }).unwrap();
    }
    assert_eq!(desk.steps().len(), 2);
}

#[test]
fn a_deploy_without_compilers_fails_and_says_what_to_do() {
    let mut desk = Desk::with(&[]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    let Outcome::Failed { reason, hint } = desk.outcome(deploy) else { panic!() };
    assert_eq!(reason, "no compiler is enrolled");
    assert!(hint.contains("bunraku token create"), "{hint}");
}

#[test]
fn a_build_that_never_answers_fails() {
    let mut desk = Desk::with(&["c1"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.now = desk.state.deadline(&desk.presence).unwrap();
    desk.hear(Event::Tick);
    assert!(matches!(desk.outcome(deploy), Outcome::Failed { .. }));
    assert!(desk.built(deploy, "a").is_empty(), "what comes too late is no news");
}

#[test]
fn old_deploys_and_old_snapshots_are_forgotten() {
    let mut desk = Desk::with(&["c1"]);
    for number in 0..230 {
        desk.deploy(&number.to_string());
    }
    assert_eq!(desk.state.deploys().len(), 200);
    assert_eq!(desk.state.environments()[&production()].retained.len(), 10);
    assert_eq!(desk.state.snapshots().len(), 10);
}

#[test]
fn a_commit_that_is_no_commit_id_is_refused() {
    let mut desk = Desk::with(&["c1"]);
    for wrong in ["", "main", "--upload-pack=x", "abc123"] {
        let commit = Some(wrong.to_owned());
        let (environment, branch) = (production(), "production".to_owned());
        let request = Request::Deploy { environment, branch, commit, plan: false, policy: None };
        assert!(desk.ask(request).is_err(), "{wrong:?}");
    }
    assert!(desk.state.deploys().is_empty());
}
