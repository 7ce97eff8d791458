//! Verdicts on compilers that bake, one sentence a test.

use bunraku_engine::{
    Ask, OnInconclusive, Request, RolloutId, RolloutOutcome, RolloutPhase, Says, TurnPhase,
};

use crate::site::{Site, everything_is_as_before, judged_update, node, outcome};

/// c1 bakes, and fares worse than its siblings from now on.
fn fares_worse(site: &mut Site, ask: Ask) -> RolloutId {
    ["c2", "c3"].iter().for_each(|name| site.compiler(name).carries(30, 0));
    let id = site.start(ask);
    site.until(id, "c1", TurnPhase::Baking);
    site.compiler("c1").carries(30, 10);
    id
}

fn says(site: &Site, id: RolloutId, name: &str) -> Option<Says> {
    site.rollout(id).turns[&node(name)].verdict.as_ref().map(|verdict| verdict.says)
}

#[test]
fn an_update_that_fares_as_its_siblings_passes() {
    let mut site = Site::new();
    ["c1", "c2", "c3"].iter().for_each(|name| site.compiler(name).carries(30, 1));
    let id = site.start(judged_update());
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
    assert_eq!(["c1", "c2", "c3"].map(|name| says(&site, id, name)), [Some(Says::Pass); 3]);
    everything_is_as_before(&mut site);
}

#[test]
fn an_update_that_fares_worse_than_its_siblings_is_drained_again_and_brought_back() {
    let mut site = Site::new();
    let id = fares_worse(&mut site, judged_update());
    site.until(id, "c1", TurnPhase::Settling);
    assert!(
        site.waiting(id)[0].contains("then it stays as it is and the rollout halts"),
        "{:?}",
        site.waiting(id)
    );
    site.until(id, "c1", TurnPhase::Draining);
    site.until(id, "c1", TurnPhase::Reverting);
    assert!(!site.in_service("c1"));
    site.until(id, "c1", TurnPhase::Failed);
    assert_eq!((site.compiler("c1").restarts, site.compiler("c1").reverts), (1, 1));
    let RolloutPhase::Paused { reason, .. } = &site.rollout(id).phase else { panic!() };
    assert!(
        reason.starts_with("c1 failed: it fares worse than its siblings: ")
            && reason.ends_with("; it was brought back to what was before"),
        "{reason}"
    );
    assert_eq!(says(&site, id, "c1"), Some(Says::Fail));
    everything_is_as_before(&mut site);
    // Another attempt has another verdict.
    site.compiler("c1").carries(30, 0);
    site.ask(Request::RetryTurn { rollout: id, node: node("c1") }).unwrap();
    site.finish(id);
    assert_eq!(says(&site, id, "c1"), Some(Says::Pass));
}

#[test]
fn without_a_way_back_what_fares_worse_halts_and_stays_in_service() {
    let mut site = Site::new();
    let mut ask = judged_update();
    ask.policy.revert = false;
    let id = fares_worse(&mut site, ask);
    site.until(id, "c1", TurnPhase::Failed);
    assert_eq!(site.compiler("c1").reverts, 0);
    everything_is_as_before(&mut site);
}

#[test]
fn what_fares_worse_and_cannot_be_drained_stays_as_it_is_with_both_reasons() {
    let mut site = Site::new();
    let id = fares_worse(&mut site, judged_update());
    site.until(id, "c1", TurnPhase::Settling);
    site.compiler("c1").idle.connections = 1;
    site.until(id, "c1", TurnPhase::Draining);
    site.round();
    site.now += 60_000;
    site.look();
    site.until(id, "c1", TurnPhase::Failed);
    let RolloutPhase::Paused { reason, .. } = &site.rollout(id).phase else { panic!() };
    assert!(
        reason.contains("what was before was not brought back: it was not empty within 60 s"),
        "{reason}"
    );
    assert_eq!(site.compiler("c1").reverts, 0);
    site.compiler("c1").idle.connections = 0;
    everything_is_as_before(&mut site);
}

#[test]
fn where_too_little_is_compiled_the_bake_is_extended_and_then_the_rollout_waits_for_people() {
    let mut site = Site::new();
    let id = site.start(judged_update());
    site.until(id, "c1", TurnPhase::Baking);
    site.now += 1_000;
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Baking);
    assert!(
        site.waiting(id)[0].contains("for a verdict: 0 catalogs there and 0 on its siblings"),
        "{:?}",
        site.waiting(id)
    );
    assert!(site.waiting(id)[0].contains("and the rollout is paused"), "{:?}", site.waiting(id));
    site.now += 59_000;
    site.look();
    assert_eq!((site.phase(id, "c1"), says(&site, id, "c1")), (TurnPhase::Done, Some(Says::Inconclusive)));
    let RolloutPhase::Paused { reason, .. } = &site.rollout(id).phase else { panic!() };
    assert!(reason.starts_with("nothing can be said of c1: 0 catalogs"), "{reason}");
    site.round();
    assert_eq!(site.phase(id, "c2"), TurnPhase::Waiting);
    site.ask(Request::ResumeRollout { rollout: id }).unwrap();
    site.until(id, "c2", TurnPhase::Baking);
}

#[test]
fn where_that_was_asked_for_a_rollout_goes_on_without_a_verdict_and_never_calls_it_a_pass() {
    let mut site = Site::new();
    let mut ask = judged_update();
    ask.policy.on_inconclusive = OnInconclusive::Continue;
    let id = site.start(ask);
    for name in ["c1", "c2", "c3"] {
        site.until(id, name, TurnPhase::Baking);
        site.now += 60_000;
        site.look();
    }
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
    assert_eq!(["c1", "c2", "c3"].map(|name| says(&site, id, name)), [Some(Says::Inconclusive); 3]);
}

#[test]
fn a_controller_that_was_away_during_a_bake_begins_it_anew() {
    let mut site = Site::new();
    ["c1", "c2", "c3"].iter().for_each(|name| site.compiler(name).carries(30, 0));
    let id = site.start(judged_update());
    site.until(id, "c1", TurnPhase::Baking);
    site.restart();
    site.now += 999;
    site.connect_all();
    site.look();
    assert_eq!(says(&site, id, "c1"), None);
    site.until(id, "c2", TurnPhase::Baking);
    assert_eq!(says(&site, id, "c1"), Some(Says::Pass));
}
