//! Compilers that cannot follow a deploy, under the policy `drain`, one sentence a test.

use bunraku_common::{Digest, EnvironmentName};
use bunraku_engine::{Built, DeployId, DrainOwner, Event, Fact, Fault, Outcome, Phase, Request, Step};

use crate::site::{Site, drain, node};

/// Asked for and built; c1 and c3 have staged it.
fn staged_on_all_but_c2(site: &mut Site) -> DeployId {
    let environment = EnvironmentName::parse("production").unwrap();
    let request =
        Request::Deploy { environment, branch: "production".into(), commit: None, plan: false, policy: None };
    let deploy = Fact::accepted(&site.ask(request).unwrap()).unwrap();
    let built = Built { snapshot: Digest::of(b"a"), commit: None, generate_types: false, stale_ruby: false };
    site.hear(Event::BuildDone { deploy, built });
    ["c1", "c3"].iter().for_each(|name| site.hear(Event::Staged { deploy, node: node(name) }));
    deploy
}

fn c2_is_cut_off(site: &mut Site) {
    site.presence.gone(&node("c2"), site.now);
    site.now += site.state.settings().unreachable;
    site.look();
}

fn disk_full(deploy: DeployId) -> Event {
    let (node, reason) = (node("c2"), "no space left".to_owned());
    Event::StageFailed { deploy, node, fault: Fault::Node, reason, hint: "df".into() }
}

fn outcome(site: &Site, deploy: DeployId) -> Option<&Outcome> {
    match &site.state.deploys()[&deploy].phase {
        Phase::Ended { outcome, .. } => Some(outcome),
        _ => None,
    }
}

fn owner(site: &Site, name: &str) -> Option<DrainOwner> {
    site.state.balance().get(&node(name)).and_then(|balance| balance.owner()).cloned()
}

fn balancers_hear(site: &mut Site) {
    site.tell_balancers();
    site.now += 1;
    site.look();
}

fn stays_behind_out_of_service(site: &mut Site, deploy: DeployId) {
    assert_eq!(owner(site, "c2"), Some(DrainOwner::Deploy(deploy)));
    assert!(outcome(site, deploy).is_none(), "it waits for the drain");
    assert!(matches!(site.state.deploys()[&deploy].phase, Phase::Staging { .. }));
    balancers_hear(site);
    assert!(matches!(site.state.deploys()[&deploy].phase, Phase::Committing { .. }));
    ["c1", "c3"].iter().for_each(|name| site.prove(name));
    let Some(Outcome::Behind { nodes, .. }) = outcome(site, deploy) else { panic!() };
    assert_eq!(nodes.iter().collect::<Vec<_>>(), [&node("c2")]);
    assert!(!site.in_service("c2"));
    let alarms = site.alarms();
    assert!(alarms.iter().any(|alarm| alarm.contains("until it serves what is committed")), "{alarms:?}");
}

fn comes_back_when_it_follows(site: &mut Site) {
    site.connect_all();
    balancers_hear(site);
    assert!(!site.in_service("c2"), "it has not followed yet");
    assert!(
        site.steps().iter().any(|step| matches!(step, Step::Bring { .. } | Step::Commit { .. })),
        "{:?}",
        site.steps()
    );
    site.prove("c2");
    balancers_hear(site);
    assert!(site.in_service("c2"));
    assert_eq!(site.alarms(), [""; 0]);
}

#[test]
fn i2_a_compiler_that_is_away_is_drained_before_the_commit_and_comes_back_when_it_is_proven() {
    let mut site = Site::new();
    let deploy = staged_on_all_but_c2(&mut site);
    c2_is_cut_off(&mut site);
    stays_behind_out_of_service(&mut site, deploy);
    comes_back_when_it_follows(&mut site);
}

#[test]
fn i2_a_compiler_that_says_it_cannot_stage_is_drained_before_the_commit() {
    let mut site = Site::new();
    let deploy = staged_on_all_but_c2(&mut site);
    site.hear(disk_full(deploy));
    stays_behind_out_of_service(&mut site, deploy);
    comes_back_when_it_follows(&mut site);
}

#[test]
fn i3_where_the_floor_forbids_the_drain_the_deploy_is_abandoned_and_nothing_is_drained() {
    let mut site = Site::new();
    site.balancer("lb2").floor = 3;
    site.look();
    let deploy = staged_on_all_but_c2(&mut site);
    site.hear(disk_full(deploy));
    let Some(Outcome::Abandoned { reason, .. }) = outcome(&site, deploy) else { panic!() };
    assert!(
        reason.starts_with("c2 could not stage: no space left, and c2 cannot be drained: without c2"),
        "{reason}"
    );
    assert!(site.in_service("c2"));
    assert_eq!(owner(&site, "c2"), None);
}

