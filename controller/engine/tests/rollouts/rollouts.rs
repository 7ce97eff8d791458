//! Rollouts, one sentence a test.

use bunraku_common::Role;
use bunraku_engine::{
    Ask, Event, OnDrainDeadline, Request, RolloutId, RolloutOutcome, RolloutPhase, Step, TurnPhase,
};

use crate::site::{Site, drain, everything_is_as_before, node, outcome, restart, update};

#[test]
fn a_rolling_restart_restarts_each_compiler_once_and_leaves_everything_as_it_was() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
    assert!(site.compilers.iter().all(|compiler| compiler.restarts == 1));
    everything_is_as_before(&mut site);
}

#[test]
fn the_next_wave_begins_when_the_one_before_has_baked() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Baking);
    site.round();
    assert_eq!(site.phase(id, "c2"), TurnPhase::Waiting);
    assert!(
        site.waiting(id)[0].starts_with("c1: for the end of its bake, and must stay in service (nobody is there at this moment), at most 1 s"),
        "{:?}",
        site.waiting(id)
    );
    site.now += 1_000;
    site.look();
    assert_eq!((site.phase(id, "c1"), site.phase(id, "c2")), (TurnPhase::Done, TurnPhase::Preparing));
}

#[test]
fn nothing_is_done_to_a_compiler_before_nobody_is_served_by_it() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.balancer("lb2").servers.get_mut(&node("c1")).unwrap().sessions = 3;
    site.compiler("c1").idle.jrubies_free = 1;
    site.until(id, "c1", TurnPhase::Draining);
    for _round in 0..5 {
        site.round();
    }
    assert_eq!(site.phase(id, "c1"), TurnPhase::Draining);
    assert!(site.waiting(id)[0].contains("3 sessions are open at the balancers"), "{:?}", site.waiting(id));
    site.balancer("lb2").servers.get_mut(&node("c1")).unwrap().sessions = 0;
    site.round();
    assert!(site.waiting(id)[0].contains("1 of 2 JRubies at work"), "{:?}", site.waiting(id));
    assert!(site.waiting(id)[0].contains("then it is enabled again, unchanged, and the rollout halts"));
    assert_eq!(site.compiler("c1").restarts, 0);
    site.compiler("c1").idle.jrubies_free = 2;
    site.until(id, "c1", TurnPhase::Acting);
}

#[test]
fn what_a_compiler_said_of_itself_before_all_balancers_had_drained_it_counts_for_nothing() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Draining);
    // In the same millisecond the last balancer agrees.
    site.tell_balancers();
    assert!(site.balance("c1").agreed_at.is_some());
    assert_eq!(site.phase(id, "c1"), TurnPhase::Draining);
    assert!(site.waiting(id)[0].contains("has not said yet whether it is idle"), "{:?}", site.waiting(id));
}

#[test]
fn a_drain_that_does_not_end_gives_the_turn_up_and_halts_the_rollout() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.compiler("c1").idle.connections = 1;
    site.until(id, "c1", TurnPhase::Draining);
    site.round();
    site.now += 60_000;
    site.look();
    site.until(id, "c1", TurnPhase::Failed);
    let RolloutPhase::Paused { reason, .. } = &site.rollout(id).phase else { panic!() };
    assert!(reason.starts_with("c1 failed: it was not empty within 60 s: 1 connection,"), "{reason}");
    assert_eq!(site.compiler("c1").restarts, 0);
    site.round();
    assert_eq!(site.phase(id, "c2"), TurnPhase::Waiting);
    site.compiler("c1").idle.connections = 0;
    everything_is_as_before(&mut site);
    site.ask(Request::RetryTurn { rollout: id, node: node("c1") }).unwrap();
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
}

/// A restart by force, with three sessions of c1 open at each balancer when the time of its drain is over.
fn forced() -> (Site, RolloutId) {
    let mut site = Site::new();
    let mut ask = restart();
    ask.policy.on_drain_deadline = OnDrainDeadline::Force;
    let id = site.start(ask);
    sessions(&mut site, 3);
    site.until(id, "c1", TurnPhase::Draining);
    site.round();
    site.now += 60_000;
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Closing);
    (site, id)
}

