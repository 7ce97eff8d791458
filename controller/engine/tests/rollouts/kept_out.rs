//! The certificate of a compiler that an operator keeps out of service: put in place there, and it stays out.

use bunraku_engine::{CertificatePhase, DrainOwner, RolloutId, TurnPhase};

use crate::{
    certificate::{ask, attempt, phase, rollout, staged},
    site::{Site, everything_is_as_before, node, restart},
};

/// c1 is out, as one that is being added, and its certificate lies there.
fn one_is_kept_out() -> (Site, RolloutId) {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.round();
    assert!(!site.in_service("c1"));
    ask(&mut site, "c1", &["puppet"]).unwrap();
    staged(&mut site, "c1");
    let id = rollout(&site, "c1");
    (site, id)
}

fn owner(site: &Site) -> Option<DrainOwner> {
    site.state.balance()[&node("c1")].owner().cloned()
}

#[test]
fn it_is_put_in_place_while_the_operators_drain_goes_on() {
    let (mut site, id) = one_is_kept_out();
    let before = site.generation("c1");
    site.finish(id);
    assert_eq!(attempt(&site, "c1").phase, CertificatePhase::Done { fingerprint: "fc1".into() });
    assert!(!site.in_service("c1"), "it stays out");
    assert_eq!(site.generation("c1"), before, "no balancer was told anything");
    assert_eq!(owner(&site), Some(DrainOwner::Operator("ann".into())));
    site.enable("c1").unwrap();
    everything_is_as_before(&mut site);
}

#[test]
fn i3_the_floor_is_not_asked_for_one_that_is_out_already() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.round();
    site.balancer("lb1").floor = 2;
    site.look();
    ask(&mut site, "c1", &["puppet"]).unwrap();
    staged(&mut site, "c1");
    let id = rollout(&site, "c1");
    site.finish(id);
    assert_eq!(phase(&site, "c1"), "done");
    assert!(site.in_service("c2") && site.in_service("c3"));
}

#[test]
fn nobody_enables_it_while_it_is_changed() {
    let (mut site, id) = one_is_kept_out();
    site.until(id, "c1", TurnPhase::Acting);
    let refused = site.enable("c1").unwrap_err();
    assert_eq!(refused.reason, format!("rollout {id} changes c1 while it is drained"));
    assert_eq!(refused.hint, format!("bunraku rollout show {id}"));
    site.finish(id);
    site.enable("c1").unwrap();
    everything_is_as_before(&mut site);
}

#[test]
fn one_that_is_enabled_before_its_turn_is_drained_by_the_rollout() {
    let (mut site, id) = one_is_kept_out();
    site.enable("c1").unwrap();
    site.round();
    site.until(id, "c1", TurnPhase::Acting);
    assert_eq!(owner(&site), Some(DrainOwner::Rollout(id)));
    site.finish(id);
    assert_eq!(phase(&site, "c1"), "done");
    everything_is_as_before(&mut site);
}

#[test]
fn what_fails_is_brought_back_and_it_stays_out() {
    let (mut site, id) = one_is_kept_out();
    site.compiler("c1").cannot_act = Some(false);
    site.finish(id);
    assert_eq!(phase(&site, "c1"), "failed");
    assert_eq!(site.compiler("c1").reverts, 1);
    assert!(!site.in_service("c1"));
    assert_eq!(owner(&site), Some(DrainOwner::Operator("ann".into())));
    site.compiler("c1").cannot_act = None;
    ask(&mut site, "c1", &["puppet"]).unwrap();
    staged(&mut site, "c1");
    let again = rollout(&site, "c1");
    site.finish(again);
    site.enable("c1").unwrap();
    everything_is_as_before(&mut site);
}

#[test]
fn any_other_rollout_is_refused_as_before() {
    let mut site = Site::new();
    site.drain("c1").unwrap();
    site.round();
    let mut ask = restart();
    ask.nodes = vec!["c1".to_owned()];
    assert_eq!(site.ask_rollout(ask).unwrap_err().reason, "c1 is drained by operator ann");
}
