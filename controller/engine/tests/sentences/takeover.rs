//! A controller restored from a backup, and one that merely restarts.

use bunraku_engine::{Outcome, Policy, Step};

use crate::desk::{Desk, production, snapshot};

#[test]
fn a_restart_changes_nothing_but_the_term() {
    let mut desk = Desk::with(&["c1"]);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    let before = desk.steps();
    desk.term(2, None);
    assert_eq!(desk.steps(), before, "the build is asked for again");
    assert!(!desk.get(deploy).is_ended());
}

#[test]
fn after_a_takeover_nothing_moves_until_it_is_asked_for() {
    let mut desk = Desk::with(&["c1", "c2"]);
    desk.deploy("old");
    let active = desk.ask_deploy(Policy::Fail).unwrap();
    desk.term(1000, Some("restored from a backup"));
    assert!(matches!(desk.outcome(active), Outcome::Abandoned { .. }));
    desk.observed("c1", Some("new"), true);
    desk.observed("c2", Some("new"), true);
    assert_eq!(desk.live(), Some(snapshot("new")), "what all compilers serve is adopted");
    assert!(desk.steps().is_empty());
    let deploy = desk.deploy("newer");
    assert!(matches!(desk.outcome(deploy), Outcome::Live { .. }));
    desk.observed("c1", Some("old"), true);
    assert!(matches!(&desk.steps()[..], [Step::Bring { .. }]), "in command again");
}

#[test]
fn compilers_that_disagree_after_a_takeover_raise_an_alarm_and_change_nothing() {
    let mut desk = Desk::with(&["c1", "c2"]);
    desk.deploy("old");
    desk.term(1000, Some("restored from a backup"));
    desk.observed("c1", Some("new"), true);
    desk.observed("c2", Some("newer"), true);
    assert_eq!(desk.live(), Some(snapshot("old")));
    assert!(desk.steps().is_empty());
    let alarms = desk.state.alarms(desk.now);
    assert!(alarms.iter().any(|alarm| alarm.contains("different snapshots of production")), "{alarms:?}");
    assert!(alarms.iter().any(|alarm| alarm.contains("bunraku deploy production")), "{alarms:?}");
}

#[test]
fn after_a_takeover_the_committed_snapshot_is_deployed_again_in_earnest() {
    let mut desk = Desk::with(&["c1"]);
    desk.deploy("a");
    desk.term(1000, Some("restored from a backup"));
    desk.observed("c1", Some("a"), true);
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    assert!(
        matches!(&desk.steps()[..], [Step::Stage { .. }]),
        "the belief that it is unchanged is not worth much"
    );
}

#[test]
fn a_deploy_that_stages_settles_what_the_takeover_left_open() {
    let mut desk = Desk::with(&["c1", "c2"]);
    desk.deploy("old");
    desk.term(1000, Some("restored from a backup"));
    let deploy = desk.ask_deploy(Policy::Fail).unwrap();
    desk.built(deploy, "a");
    desk.observed("c1", Some("new"), true);
    desk.observed("c2", Some("new"), true);
    assert_eq!(desk.live(), Some(snapshot("old")), "an adoption would be newer than the stage under way");
    desk.finish(deploy, "a");
    assert_eq!(desk.live(), Some(snapshot("a")));
    assert!(!desk.state.environments()[&production()].adopting);
}