fn sessions(site: &mut Site, open: u64) {
    site.balancers.iter_mut().for_each(|lb| lb.servers.get_mut(&node("c1")).unwrap().sessions = open);
}

fn closed(site: &Site) -> Vec<usize> {
    site.balancers.iter().map(|lb| lb.servers[&node("c1")].closed).collect()
}

#[test]
fn by_force_every_balancer_closes_its_sessions_before_the_compiler_is_changed() {
    let (mut site, id) = forced();
    let drain = site.generation("c1");
    let steps = site.steps();
    let closes = |step: &Step| matches!(step, Step::Balance { close: true, drained: true, generation, .. } if *generation == drain);
    assert!(steps.len() == 2 && steps.iter().all(closes), "{steps:?}");
    assert!(site.waiting(id)[0].contains("c1: for its sessions to be closed: 6 sessions are open"));
    // One balancer loses the order: it is told again.
    site.tell_balancer(&steps[0]);
    site.look();
    assert_eq!((site.phase(id, "c1"), site.steps()), (TurnPhase::Closing, vec![steps[1].clone()]));
    site.tell_balancers();
    assert_eq!((closed(&site), site.compiler("c1").restarts), (vec![1, 1], 0));
    assert!(matches!(&site.steps()[..], [Step::Act { .. }]));
    site.finish(id);
    assert_eq!((outcome(&site, id), closed(&site)), (RolloutOutcome::Done, vec![1, 1]));
    everything_is_as_before(&mut site);
}

#[test]
fn what_no_balancer_can_close_is_waited_for_ten_seconds_and_no_longer() {
    let (mut site, id) = forced();
    site.balancer("lb2").servers.get_mut(&node("c1")).unwrap().cannot_close = true;
    site.tell_balancers();
    site.now += 9_999;
    site.look();
    assert!(matches!(&site.steps()[..], [Step::Balance { close: true, .. }]), "{:?}", site.steps());
    site.now += 1;
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Acting);
    site.round();
    sessions(&mut site, 0);
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
}

#[test]
fn by_force_a_compiler_that_is_empty_at_the_end_of_its_drain_has_nothing_closed() {
    let mut site = Site::new();
    let mut ask = restart();
    ask.policy.on_drain_deadline = OnDrainDeadline::Force;
    let id = site.start(ask);
    site.finish(id);
    assert_eq!((outcome(&site, id), closed(&site)), (RolloutOutcome::Done, vec![0, 0]));
}

#[test]
fn without_force_no_session_is_ever_closed() {
    let mut site = Site::new();
    let id = site.start(restart());
    sessions(&mut site, 3);
    site.until(id, "c1", TurnPhase::Draining);
    site.round();
    site.now += 60_000;
    site.look();
    site.until(id, "c1", TurnPhase::Failed);
    assert_eq!((closed(&site), site.compiler("c1").restarts), (vec![0, 0], 0));
}

#[test]
fn i3_a_balancer_that_is_cut_off_while_sessions_are_closed_ends_the_turn_unchanged() {
    let (mut site, id) = forced();
    site.presence.gone(&node("lb2"), site.now);
    site.now += 10_000;
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Enabling);
    site.connect_all();
    site.until(id, "c1", TurnPhase::Failed);
    assert_eq!(site.compiler("c1").restarts, 0);
    assert!(site.steps().is_empty() && site.in_service("c1"));
}

#[test]
fn i5_a_controller_killed_while_sessions_are_closed_goes_on_and_changes_nothing_twice() {
    let (mut site, id) = forced();
    site.restart();
    site.connect_all();
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Closing);
    site.finish(id);
    assert_eq!((outcome(&site, id), closed(&site)), (RolloutOutcome::Done, vec![1, 1]));
    assert!(site.compilers.iter().all(|compiler| compiler.restarts == 1));
}

