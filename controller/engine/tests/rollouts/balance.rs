//! What each compiler is wanted to be at the balancers, one sentence a test.

use bunraku_common::{Generation, Role};
use bunraku_engine::{RefusalCode, Request, Step, Wanted, view::FRESH};

use crate::{
    balancer::Said,
    site::{Site, drain, node},
};

#[test]
fn a_drain_is_told_to_every_balancer_and_agreed_when_all_have_done_it() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    assert_eq!(site.steps().len(), 2);
    let Step::Balance { owner, reason, drained, .. } = &site.steps()[0] else { panic!() };
    assert_eq!((owner.as_str(), reason.as_str(), *drained), ("operator ann", "new disk", true));
    assert_eq!(site.balance("c1").agreed_at, None);
    site.tell_balancers();
    assert_eq!(site.balance("c1").agreed_at, Some(site.now));
    assert!(site.steps().is_empty());
    site.enable("c1").unwrap();
    assert!(!site.in_service("c1"), "no balancer has done it yet");
    site.tell_balancers();
    assert!(site.in_service("c1") && site.steps().is_empty());
}

#[test]
fn a_drain_is_agreed_only_when_the_last_balancer_has_done_it() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    let (_, told) = site.told(&site.steps()[0]).unwrap();
    assert_eq!(site.balancer("lb1").obey(&told), Said::Done);
    site.look();
    assert_eq!(site.balance("c1").agreed_at, None);
    assert!(matches!(&site.steps()[..], [Step::Balance { balancer, .. }] if *balancer == node("lb2")));
}

#[test]
fn i3_a_drain_below_the_floor_of_one_backend_is_refused_whoever_asks() {
    let mut site = Site::new();
    site.balancer("lb2").floor = 2;
    site.look();
    site.drain("c1").unwrap();
    let refusal = site.ask_as("bob", drain("c2", 0)).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Conflict);
    assert_eq!(
        refusal.reason,
        "c2 cannot be drained: without c2 backend puppet of lb2 would have 1 compilers in service, at least 2 must stay"
    );
}

#[test]
fn i3_a_drain_that_is_decided_counts_as_out_before_any_balancer_has_done_it() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.drain("c2").unwrap();
    assert!(site.balancers.iter().all(|balancer| balancer.in_service() == 3));
    assert!(site.drain("c3").unwrap_err().reason.contains("would have 0 compilers in service"));
}

#[test]
fn i3_the_last_healthy_compiler_never_goes_even_where_no_floor_is_set() {
    let mut site = Site::new();
    for balancer in &mut site.balancers {
        balancer.floor = 0;
        balancer.servers.get_mut(&node("c2")).unwrap().up = false;
        balancer.servers.get_mut(&node("c3")).unwrap().foreign = true;
    }
    site.look();
    assert!(site.drain("c1").unwrap_err().reason.contains("would have 0 compilers in service"));
}

#[test]
fn i3_a_compiler_that_is_down_at_one_balancer_is_not_in_service_at_the_other() {
    let mut site = Site::new();
    site.balancer("lb1").servers.get_mut(&node("c2")).unwrap().up = false;
    site.look();
    let refusal = site.ask(drain("c1", 2)).unwrap_err();
    assert!(refusal.reason.contains("would have 1 compilers"), "{refusal}");
}

#[test]
fn i3_what_was_seen_before_an_enable_does_not_put_the_compiler_in_service() {
    let mut site = Site::new();
    let before: Vec<_> = site.balancers.iter().map(|lb| (lb.name.clone(), lb.view(site.now))).collect();
    site.drain("c1").unwrap();
    site.tell_balancers();
    site.enable("c1").unwrap();
    // The answers to the first question come last.
    site.now += 1;
    for (name, view) in before {
        site.presence.balancer_seen(name, bunraku_engine::BalancerView { at: site.now, ..view });
    }
    assert!(!site.in_service("c1"));
    site.drain("c2").unwrap();
    assert!(site.drain("c3").is_err());
}

