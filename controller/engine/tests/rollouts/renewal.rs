//! Ruby that stays in the interpreters after a deploy, one sentence a test.

use bunraku_common::{Digest, EnvironmentName};
use bunraku_engine::{
    Action, Built, DeployId, Event, Fact, OnStaleRuby, Request, RolloutId, RolloutOutcome, RolloutPhase,
    Step, TurnPhase,
};

use crate::site::{Site, everything_is_as_before, node, outcome, restart};

fn site(on_stale_ruby: OnStaleRuby) -> Site {
    let mut site = Site::new();
    if on_stale_ruby == OnStaleRuby::Rollout {
        site.renews_by_itself();
    }
    site
}

/// Built and staged everywhere, so that it is committed.
fn committed(site: &mut Site, content: &str, stale_ruby: bool) -> DeployId {
    let environment = EnvironmentName::parse("production").unwrap();
    let request =
        Request::Deploy { environment, branch: "production".into(), commit: None, plan: false, policy: None };
    let deploy = Fact::accepted(&site.ask(request).unwrap()).unwrap();
    let snapshot = Digest::of(content.as_bytes());
    site.hear(Event::BuildDone {
        deploy,
        built: Built { snapshot, commit: None, generate_types: false, stale_ruby },
    });
    stage(site);
    deploy
}

fn stage(site: &mut Site) {
    for step in site.steps() {
        if matches!(step, Step::Stage { .. }) {
            site.follow(&step);
        }
    }
}

fn prove(site: &mut Site, names: &[&str]) {
    for step in site.steps() {
        if matches!(&step, Step::Commit { node, .. } if names.contains(&node.as_str())) {
            site.follow(&step);
        }
    }
}

const ALL: &[&str] = &["c1", "c2", "c3"];

#[test]
fn the_pools_are_made_anew_by_a_rollout_that_starts_when_everybody_serves_the_new_code() {
    let mut site = site(OnStaleRuby::Rollout);
    let deploy = committed(&mut site, "a", true);
    prove(&mut site, &["c1", "c2"]);
    assert!(site.state.rollouts().is_empty(), "c3 may load the old Ruby yet");
    prove(&mut site, &["c3"]);
    let rollout = site.rollout(RolloutId(1)).clone();
    assert_eq!((rollout.action, rollout.who), (Action::FlushPool, format!("deploy {deploy}")));
    assert_eq!(rollout.turns.len(), 3);
    let told = |site: &Site| site.state.renewal_after(site.state.deploy(deploy).unwrap());
    assert_eq!(told(&site), "bunraku rollout show 1");
    site.finish(RolloutId(1));
    assert_eq!(outcome(&site, RolloutId(1)), RolloutOutcome::Done);
    assert_eq!(told(&site), "");
    everything_is_as_before(&mut site);
    assert_eq!(site.state.rollouts().len(), 1);
}

#[test]
fn where_it_is_only_offered_or_nothing_is_stale_no_rollout_starts() {
    for (policy, stale) in [(OnStaleRuby::Offer, true), (OnStaleRuby::Rollout, false)] {
        let mut site = site(policy);
        let deploy = committed(&mut site, "a", stale);
        prove(&mut site, ALL);
        site.now += 60_000;
        site.look();
        assert!(site.state.rollouts().is_empty(), "{policy:?}");
        let offered = site.state.renewal_after(site.state.deploy(deploy).unwrap());
        assert_eq!(offered, if stale { "bunraku rollout start flush-pool" } else { "" });
    }
}

#[test]
fn what_is_only_offered_is_done_by_a_restart() {
    let mut site = site(OnStaleRuby::Offer);
    let deploy = committed(&mut site, "a", true);
    prove(&mut site, ALL);
    let id = site.start(restart());
    site.finish(id);
    assert_eq!(site.state.renewal_after(site.state.deploy(deploy).unwrap()), "");
}

#[test]
fn it_is_not_started_again_when_somebody_aborted_it() {
    let mut site = site(OnStaleRuby::Rollout);
    committed(&mut site, "a", true);
    prove(&mut site, ALL);
    site.ask(Request::AbortRollout { rollout: RolloutId(1), reason: "not tonight".into() }).unwrap();
    site.finish(RolloutId(1));
    site.now += 600_000;
    site.look();
    assert_eq!(site.state.rollouts().len(), 1);
    // The next such deploy is a new debt.
    committed(&mut site, "b", true);
    prove(&mut site, ALL);
    assert_eq!(site.rollout(RolloutId(2)).phase, RolloutPhase::Running);
}

#[test]
fn an_interpreter_that_was_made_before_the_new_code_was_served_is_not_new() {
    let mut site = site(OnStaleRuby::Rollout);
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Acting);
    committed(&mut site, "a", true);
    site.now += 1;
    prove(&mut site, ALL);
    site.finish(id);
    site.look();
    let renewal = site.rollout(RolloutId(2)).turns.keys().cloned().collect::<Vec<_>>();
    assert_eq!(renewal, [node("c1")], "c2 and c3 were restarted after it");
}

#[test]
fn who_is_out_of_reach_is_not_waited_for_and_follows_by_itself() {
    let mut site = site(OnStaleRuby::Rollout);
    committed(&mut site, "a", true);
    prove(&mut site, &["c1", "c2"]);
    site.presence.gone(&node("c3"), site.now);
    site.now += site.state.settings().commit_deadline;
    site.look();
    let renewed = site.rollout(RolloutId(1)).turns.keys().cloned().collect::<Vec<_>>();
    assert_eq!(renewed, [node("c1"), node("c2")]);
}

/// A controller that started again began one rollout for each compiler as it came.
#[test]
fn compilers_that_come_one_after_the_other_have_one_rollout_together() {
    let mut site = site(OnStaleRuby::Offer);
    committed(&mut site, "a", true);
    prove(&mut site, ALL);
    site.restart();
    site.renews_by_itself();
    for name in ["lb1", "lb2", "c2", "c3", "c1"] {
        assert!(site.state.rollouts().is_empty(), "{name} is missing");
        site.presence.connected(node(name));
        site.now += 1;
        site.look();
    }
    assert_eq!(site.rollout(RolloutId(1)).turns.len(), 3);
}

#[test]
fn a_rollback_over_such_a_change_is_one_too() {
    let mut site = site(OnStaleRuby::Rollout);
    for (content, stale) in [("a", false), ("b", true), ("c", false)] {
        committed(&mut site, content, stale);
        prove(&mut site, ALL);
    }
    site.finish(RolloutId(1));
    let environment = EnvironmentName::parse("production").unwrap();
    let back = |site: &mut Site, to: &str| {
        let to = Some(Digest::of(to.as_bytes()).to_string());
        site.ask(Request::Rollback { environment: environment.clone(), to }).unwrap();
        stage(site);
        prove(site, ALL);
    };
    back(&mut site, "b");
    assert_eq!(site.state.rollouts().len(), 1, "c and b load the same");
    back(&mut site, "a");
    assert_eq!(site.rollout(RolloutId(2)).action, Action::FlushPool);
}