#[test]
fn i7_an_abort_or_a_skip_while_sessions_are_closed_brings_the_compiler_back_unchanged() {
    for request in [
        |rollout| Request::AbortRollout { rollout, reason: "no".into() },
        |rollout| Request::SkipTurn { rollout, node: node("c1") },
    ] {
        let (mut site, id) = forced();
        site.ask(request(id)).unwrap();
        site.until(id, "c1", TurnPhase::Skipped);
        assert_eq!(site.compiler("c1").restarts, 0);
        assert!(site.in_service("c1"));
    }
}

#[test]
fn i3_force_does_nothing_to_a_compiler_that_a_balancer_was_not_seen_to_have_drained() {
    let mut site = Site::new();
    let mut ask = restart();
    ask.policy.on_drain_deadline = OnDrainDeadline::Force;
    let id = site.start(ask);
    site.until(id, "c1", TurnPhase::Draining);
    site.presence.gone(&node("lb2"), site.now);
    site.now += 60_000;
    site.look();
    site.until(id, "c1", TurnPhase::Enabling);
    assert_eq!(site.compiler("c1").restarts, 0);
}

#[test]
fn f7_a_balancer_that_is_cut_off_while_a_compiler_is_drained_stops_the_order_until_it_is_seen_again() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Acting);
    site.presence.gone(&node("lb2"), site.now);
    site.look();
    assert!(site.steps().is_empty());
    assert!(
        site.waiting(id)[0].contains("for the balancers to show it drained again"),
        "{:?}",
        site.waiting(id)
    );
    site.restart();
    site.connect_all();
    assert!(site.steps().is_empty(), "nobody was seen since");
    site.look();
    assert!(matches!(&site.steps()[..], [Step::Act { .. }]));
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
}

#[test]
fn f14_a_balancer_that_forgot_the_drain_is_told_again_before_the_compiler_is_restarted() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Acting);
    let server = site.balancer("lb1").servers.get_mut(&node("c1")).unwrap();
    (server.drained, server.wish) = (false, None);
    site.look();
    assert!(matches!(&site.steps()[..], [Step::Balance { drained: true, .. }]));
    site.tell_balancers();
    assert!(matches!(&site.steps()[..], [Step::Act { .. }]));
}

#[test]
fn f15_a_compiler_that_is_never_healthy_stays_drained_with_an_owner_and_halts_the_rollout() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.compiler("c1").breaks = true;
    site.until(id, "c1", TurnPhase::Verifying);
    site.round();
    site.now += 60_000;
    site.look();
    site.until(id, "c1", TurnPhase::Failed);
    assert!(site.balance("c1").is_drained());
    assert!(!site.compiler("c1").puppet_disabled);
    let waits = site.waiting(id).join("\n");
    assert!(waits.contains("verifying had no end within 60 s: its Puppet Server is down"), "{waits}");
    // The abort cannot heal it: the drain keeps an owner, and an alarm names the command.
    site.ask(Request::AbortRollout { rollout: id, reason: "later".into() }).unwrap();
    site.look();
    site.now += 60_000;
    site.look();
    site.finish(id);
    assert!(matches!(outcome(&site, id), RolloutOutcome::Aborted { .. }));
    assert!(site.alarms()[0].contains("hint: bunraku lb enable c1"), "{:?}", site.alarms());
    site.puppet_server("c1", true);
    site.enable("c1").unwrap();
    everything_is_as_before(&mut site);
}

#[test]
fn an_abort_enables_a_failed_compiler_that_is_healthy_by_now() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.compiler("c1").breaks = true;
    site.until(id, "c1", TurnPhase::Verifying);
    site.now += 60_000;
    site.look();
    site.until(id, "c1", TurnPhase::Failed);
    site.puppet_server("c1", true);
    site.ask(Request::AbortRollout { rollout: id, reason: "enough".into() }).unwrap();
    site.finish(id);
    everything_is_as_before(&mut site);
}