#[test]
fn i3_a_compiler_that_is_wanted_out_is_not_in_service_where_a_reload_put_it_back() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.tell_balancers();
    for balancer in &mut site.balancers {
        balancer.servers.get_mut(&node("c1")).unwrap().drained = false;
    }
    site.look();
    assert!(!site.in_service("c1"));
    site.drain("c2").unwrap();
    assert!(site.drain("c3").is_err());
}

#[test]
fn i5_a_drain_is_not_agreed_by_what_a_balancer_remembers_of_an_earlier_one() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.tell_balancers();
    site.enable("c1").unwrap();
    site.drain("c1").unwrap();
    site.look();
    assert_eq!(site.balance("c1").agreed_at, None, "the order to enable it may still arrive");
    assert_eq!(site.steps().len(), 2);
    site.tell_balancers();
    assert!(site.balance("c1").agreed_at.is_some());
}

#[test]
fn the_larger_number_of_a_drain_that_stands_rules() {
    let mut site = Site::new();
    site.ask(drain("c1", 2)).unwrap();
    let refusal = site.ask(drain("c2", 0)).unwrap_err();
    assert!(refusal.reason.contains("at least 2 must stay"), "{refusal}");
}

#[test]
fn a_balancer_that_refuses_undoes_the_drain_at_every_balancer() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    // Since it was seen two compilers died.
    for name in ["c2", "c3"] {
        site.balancer("lb2").servers.get_mut(&node(name)).unwrap().up = false;
    }
    let said = site.tell_balancers();
    assert_eq!(said[0].1, Said::Done, "lb1 had drained it");
    assert_eq!(site.balance("c1").wanted, Wanted::Ready);
    let undone = site.balance("c1").undone.clone().unwrap();
    assert!(undone.starts_with("lb2 refused: 0 would be left"), "{undone}");
    site.tell_balancers();
    assert!(site.balancers.iter().all(|balancer| !balancer.servers[&node("c1")].drained));
}

#[test]
fn a_late_refusal_of_an_earlier_drain_undoes_nothing() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.enable("c1").unwrap();
    site.drain("c1").unwrap();
    let (balancer, compiler) = (node("lb1"), node("c1"));
    let generation = Generation(1);
    site.hear(bunraku_engine::Event::BalanceRefused {
        balancer,
        compiler,
        generation,
        reason: "late".into(),
    });
    assert!(site.balance("c1").is_drained());
}

#[test]
fn a_balancer_that_is_not_connected_forbids_every_drain() {
    let mut site = Site::new();
    site.presence.gone(&node("lb2"), site.now);
    let refusal = site.drain("c1").unwrap_err();
    assert_eq!(refusal.reason, "c1 cannot be drained: balancer lb2 cannot be seen: it is not connected");
    assert!(refusal.hint.contains("bunraku nodes remove lb2"), "{refusal}");
}

#[test]
fn a_balancer_that_was_not_seen_lately_or_cannot_be_asked_forbids_every_drain() {
    let mut site = Site::new();
    site.wait(FRESH);
    assert!(site.steps().is_empty());
    site.wait(1);
    assert!(site.drain("c1").unwrap_err().reason.contains("was last seen 11 s ago"));
    site.look();
    let view = site.balancer("lb1").view(0);
    let trouble = "the socket does not answer".to_owned();
    let at = site.now;
    site.presence.balancer_seen(node("lb1"), bunraku_engine::BalancerView { at, trouble, ..view });
    assert!(site.drain("c1").unwrap_err().reason.ends_with("lb1 cannot be seen: the socket does not answer"));
}

#[test]
fn a_balancer_that_is_put_aside_still_counts_and_one_that_is_removed_does_not() {
    let mut site = Site::new();
    site.presence.gone(&node("lb2"), site.now);
    site.ask(Request::HoldNode { node: node("lb2"), reason: "off".into() }).unwrap();
    assert!(site.drain("c1").is_err());
    site.ask(Request::RemoveNode { node: node("lb2") }).unwrap();
    site.drain("c1").unwrap();
}

