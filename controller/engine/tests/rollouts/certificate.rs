//! Compilers' Puppet certificates, from the request to the proof, one sentence a test.

use std::collections::BTreeSet;

use bunraku_common::Generation;
use bunraku_engine::{
    Action, CertificateEvent, CertificatePhase, Event, Fact, HostCertificate, Refusal, Request, RolloutId,
    Step, TurnPhase, certificate::Attempt,
};

use crate::site::{Site, everything_is_as_before, node};

const DAY_S: u64 = 86_400;
const MINUTE: u64 = 60_000;

pub(crate) fn ask(site: &mut Site, name: &str, names: &[&str]) -> Result<Vec<Fact>, Refusal> {
    let alt_names = names.iter().map(|name| (*name).to_owned()).collect();
    site.ask(Request::Certificate { node: node(name), alt_names })
}

fn hear(site: &mut Site, event: CertificateEvent) {
    site.hear(Event::Certificate(event));
}

pub(crate) fn attempt(site: &Site, name: &str) -> Attempt {
    site.state.certificates().nodes[&node(name)].attempt.clone().unwrap()
}

pub(crate) fn phase(site: &Site, name: &str) -> &'static str {
    attempt(site, name).phase.name()
}

fn steps(site: &Site) -> Vec<Step> {
    let about = |step: &Step| {
        matches!(
            step,
            Step::RequestCertificate { .. } | Step::SignCertificate { .. } | Step::StageCertificate { .. }
        )
    };
    site.steps().into_iter().filter(about).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Until it lies on the node.
pub(crate) fn staged(site: &mut Site, name: &str) {
    let generation = attempt(site, name).generation;
    let node = node(name);
    let request = format!("request of {name}");
    let fingerprint = format!("r{name}");
    hear(site, CertificateEvent::Requested { node: node.clone(), generation, request, fingerprint });
    let (certificate, fingerprint) = (format!("certificate of {name}"), format!("f{name}"));
    hear(site, CertificateEvent::Signed { node: node.clone(), generation, certificate, fingerprint });
    hear(site, CertificateEvent::Staged { node, generation });
}

pub(crate) fn rollout(site: &Site, name: &str) -> RolloutId {
    match attempt(site, name).phase {
        CertificatePhase::Installing { rollout, .. } => rollout,
        other => panic!("{other:?}"),
    }
}

/// What a node has that ends in so many days, of a certificate of a year.
fn host(site: &mut Site, name: &str, ends_in: u64, now_s: u64) {
    let host = HostCertificate {
        fingerprint: format!("old {name}"),
        serial: "7".into(),
        alt_names: names(&["DNS:puppet.example"]),
        not_before_s: now_s + ends_in * DAY_S - 365 * DAY_S,
        not_after_s: now_s + ends_in * DAY_S,
    };
    hear(site, CertificateEvent::Host { node: node(name), host: Some(host) });
}

fn housekeeping(site: &mut Site, now_s: u64) {
    let now = site.now;
    site.hear(Event::Housekeeping { now_s, now });
}

#[test]
fn a_certificate_is_requested_signed_staged_and_put_in_place_by_a_rollout_of_one() {
    let mut site = Site::new();
    host(&mut site, "c1", 300, 1_800_000_000);
    ask(&mut site, "c1", &["puppet.example", "DNS:puppet", "c1"]).unwrap();
    let declared = names(&["DNS:puppet", "DNS:puppet.example"]);
    let generation = Generation(1);
    assert_eq!(
        steps(&site),
        [Step::RequestCertificate { node: node("c1"), generation, alt_names: declared.clone() }]
    );
    hear(
        &mut site,
        CertificateEvent::Requested {
            node: node("c1"),
            generation,
            request: "csr".into(),
            fingerprint: "rc1".into(),
        },
    );
    let sign = Step::SignCertificate {
        certname: node("c1"),
        generation,
        alt_names: declared,
        request: "csr".into(),
        ours: names(&["old c1", "rc1"]),
    };
    assert_eq!(steps(&site), [sign]);
    let (certificate, fingerprint) = ("pem".to_owned(), "fc1".to_owned());
    hear(&mut site, CertificateEvent::Signed { node: node("c1"), generation, certificate, fingerprint });
    assert_eq!(
        steps(&site),
        [Step::StageCertificate { node: node("c1"), generation, certificate: "pem".into() }]
    );
    hear(&mut site, CertificateEvent::Staged { node: node("c1"), generation });
    let id = rollout(&site, "c1");
    assert_eq!(site.rollout(id).action, Action::Certificate { certificate: "fc1".into() });
    assert_eq!(site.rollout(id).turns.keys().collect::<Vec<_>>(), [&node("c1")]);
    site.until(id, "c1", TurnPhase::Acting);
    assert!(!site.in_service("c1"), "drained");
    site.finish(id);
    assert_eq!(attempt(&site, "c1").phase, CertificatePhase::Done { fingerprint: "fc1".into() });
    everything_is_as_before(&mut site);
}

#[test]
fn what_comes_late_or_of_an_earlier_attempt_is_no_news() {
    let mut site = Site::new();
    ask(&mut site, "c1", &[]).unwrap();
    let failed = |generation: u64| CertificateEvent::Failed {
        node: node("c1"),
        generation: Generation(generation),
        reason: "no".into(),
        hint: String::new(),
    };
    hear(&mut site, failed(2));
    assert_eq!(phase(&site, "c1"), "requesting");
    hear(&mut site, failed(1));
    assert_eq!(phase(&site, "c1"), "failed");
    ask(&mut site, "c1", &[]).unwrap();
    let before = site.facts();
    hear(&mut site, failed(1));
    hear(&mut site, CertificateEvent::Staged { node: node("c1"), generation: Generation(2) });
    assert_eq!(site.facts(), before);
    assert_eq!(phase(&site, "c1"), "requesting");
}

#[test]
fn the_same_request_again_joins_and_another_one_is_refused_until_the_first_has_ended() {
    let mut site = Site::new();
    ask(&mut site, "c1", &["puppet"]).unwrap();
    assert_eq!(ask(&mut site, "c1", &["puppet"]).unwrap(), []);
    assert_eq!(ask(&mut site, "c1", &[]).unwrap(), [], "what was declared before");
    let refused = ask(&mut site, "c1", &["puppet.example"]).unwrap_err();
    assert_eq!(refused.reason, "another certificate of c1 is requesting already");
}

#[test]
fn names_that_no_certificate_may_carry_and_hosts_that_are_no_compilers_are_refused() {
    let mut site = Site::new();
    for bad in ["*.example", "IP:10.0.0.1", "Puppet", "a b", "", "a;b", "../x"] {
        let refused = ask(&mut site, "c1", &[bad]).unwrap_err();
        assert!(refused.hint.contains("--dns-alt-names"), "{bad}: {refused}");
    }
    let many: Vec<String> = (0..65).map(|number| format!("n{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(ask(&mut site, "c1", &many).unwrap_err().reason.contains("64 are the most"));
    assert!(ask(&mut site, "lb1", &[]).unwrap_err().reason.contains("no compiler"));
    assert!(ask(&mut site, "c9", &[]).is_err());
}

#[test]
fn a_failed_installation_is_brought_back_ends_its_rollout_and_makes_room_for_another() {
    let mut site = Site::new();
    ask(&mut site, "c1", &["puppet"]).unwrap();
    staged(&mut site, "c1");
    let id = rollout(&site, "c1");
    site.compiler("c1").cannot_act = Some(false);
    site.finish(id);
    let CertificatePhase::Failed { reason, .. } = attempt(&site, "c1").phase else {
        panic!("{}", site.story())
    };
    assert!(reason.contains("the restart failed"), "{reason}");
    assert_eq!(site.compiler("c1").reverts, 1);
    site.compiler("c1").cannot_act = None;
    ask(&mut site, "c1", &["puppet"]).unwrap();
    staged(&mut site, "c1");
    let again = rollout(&site, "c1");
    site.finish(again);
    assert_eq!(phase(&site, "c1"), "done");
    everything_is_as_before(&mut site);
}

/// Regression: what a failed attempt had left at Puppet's CA was taken for somebody else's, and every later one failed.
#[test]
fn what_attempts_have_left_at_the_ca_is_ours_to_be_forgotten() {
    let mut site = Site::new();
    host(&mut site, "c1", 300, 1_800_000_000);
    ask(&mut site, "c1", &["puppet"]).unwrap();
    let fail = |site: &mut Site| {
        let generation = attempt(site, "c1").generation;
        let (reason, hint) = ("no".to_owned(), String::new());
        hear(site, CertificateEvent::Failed { node: node("c1"), generation, reason, hint });
    };
    staged(&mut site, "c1");
    fail(&mut site);
    ask(&mut site, "c1", &["puppet"]).unwrap();
    let generation = attempt(&site, "c1").generation;
    let (request, fingerprint) = ("csr".to_owned(), "r2".to_owned());
    hear(&mut site, CertificateEvent::Requested { node: node("c1"), generation, request, fingerprint });
    let ours = |site: &Site| match &steps(site)[..] {
        [Step::SignCertificate { ours, .. }] => ours.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(ours(&site), names(&["old c1", "rc1", "fc1", "r2"]));
    // A node that cannot tell what it has at the moment has not lost it.
    hear(&mut site, CertificateEvent::Host { node: node("c1"), host: None });
    assert!(ours(&site).contains("old c1"));
}

#[test]
fn two_certificates_are_put_in_place_one_after_the_other() {
    let mut site = Site::new();
    for name in ["c1", "c2"] {
        ask(&mut site, name, &["puppet"]).unwrap();
        staged(&mut site, name);
    }
    let first = rollout(&site, "c1");
    assert_eq!(phase(&site, "c2"), "ready");
    site.finish(first);
    site.round();
    let second = rollout(&site, "c2");
    site.finish(second);
    assert_eq!((phase(&site, "c1"), phase(&site, "c2")), ("done", "done"));
}

#[test]
fn i3_one_that_may_not_be_drained_waits_with_the_reason_and_goes_on_when_it_may() {
    let mut site = Site::new();
    site.drain("c2").unwrap();
    site.tell_balancers();
    site.look();
    site.balancer("lb1").floor = 2;
    site.look();
    ask(&mut site, "c1", &["puppet"]).unwrap();
    staged(&mut site, "c1");
    for _round in 0..5 {
        site.round();
    }
    assert!(site.in_service("c1"));
    site.enable("c2").unwrap();
    for _round in 0..5 {
        site.round();
    }
    let id = rollout(&site, "c1");
    site.finish(id);
    assert_eq!(phase(&site, "c1"), "done");
}

#[test]
fn i7_an_attempt_that_nobody_answers_ends_with_its_trouble() {
    let mut site = Site::new();
    ask(&mut site, "c1", &["puppet"]).unwrap();
    let (node, generation) = (node("c1"), Generation(1));
    hear(
        &mut site,
        CertificateEvent::Requested {
            node: node.clone(),
            generation,
            request: "csr".into(),
            fingerprint: "rc1".into(),
        },
    );
    let reason = "Puppet Server does not answer".to_owned();
    hear(&mut site, CertificateEvent::Trouble { node, generation, reason });
    site.wait(14 * MINUTE);
    assert_eq!(phase(&site, "c1"), "signing");
    site.wait(MINUTE);
    let CertificatePhase::Failed { reason, hint } = attempt(&site, "c1").phase else { panic!() };
    assert_eq!(reason, "it was signing for 15 min: Puppet Server does not answer");
    assert_eq!(hint, "bunraku cert request c1");
}

#[test]
fn what_was_declared_is_renewed_in_time_one_at_a_time_and_what_was_not_is_left_alone() {
    let mut site = Site::new();
    let now_s = 1_800_000_000;
    for (name, days) in [("c1", 40), ("c2", 20), ("c3", 10)] {
        host(&mut site, name, days, now_s);
    }
    for name in ["c1", "c2"] {
        ask(&mut site, name, &["puppet"]).unwrap();
        staged(&mut site, name);
        site.round();
        let id = rollout(&site, name);
        site.finish(id);
    }
    let alarms = site.state.certificate_alarms(now_s);
    assert_eq!(alarms.len(), 2, "{alarms:?}");
    assert!(
        alarms[0].starts_with("the Puppet certificate of c2 ends in 20 days\nhint: bunraku cert"),
        "{alarms:?}"
    );
    housekeeping(&mut site, now_s);
    assert_eq!(phase(&site, "c2"), "done", "a day has not passed since it was tried");
    site.wait(25 * 60 * MINUTE);
    site.look();
    housekeeping(&mut site, now_s);
    assert_eq!((phase(&site, "c1"), phase(&site, "c2")), ("done", "requesting"), "the one that ends first");
    assert_eq!(attempt(&site, "c2").who, "renewal");
    assert!(site.state.certificates().nodes[&node("c3")].attempt.is_none(), "nobody declared anything");
    staged(&mut site, "c2");
    site.round();
    let id = rollout(&site, "c2");
    site.finish(id);
    host(&mut site, "c2", 365, now_s);
    housekeeping(&mut site, now_s);
    assert_eq!(phase(&site, "c1"), "requesting");
}