#[test]
fn f15_a_compiler_that_dies_while_it_bakes_halts_the_rollout() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Baking);
    site.puppet_server("c1", false);
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Failed);
    let RolloutPhase::Paused { reason, .. } = &site.rollout(id).phase else { panic!() };
    assert_eq!(reason, "c1 failed: it went out of service while it baked");
}

/// Regression: time in which no controller ran, or by which its clock had jumped, counted as bake.
#[test]
fn f11_nobody_bakes_while_no_controller_looks() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Baking);
    site.now += 3_600_000;
    site.restart();
    site.connect_all();
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Baking);
    assert!(site.waiting(id)[0].contains("at most 1 s"), "{:?}", site.waiting(id));
    site.now += 1_000;
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Done);
}

#[test]
fn an_abort_in_every_phase_brings_the_compiler_back() {
    let phases = [
        TurnPhase::Waiting,
        TurnPhase::Preparing,
        TurnPhase::Settling,
        TurnPhase::Draining,
        TurnPhase::Acting,
        TurnPhase::Verifying,
        TurnPhase::Enabling,
        TurnPhase::Releasing,
        TurnPhase::Baking,
    ];
    for phase in phases {
        let mut site = Site::new();
        let id = site.ask_rollout(restart()).unwrap();
        site.until(id, "c1", phase);
        site.ask(Request::AbortRollout { rollout: id, reason: "no".into() }).unwrap();
        site.finish(id);
        assert!(matches!(outcome(&site, id), RolloutOutcome::Aborted { .. }), "{phase:?}");
        assert_eq!(site.phase(id, "c2"), TurnPhase::Skipped);
        assert!(site.compiler("c1").restarts <= 1);
        everything_is_as_before(&mut site);
    }
}

#[test]
fn i5_a_controller_killed_in_every_phase_goes_on_and_restarts_nothing_twice() {
    for kill_after in 0..40 {
        let mut site = Site::new();
        let id = site.start(restart());
        for _round in 0..kill_after {
            site.round();
        }
        site.restart();
        site.connect_all();
        site.look();
        site.finish(id);
        assert_eq!(outcome(&site, id), RolloutOutcome::Done, "killed after {kill_after}");
        assert!(site.compilers.iter().all(|compiler| compiler.restarts == 1));
        everything_is_as_before(&mut site);
    }
}

#[test]
fn a_pause_lets_turns_end_and_none_begin_and_may_last_for_a_day() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Draining);
    site.ask(Request::PauseRollout { rollout: id, reason: "lunch".into() }).unwrap();
    for _round in 0..20 {
        site.round();
        site.now += 1_000;
    }
    assert_eq!((site.phase(id, "c1"), site.phase(id, "c2")), (TurnPhase::Done, TurnPhase::Waiting));
    everything_is_as_before(&mut site);
    site.now += 86_400_000;
    site.look();
    assert!(site.waiting(id)[0].starts_with("paused (ann: lunch): for `bunraku rollout resume"));
    site.ask(Request::ResumeRollout { rollout: id }).unwrap();
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
}

#[test]
fn a_node_that_cannot_prepare_is_not_touched() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.compiler("c1").refuses_to_prepare = true;
    site.until(id, "c1", TurnPhase::Failed);
    assert!(!site.state.balance().contains_key(&node("c1")));
    site.ask(Request::SkipTurn { rollout: id, node: node("c1") }).unwrap();
    site.ask(Request::ResumeRollout { rollout: id }).unwrap();
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
    assert_eq!(site.compiler("c1").restarts, 0);
}

#[test]
fn a_rollout_that_is_resumed_over_a_failed_turn_ends_incomplete() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.compiler("c1").refuses_to_prepare = true;
    site.until(id, "c1", TurnPhase::Failed);
    site.ask(Request::ResumeRollout { rollout: id }).unwrap();
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Incomplete { failed: [node("c1")].into() });
}