#[test]
fn a_drain_that_not_all_balancers_do_in_time_is_undone() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.presence.gone(&node("lb2"), site.now);
    site.tell_balancers();
    let deadline = site.state.deadline(&site.presence).unwrap();
    site.now = deadline - 1;
    site.look();
    assert!(site.balance("c1").is_drained());
    site.now = deadline;
    site.look();
    assert_eq!(
        site.balance("c1").undone.as_deref(),
        Some("balancer lb2 cannot be seen: it is not connected")
    );
    site.tell_balancers();
    assert!(!site.balancer("lb1").servers[&node("c1")].drained);
    assert_eq!(site.state.deadline(&site.presence), None);
}

#[test]
fn a_controller_that_was_away_leaves_the_balancers_their_time_again() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.now += 10 * site.state.settings().balance_deadline;
    site.restart();
    site.connect_all();
    site.look();
    assert!(site.balance("c1").is_drained());
    site.tell_balancers();
    assert!(site.balance("c1").agreed_at.is_some());
}

#[test]
fn a_drain_that_was_agreed_stays_when_a_balancer_goes() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.tell_balancers();
    site.presence.gone(&node("lb2"), site.now);
    site.wait(100 * site.state.settings().balance_deadline);
    assert!(site.balance("c1").is_drained());
}

#[test]
fn a_balancer_that_lost_its_memory_is_told_again() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.tell_balancers();
    let server = site.balancer("lb2").servers.get_mut(&node("c1")).unwrap();
    (server.drained, server.wish) = (false, None);
    site.look();
    assert!(matches!(&site.steps()[..], [Step::Balance { drained: true, .. }]));
}

#[test]
fn a_compiler_that_somebody_holds_is_not_drained_by_another_and_the_command_that_ends_it_is_named() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    assert!(site.drain("c1").unwrap().is_empty(), "already so");
    let refusal = site.ask_as("bob", drain("c1", 0)).unwrap_err();
    assert_eq!(refusal.reason, "c1 is drained by operator ann: new disk");
    assert_eq!(refusal.hint, "bunraku lb enable c1");
    site.ask_as("bob", Request::Enable { compiler: node("c1") }).unwrap();
    assert!(site.enable("c1").unwrap().is_empty(), "already so");
}

#[test]
fn a_compiler_that_no_balancer_carries_cannot_be_drained() {
    let mut site = Site::new();
    site.enrol(&node("main"), Role::Compiler);
    let refusal = site.drain("main").unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (RefusalCode::NotFound, "no balancer carries main"));
    assert_eq!(site.drain("lb1").unwrap_err().code, RefusalCode::Invalid);
}

#[test]
fn what_others_put_out_of_service_is_not_enabled_and_the_place_is_named() {
    let mut site = Site::new();
    site.balancer("lb2").servers.get_mut(&node("c1")).unwrap().foreign = true;
    site.look();
    let refusal = site.enable("c1").unwrap_err();
    assert!(
        refusal.reason.starts_with("puppet/c1 at lb2 was not put out of service by bunraku"),
        "{refusal}"
    );
    assert_eq!(refusal.hint, "enable it at lb2 itself");
}

#[test]
fn after_a_takeover_nothing_is_told_until_an_operator_asks_and_then_it_counts_as_newer() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.enable("c1").unwrap();
    site.drain("c1").unwrap();
    site.tell_balancers();
    site.term(1000, Some("restored from a backup"));
    site.look();
    assert!(site.steps().is_empty());
    let alarms = site.state.balance_alarms(&site.presence, site.now);
    assert!(alarms[0].contains("drained by operator ann, which this controller does not know"), "{alarms:?}");
    assert!(site.drain("c2").is_ok() && site.drain("c3").is_err(), "c1 still counts as out");
    site.enable("c1").unwrap();
    assert_eq!(site.generation("c1"), Generation(4));
    site.tell_balancers();
    assert!(site.in_service("c1"));
}

#[test]
fn i5_a_balancer_that_has_heard_more_than_is_decided_here_is_left_alone() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.tell_balancers();
    let server = site.balancer("lb1").servers.get_mut(&node("c1")).unwrap();
    server.drained = false;
    let wish = server.wish.as_mut().unwrap();
    (wish.generation, wish.drained) = (Generation(9), false);
    site.look();
    assert!(site.steps().is_empty());
}