#[test]
fn a_balancer_that_does_not_agree_in_time_ends_the_deploy_and_the_drain() {
    let mut site = Site::new();
    let deploy = staged_on_all_but_c2(&mut site);
    site.hear(disk_full(deploy));
    assert_eq!(owner(&site, "c2"), Some(DrainOwner::Deploy(deploy)));
    site.wait(site.state.settings().balance_deadline);
    let Some(Outcome::Abandoned { reason, .. }) = outcome(&site, deploy) else { panic!() };
    assert!(reason.contains("its drain was undone"), "{reason}");
    balancers_hear(&mut site);
    assert!(site.in_service("c2"));
    assert_eq!(site.state.deadline(&site.presence), None);
}

#[test]
fn what_was_drained_for_a_deploy_that_is_abandoned_comes_back_at_once() {
    let mut site = Site::new();
    site.commit_on_all_but("none");
    let environment = EnvironmentName::parse("production").unwrap();
    let request =
        Request::Deploy { environment, branch: "production".into(), commit: None, plan: false, policy: None };
    let deploy = Fact::accepted(&site.ask(request).unwrap()).unwrap();
    let built = Built { snapshot: Digest::of(b"b"), commit: None, generate_types: false, stale_ruby: false };
    site.hear(Event::BuildDone { deploy, built });
    site.hear(disk_full(deploy));
    balancers_hear(&mut site);
    assert!(!site.in_service("c2"));
    let (reason, hint) = ("a type is broken".to_owned(), String::new());
    site.hear(Event::StageFailed { deploy, node: node("c1"), fault: Fault::Content, reason, hint });
    assert!(matches!(outcome(&site, deploy), Some(Outcome::Abandoned { .. })));
    balancers_hear(&mut site);
    assert!(site.in_service("c2"), "it serves what is committed");
}

#[test]
fn a_straggler_after_the_commit_decision_is_drained_until_it_follows() {
    let mut site = Site::new();
    let deploy = staged_on_all_but_c2(&mut site);
    site.hear(Event::Staged { deploy, node: node("c2") });
    assert!(matches!(site.state.deploys()[&deploy].phase, Phase::Committing { .. }));
    c2_is_cut_off(&mut site);
    assert_eq!(owner(&site, "c2"), Some(DrainOwner::Deploy(deploy)));
    balancers_hear(&mut site);
    ["c1", "c3"].iter().for_each(|name| site.prove(name));
    comes_back_when_it_follows(&mut site);
}

#[test]
fn i3_two_stragglers_never_go_where_only_one_may() {
    let mut site = Site::new();
    ["lb1", "lb2"].iter().for_each(|name| site.balancer(name).floor = 2);
    site.look();
    let deploy = staged_on_all_but_c2(&mut site);
    site.hear(Event::Staged { deploy, node: node("c2") });
    ["c2", "c3"].iter().for_each(|name| site.presence.gone(&node(name), site.now));
    site.now += site.state.settings().unreachable;
    site.look();
    balancers_hear(&mut site);
    assert_eq!((owner(&site, "c2").is_some(), owner(&site, "c3").is_some()), (true, false));
}

#[test]
fn an_operator_may_enable_it_with_the_old_code_and_has_the_last_word() {
    let mut site = Site::new();
    let deploy = staged_on_all_but_c2(&mut site);
    c2_is_cut_off(&mut site);
    stays_behind_out_of_service(&mut site, deploy);
    site.enable("c2").unwrap();
    balancers_hear(&mut site);
    balancers_hear(&mut site);
    assert!(site.in_service("c2"));
}

#[test]
fn one_that_an_operator_has_drained_stays_with_the_operator() {
    let mut site = Site::new();
    site.ask(drain("c2", 0)).unwrap();
    balancers_hear(&mut site);
    let deploy = staged_on_all_but_c2(&mut site);
    site.hear(disk_full(deploy));
    assert!(matches!(site.state.deploys()[&deploy].phase, Phase::Committing { .. }));
    ["c1", "c2", "c3"].iter().for_each(|name| site.prove(name));
    balancers_hear(&mut site);
    assert!(!site.in_service("c2"));
}