#[test]
fn a_puppet_run_of_the_compiler_itself_is_waited_for_before_the_drain() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.compiler("c1").puppet_runs = true;
    site.compiler("c1").idle.run_since = Some(1);
    for _round in 0..10 {
        site.round();
    }
    assert_eq!(site.phase(id, "c1"), TurnPhase::Settling);
    assert!(site.waiting(id)[0].starts_with("c1: for the Puppet run that is going on there, at most 60 s"));
    assert!(!site.state.balance().contains_key(&node("c1")), "it is not drained meanwhile");
    site.compiler("c1").puppet_runs = false;
    site.finish(id);
}

#[test]
fn a_puppet_agent_that_we_hold_is_released_even_when_its_node_was_away_at_the_end() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Releasing);
    site.presence.gone(&node("c1"), site.now);
    site.now += 60_000;
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Failed);
    site.ask(Request::AbortRollout { rollout: id, reason: "gone".into() }).unwrap();
    site.finish(id);
    assert!(site.compiler("c1").puppet_disabled);
    site.restart();
    site.connect_all();
    site.look();
    everything_is_as_before(&mut site);
}

#[test]
fn an_operators_drain_of_a_compiler_whose_turn_comes_is_not_taken_over() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.ask_as("bob", drain("c1", 0)).unwrap();
    site.tell_balancers();
    site.until(id, "c1", TurnPhase::Draining);
    assert!(
        site.waiting(id)[0].contains("c1 is drained by operator bob: new disk"),
        "{:?}",
        site.waiting(id)
    );
    site.now += 60_000;
    site.look();
    site.until(id, "c1", TurnPhase::Failed);
    assert!(site.balance("c1").is_drained(), "it stays as the operator wants it");
    assert_eq!(site.compiler("c1").restarts, 0);
}

#[test]
fn a_compiler_that_a_rollout_has_drained_is_not_enabled_by_hand_and_the_command_is_named() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Acting);
    let refusal = site.enable("c1").unwrap_err();
    assert_eq!(refusal.hint, format!("bunraku rollout abort {id}"));
}

/// A rollout whose c1 is to be drained while lb2, which was seen too early, has lost two of its three compilers.
fn refused_by_lb2(site: &mut Site) -> RolloutId {
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Draining);
    lb2_checks(site, false);
    for step in site.steps() {
        site.tell_balancer(&step);
    }
    assert_eq!(site.balance("c1").undone.as_deref(), Some("lb2 refused: 0 would be left of 1"));
    id
}

fn lb2_checks(site: &mut Site, up: bool) {
    for name in ["c2", "c3"] {
        site.balancer("lb2").servers.get_mut(&node(name)).unwrap().up = up;
    }
}

#[test]
fn a_balancer_that_refuses_the_drain_because_siblings_are_down_for_a_moment_is_asked_again() {
    let mut site = Site::new();
    let id = refused_by_lb2(&mut site);
    site.tell_balancers();
    lb2_checks(&mut site, true);
    site.look();
    assert!(site.in_service("c1"), "not at once");
    assert_eq!(
        site.waiting(id),
        [
            "c1: to be drained, again in 10 s: lb2 refused: 0 would be left of 1, at most 60 s; then it is enabled again, \
          unchanged, and the rollout halts"
        ]
    );
    site.wait(10_000);
    site.look();
    site.finish(id);
    assert_eq!(site.compiler("c1").restarts, 1);
}

/// Regression: they had what was left of the time that the balancer had refused in, and by force their runs were cut off.
#[test]
fn a_drain_that_a_balancer_takes_late_leaves_those_who_are_served_the_whole_time() {
    let mut site = Site::new();
    let id = refused_by_lb2(&mut site);
    site.tell_balancers();
    lb2_checks(&mut site, true);
    sessions(&mut site, 3);
    site.wait(55_000);
    site.look();
    site.tell_balancers();
    assert!(site.balance("c1").is_drained());
    site.wait(50_000);
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Draining, "{:?}", site.waiting(id));
    site.wait(15_000);
    site.look();
    assert_ne!(site.phase(id, "c1"), TurnPhase::Draining);
}

#[test]
fn a_balancer_that_refuses_the_drain_until_its_deadline_halts_the_rollout_and_the_compiler_stays_ready() {
    let mut site = Site::new();
    let id = refused_by_lb2(&mut site);
    let facts = site.facts();
    let deadline = site.state.deadline(&site.presence).unwrap();
    while site.now < deadline {
        site.tell_balancers();
        site.wait(5_000);
    }
    assert!(site.facts() < facts + 10, "what cannot be is not wanted again and again:\n{}", site.story());
    site.until(id, "c1", TurnPhase::Failed);
    let RolloutPhase::Paused { reason, .. } = &site.rollout(id).phase else { panic!() };
    assert!(reason.contains("its drain was undone: lb2 refused"), "{reason}");
    assert!(site.in_service("c1"));
    assert_eq!(site.compiler("c1").restarts, 0);
}

#[test]
fn i3_a_wave_of_two_is_decided_one_after_the_other() {
    let mut site = Site::new();
    let mut ask = restart();
    (ask.policy.canary, ask.policy.batch) = (0, bunraku_engine::Batch::Count(2));
    let id = site.start(ask);
    site.until(id, "c2", TurnPhase::Settling);
    // Two would go; meanwhile one of the others died.
    site.balancer("lb1").servers.get_mut(&node("c3")).unwrap().up = false;
    site.look();
    for _round in 0..10 {
        site.round();
        assert!(site.balancers[0].in_service() >= 1, "{:?}", site.waiting(id));
    }
}

#[test]
fn compilers_in_no_backend_are_changed_without_a_drain() {
    let mut site = Site::new();
    for balancer in &mut site.balancers {
        balancer.servers.remove(&node("c3"));
    }
    site.look();
    assert!(site.ask_rollout(Ask { nodes: vec!["c3".into()], ..restart() }).is_err());
    let id = site.start(Ask { nodes: vec!["c3".into()], undrained: true, ..restart() });
    site.until(id, "c3", TurnPhase::Acting);
    assert!(site.state.balance().is_empty());
    // Since then a balancer carries it: it must not be restarted under load.
    let like = site.balancers[0].servers[&node("c1")].clone();
    site.balancer("lb1").servers.insert(node("c3"), like);
    site.look();
    assert!(site.steps().is_empty());
}

#[test]
fn a_compiler_is_enabled_only_when_it_is_proven_on_what_is_committed() {
    let mut site = Site::new();
    site.commit_on_all_but("c1");
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Verifying);
    for _round in 0..5 {
        site.round();
    }
    let waits = site.waiting(id).join("\n");
    assert!(waits.contains("proven: it does not serve what is committed in production, at most"), "{waits}");
    site.prove("c1");
    site.round();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Enabling);
}

#[test]
fn an_answer_to_an_earlier_phase_is_no_news() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Acting);
    let generation = site.rollout(id).turns[&node("c1")].generation;
    for earlier in 0..generation.0 {
        let generation = bunraku_common::Generation(earlier);
        site.hear(Event::TurnStepDone { node: node("c1"), generation });
        let reason = "late".into();
        site.hear(Event::TurnStepFailed { node: node("c1"), generation, reason, unchanged: false });
    }
    assert_eq!(site.phase(id, "c1"), TurnPhase::Acting);
}

#[test]
fn a_node_that_is_held_before_its_turn_is_skipped() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.ask(Request::HoldNode { node: node("c2"), reason: "disk".into() }).unwrap();
    site.enrol(&node("c9"), Role::Compiler);
    site.finish(id);
    assert_eq!(site.phase(id, "c2"), TurnPhase::Skipped);
    assert_eq!(site.compiler("c2").restarts, 0);
}

/// A node knows an order of a turn by its number, whatever the term: a restored backup must not give one again.
#[test]
fn i5_after_a_takeover_turns_have_numbers_that_no_lost_journal_gave() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Preparing);
    let before = site.state.rollout(id).unwrap().turns[&node("c1")].generation;
    site.term(2000, Some("restored from last night"));
    site.look();
    let id = site.start(restart());
    site.until(id, "c1", TurnPhase::Preparing);
    let after = site.state.rollout(id).unwrap().turns[&node("c1")].generation;
    assert!(after.0 > before.0 + (1 << 20), "{before:?} and {after:?}");
    site.finish(id);
}

#[test]
fn a_failure_that_left_everything_as_it_was_ends_with_the_compiler_in_service_and_the_rollout_halted() {
    let mut site = Site::new();
    let id = site.start(restart());
    site.compiler("c1").cannot_act = Some(true);
    site.until(id, "c1", TurnPhase::Failed);
    assert!(site.in_service("c1"));
    assert!(!site.compiler("c1").puppet_disabled);
    let retreat = site.state.rollout(id).unwrap().turns[&node("c1")].retreat.clone().unwrap();
    assert_eq!(retreat.reason, "the restart failed");
    assert_eq!(site.state.rollout(id).unwrap().phase_name(), "paused");
    site.compiler("c1").cannot_act = None;
    site.ask(Request::RetryTurn { rollout: id, node: node("c1") }).unwrap();
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
    everything_is_as_before(&mut site);
}

#[test]
fn f15_a_failure_that_left_the_server_down_keeps_the_compiler_drained_whatever_its_node_says() {
    for unchanged in [false, true] {
        let mut site = Site::new();
        let id = site.start(restart());
        site.compiler("c1").cannot_act = Some(unchanged);
        site.until(id, "c1", if unchanged { TurnPhase::Verifying } else { TurnPhase::Failed });
        site.compiler("c1").up = false;
        site.now += 60_000;
        site.look();
        site.until(id, "c1", TurnPhase::Failed);
        assert!(!site.in_service("c1"), "it says unchanged: {unchanged}");
        let retreat = site.state.rollout(id).unwrap().turns[&node("c1")].retreat.clone().unwrap();
        assert!(retreat.reason.starts_with("the restart failed"), "{}", retreat.reason);
        assert!(retreat.reason.ends_with("it stays drained"), "{}", retreat.reason);
    }
}

#[test]
fn a_failed_update_is_brought_back_and_its_compiler_serves_again() {
    let mut site = Site::new();
    let id = site.start(update());
    site.compiler("c1").cannot_act = Some(false);
    site.until(id, "c1", TurnPhase::Reverting);
    let revert = |step: &Step| matches!(step, Step::Act { back: true, .. });
    assert!(site.steps().iter().any(revert), "{:?}", site.steps());
    site.until(id, "c1", TurnPhase::Failed);
    let RolloutPhase::Paused { reason, .. } = &site.rollout(id).phase else { panic!() };
    assert_eq!(reason, "c1 failed: the restart failed; it was brought back to what was before");
    site.round();
    assert_eq!(site.phase(id, "c2"), TurnPhase::Waiting, "nothing is done to the others");
    site.compiler("c1").cannot_act = None;
    everything_is_as_before(&mut site);
}

#[test]
fn a_compiler_that_does_not_get_healthy_after_its_update_is_brought_back() {
    let mut site = Site::new();
    let id = site.start(update());
    site.compiler("c1").breaks = true;
    site.until(id, "c1", TurnPhase::Verifying);
    assert!(site.waiting(id)[0].contains("then what was before is brought back"), "{:?}", site.waiting(id));
    site.now += site.rollout(id).policy.phase_deadline;
    site.look();
    assert_eq!(site.phase(id, "c1"), TurnPhase::Reverting);
    site.until(id, "c1", TurnPhase::Failed);
    site.compiler("c1").breaks = false;
    everything_is_as_before(&mut site);
}

#[test]
fn what_cannot_be_brought_back_stays_drained_with_both_reasons() {
    let mut site = Site::new();
    let id = site.start(update());
    site.compiler("c1").cannot_act = Some(false);
    site.compiler("c1").cannot_revert = true;
    site.until(id, "c1", TurnPhase::Failed);
    let RolloutPhase::Paused { reason, .. } = &site.rollout(id).phase else { panic!() };
    assert_eq!(
        reason,
        "c1 failed: the restart failed; it could not be brought back: the old package is gone; it stays drained"
    );
    site.round();
    assert!(!site.in_service("c1"));
}

#[test]
fn without_a_revert_a_failed_update_stays_as_it_is() {
    let mut site = Site::new();
    let mut ask = update();
    ask.policy.revert = false;
    let id = site.start(ask);
    let consents = |step: &Step| matches!(step, Step::Prepare { no_revert: true, .. });
    site.until(id, "c1", TurnPhase::Preparing);
    assert!(site.steps().iter().any(consents), "{:?}", site.steps());
    site.compiler("c1").cannot_act = Some(false);
    site.until(id, "c1", TurnPhase::Failed);
    assert!(!site.in_service("c1"));
    assert!(!site.compiler("c1").up, "nobody brought it back");
}

#[test]
fn an_update_that_left_all_as_it_was_needs_no_way_back() {
    let mut site = Site::new();
    let id = site.start(update());
    site.compiler("c1").cannot_act = Some(true);
    site.until(id, "c1", TurnPhase::Verifying);
    let on_its_way_back = |step: &Step| matches!(step, Step::Verify { back: true, .. });
    assert!(site.steps().iter().any(on_its_way_back), "{:?}", site.steps());
    site.until(id, "c1", TurnPhase::Failed);
    everything_is_as_before(&mut site);
}

#[test]
fn another_version_counts_when_no_turn_is_under_way_and_for_those_that_are_done_too() {
    let mut site = Site::new();
    let id = site.start(update());
    site.until(id, "c1", TurnPhase::Baking);
    site.now += 1_000;
    site.until(id, "c2", TurnPhase::Acting);
    let retarget = |version: &str| Request::RetargetRollout { rollout: id, version: version.into() };
    site.ask(retarget("8.2")).unwrap();
    site.look();
    assert_eq!(site.rollout(id).action.to_string(), "update puppetserver=8.1", "c2 is finished first");
    site.ask(retarget("8.2")).unwrap();
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
    assert_eq!(site.rollout(id).action.to_string(), "update puppetserver=8.2");
    let times: Vec<usize> = site.compilers.iter().map(|compiler| compiler.restarts).collect();
    assert_eq!(times, [2, 2, 1], "c3 never had the version that is not wanted any more");
    everything_is_as_before(&mut site);
}

#[test]
fn a_rollout_without_a_version_a_wrong_one_and_the_same_one_are_told_apart() {
    let mut site = Site::new();
    let id = site.start(restart());
    let to = |version: &str| Request::RetargetRollout { rollout: id, version: version.into() };
    let refused = site.ask(to("8.2")).unwrap_err();
    assert_eq!(refused.reason, "rollout 1 is a restart, which has no version");
    site.finish(id);
    let id = site.start(update());
    let to = |version: &str| Request::RetargetRollout { rollout: id, version: version.into() };
    assert!(site.ask(to("-y")).unwrap_err().reason.contains("cannot be a version"));
    let before = site.facts();
    site.ask(to("8.1")).unwrap();
    assert_eq!(site.facts(), before, "it is the target already");
    site.ask(to("8.2")).unwrap();
    site.ask(to("8.1")).unwrap();
    site.finish(id);
    assert!(site.compilers.iter().all(|compiler| compiler.restarts == 2), "nothing is done again");
}

#[test]
fn a_failed_compiler_is_retried_with_the_version_that_is_wanted_now() {
    let mut site = Site::new();
    let id = site.start(update());
    site.compiler("c1").cannot_act = Some(false);
    site.until(id, "c1", TurnPhase::Failed);
    site.ask(Request::RetargetRollout { rollout: id, version: "8.2".into() }).unwrap();
    site.look();
    assert_eq!(site.rollout(id).action.to_string(), "update puppetserver=8.2");
    assert!(matches!(site.rollout(id).phase, RolloutPhase::Paused { .. }), "somebody decides");
    site.compiler("c1").cannot_act = None;
    site.ask(Request::RetryTurn { rollout: id, node: node("c1") }).unwrap();
    site.finish(id);
    assert_eq!(outcome(&site, id), RolloutOutcome::Done);
}
