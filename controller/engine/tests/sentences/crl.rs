//! Puppet's CRLs: who gets which, what is proven, and who is taken out of service.

use std::collections::BTreeSet;

use bunraku_certificates::{IssuerId, Numbers, Revoked};
use bunraku_common::{Digest, Generation};
use bunraku_engine::{
    CrlEvent, CrlFact, CrlHeld, Event, Fact, Refusal, RefusalCode, Request, SeenCrl, Settings, Step,
};

use crate::desk::{Desk, node};

const YEAR_S: u64 = 365 * 86_400;
const SECOND: u64 = 1_000;

fn issuer(name: &str) -> IssuerId {
    Digest::of(name.as_bytes()).to_string().parse().unwrap()
}

fn certificate(serial: &str) -> Revoked {
    Revoked { issuer: issuer("ca"), serial: serial.to_owned() }
}

/// The CA's file in its `number`th state, which differs from the one before by one certificate.
fn file(number: u64) -> SeenCrl {
    let numbers: Numbers =
        [(issuer("root"), "0".parse().unwrap()), (issuer("ca"), number.to_string().parse().unwrap())]
            .into_iter()
            .collect();
    SeenCrl {
        crl: crl(number),
        numbers,
        ends_s: 10 * YEAR_S,
        ca_ends_s: 20 * YEAR_S,
        half_s: 5 * YEAR_S,
        revoked: number,
        added: 1,
        since: number.checked_sub(1).map(crl),
        canaries: BTreeSet::new(),
        same_content: false,
        written_ms: number,
    }
}

fn crl(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}

fn held(number: u64, generation: u64) -> CrlHeld {
    CrlHeld {
        crl: Some(crl(number)),
        generation: Generation(generation),
        provable: true,
        owed: String::new(),
        unread: String::new(),
    }
}

trait Revoking {
    fn seen(&mut self, file: SeenCrl) -> Vec<Fact>;
    fn holds(&mut self, name: &str, holds: CrlHeld);
    fn canary(&mut self, name: &str);
    fn crl_steps(&self) -> Vec<Step>;
    fn refuses(&mut self, name: &str, generation: u64);
}

impl Revoking for Desk {
    fn seen(&mut self, file: SeenCrl) -> Vec<Fact> {
        self.hear(Event::Crl(CrlEvent::Seen(file)))
    }

    fn holds(&mut self, name: &str, holds: CrlHeld) {
        self.hear(Event::Crl(CrlEvent::OnNode { node: node(name), holds: Some(holds) }));
    }

    fn canary(&mut self, name: &str) {
        let (certificate, ends_s) = (certificate(name), 10 * YEAR_S);
        self.hear(Event::Crl(CrlEvent::CanaryReady { name: name.to_owned(), certificate, ends_s }));
    }

    fn crl_steps(&self) -> Vec<Step> {
        let about = |step: &Step| {
            matches!(
                step,
                Step::InstallCrl { .. }
                    | Step::ProveCrl { .. }
                    | Step::MakeCanary { .. }
                    | Step::RevokeCanary { .. }
                    | Step::ForgetCanary { .. }
            )
        };
        self.steps().into_iter().filter(about).collect()
    }

    fn refuses(&mut self, name: &str, generation: u64) {
        let (node, generation) = (node(name), Generation(generation));
        self.hear(Event::Crl(CrlEvent::Proof { node, generation, refused: Ok(1) }));
    }
}

fn install(name: &str, number: u64, generation: u64, number_reset: bool) -> Step {
    Step::InstallCrl { node: node(name), crl: crl(number), generation: Generation(generation), number_reset }
}

fn prove(name: &str, canary: &str, revoked: u64, generation: u64) -> Step {
    let (revoked, generation) = (Generation(revoked), Generation(generation));
    Step::ProveCrl { node: node(name), canary: canary.to_owned(), revoked, generation }
}

/// Both hold the first file, nothing is proven, and there is no proof.
fn desk() -> Desk {
    let mut desk = Desk::with(&["c1", "c2"]);
    for name in ["c1", "c2"] {
        desk.holds(name, CrlHeld { provable: true, ..CrlHeld::default() });
    }
    desk.seen(file(1));
    assert_eq!(desk.crl_steps(), [install("c1", 1, 1, false), install("c2", 1, 1, false)]);
    for name in ["c1", "c2"] {
        desk.holds(name, held(1, 1));
    }
    assert_eq!(desk.crl_steps(), []);
    desk
}

/// The same with two canaries ready.
fn proving() -> Desk {
    let mut desk = desk();
    let settings = Settings { crl_proof: true, ..Settings::default() };
    desk.hear(Event::Configured { settings });
    assert_eq!(desk.crl_steps(), [Step::MakeCanary { more: 2 }]);
    desk.canary("a");
    desk.canary("b");
    desk
}

#[test]
fn a_change_goes_to_every_node_that_takes_crls_until_it_has_it() {
    let mut desk = desk();
    desk.enrol("c3").unwrap();
    desk.presence.connected(node("c3"));
    desk.seen(file(2));
    assert_eq!(desk.crl_steps(), [install("c1", 2, 2, false), install("c2", 2, 2, false)]);
    desk.holds("c1", held(2, 2));
    assert_eq!(desk.crl_steps(), [install("c2", 2, 2, false)]);
    desk.presence.gone(&node("c2"), desk.now);
    assert_eq!(desk.crl_steps(), []);
    desk.presence.connected(node("c2"));
    assert_eq!(desk.crl_steps(), [install("c2", 2, 2, false)]);
    // One that says that it takes some gets them.
    desk.holds("c3", CrlHeld::default());
    assert_eq!(desk.crl_steps(), [install("c2", 2, 2, false), install("c3", 2, 2, false)]);
    desk.hear(Event::Crl(CrlEvent::OnNode { node: node("c3"), holds: None }));
    assert_eq!(desk.crl_steps(), [install("c2", 2, 2, false)]);
}

#[test]
fn the_same_file_again_is_no_news() {
    let mut desk = desk();
    assert_eq!(desk.seen(file(1)), []);
    let reordered = SeenCrl { crl: crl(99), since: Some(crl(1)), same_content: true, ..file(1) };
    assert_eq!(desk.seen(reordered), []);
}

#[test]
fn i11_a_file_that_goes_backwards_reaches_nobody_until_an_administrator_accepts_it() {
    let mut desk = desk();
    desk.seen(file(5));
    desk.holds("c1", held(5, 2));
    desk.seen(file(3));
    assert_eq!(desk.crl_steps(), [install("c2", 5, 2, false)], "what was sent out stays");
    let alarms = desk.state.crl_alarms(&desk.presence, desk.now, 0).join("\n");
    assert!(alarms.contains("has number 3, and 5 was sent out before"), "{alarms}");
    assert!(alarms.contains("bunraku crl accept --number-reset"), "{alarms}");
    assert_eq!(desk.seen(file(3)), [], "told once");
    desk.ask(Request::AcceptCrl).unwrap();
    assert_eq!(desk.crl_steps(), [install("c1", 3, 3, true), install("c2", 3, 3, true)]);
    desk.holds("c1", held(3, 3));
    // Who was away during the change still goes back; whoever made it does not.
    desk.seen(file(4));
    assert_eq!(desk.crl_steps(), [install("c1", 4, 4, false), install("c2", 4, 4, true)]);
    assert_eq!(desk.state.crl_alarms(&desk.presence, desk.now, 0), Vec::<String>::new());
}

#[test]
fn a_restored_file_ends_the_alarm_by_itself() {
    let mut desk = desk();
    desk.seen(file(5));
    let reason = "it is empty".to_owned();
    desk.hear(Event::Crl(CrlEvent::Unusable { reason, hint: "restore it".to_owned() }));
    let alarms = desk.state.crl_alarms(&desk.presence, desk.now, 0).join("\n");
    assert!(alarms.contains("not sent to anybody: it is empty\nhint: restore it"), "{alarms}");
    let refused = desk.ask(Request::AcceptCrl).unwrap_err();
    assert!(refused.reason.contains("no server could use"), "{refused}");
    desk.seen(file(5));
    assert_eq!(desk.state.crl_alarms(&desk.presence, desk.now, 0), Vec::<String>::new());
    let Refusal { code, .. } = desk.ask(Request::AcceptCrl).unwrap_err();
    assert_eq!(code, RefusalCode::NotFound);
}

#[test]
fn a_file_of_other_authorities_or_of_equal_numbers_is_not_sent() {
    let mut desk = desk();
    let numbers = [(issuer("another"), "7".parse().unwrap())].into_iter().collect();
    desk.seen(SeenCrl { crl: crl(70), numbers, ..file(2) });
    assert!(desk.state.crl_alarms(&desk.presence, desk.now, 0)[0].contains("other authorities"));
    desk.seen(SeenCrl { crl: crl(71), ..file(1) });
    assert!(desk.state.crl_alarms(&desk.presence, desk.now, 0)[0].contains("says something else"));
    assert_eq!(desk.crl_steps(), []);
}

#[test]
fn changes_within_a_second_share_a_canary_and_it_proves_both() {
    let mut desk = proving();
    // The first file was news itself; its canary is chosen at the first look.
    desk.wait(SECOND);
    assert_eq!(desk.crl_steps(), [Step::RevokeCanary { name: "a".into() }, Step::MakeCanary { more: 1 }]);
    desk.canary("c");
    desk.seen(SeenCrl { canaries: ["a".to_owned()].into(), ..file(2) });
    for name in ["c1", "c2"] {
        desk.holds(name, held(2, 2));
    }
    assert_eq!(desk.crl_steps(), [prove("c1", "a", 2, 2), prove("c2", "a", 2, 2)]);
    desk.refuses("c1", 2);
    desk.refuses("c2", 2);
    assert_eq!(desk.crl_steps(), []);

    desk.seen(file(3));
    desk.wait(SECOND - 1);
    desk.seen(file(4));
    assert_eq!(desk.crl_steps(), [install("c1", 4, 4, false), install("c2", 4, 4, false)]);
    desk.wait(1);
    assert!(desk.crl_steps().contains(&Step::RevokeCanary { name: "b".into() }));
    desk.seen(SeenCrl { canaries: ["b".to_owned()].into(), ..file(5) });
    desk.wait(10 * SECOND);
    desk.holds("c1", held(5, 5));
    let steps = desk.crl_steps();
    let wanted = [
        prove("c1", "b", 5, 5),
        install("c2", 5, 5, false),
        Step::ForgetCanary { name: "a".into() },
        Step::MakeCanary { more: 1 },
    ];
    assert_eq!(steps, wanted, "changes that hold only our canaries start no round");
    desk.refuses("c1", 5);
    let proof = desk.state.revocations().nodes[&node("c1")].proof.unwrap();
    assert_eq!((proof.generation, proof.covers.generation), (Generation(5), Generation(4)));
}

#[test]
fn a_change_that_comes_while_a_canary_is_being_revoked_is_covered_by_it_or_gets_its_own() {
    let mut desk = proving();
    desk.wait(SECOND);
    // With the canary in one file.
    desk.seen(SeenCrl { added: 2, canaries: ["a".to_owned()].into(), ..file(2) });
    desk.wait(10 * SECOND);
    assert!(!desk.crl_steps().iter().any(|step| matches!(step, Step::RevokeCanary { .. })));
    // After it.
    desk.seen(file(3));
    desk.wait(SECOND);
    assert!(desk.crl_steps().contains(&Step::RevokeCanary { name: "b".into() }));
    desk.holds("c1", held(3, 3));
    desk.refuses("c1", 2);
    let covers = desk.state.revocations().nodes[&node("c1")].proof.unwrap().covers;
    assert_eq!(covers.generation, Generation(2), "the newer change is not proven by the older canary");
}

#[test]
fn a_canary_that_somebody_else_revokes_proves_as_well() {
    let mut desk = proving();
    desk.seen(SeenCrl { canaries: ["b".to_owned()].into(), ..file(2) });
    desk.holds("c1", held(2, 2));
    assert!(desk.crl_steps().contains(&prove("c1", "b", 2, 2)));
    desk.wait(10 * SECOND);
    assert!(!desk.crl_steps().iter().any(|step| matches!(step, Step::RevokeCanary { .. })));
}

#[test]
fn a_canary_that_ends_soon_is_replaced_and_what_it_proved_is_proven_anew() {
    let mut desk = proving();
    desk.wait(SECOND);
    desk.seen(SeenCrl { canaries: ["a".to_owned()].into(), ..file(2) });
    desk.canary("c");
    desk.holds("c1", held(2, 2));
    desk.refuses("c1", 2);
    for _ in 0..3 {
        desk.hear(Event::Housekeeping { now_s: 10 * YEAR_S - 3_600, now: desk.now });
    }
    let forget = |name: &str| Step::ForgetCanary { name: name.to_owned() };
    let steps = desk.crl_steps();
    let wanted =
        [install("c2", 2, 2, false), forget("a"), forget("b"), forget("c"), Step::MakeCanary { more: 2 }];
    assert_eq!(steps, wanted);
    for name in ["a", "b", "c"] {
        desk.hear(Event::Crl(CrlEvent::CanaryGone { name: name.to_owned() }));
    }
    desk.canary("d");
    desk.wait(SECOND);
    assert!(desk.crl_steps().contains(&Step::RevokeCanary { name: "d".into() }));
}

#[test]
fn without_proof_by_configuration_no_canary_is_made_or_revoked() {
    let mut desk = desk();
    desk.seen(file(2));
    desk.wait(10 * SECOND);
    assert_eq!(desk.crl_steps(), [install("c1", 2, 2, false), install("c2", 2, 2, false)]);
    desk.holds("c1", held(2, 2));
    let known = desk.state.revocations();
    assert!(known.has(&known.nodes[&node("c1")]) && !known.is_proven(&known.nodes[&node("c1")]));
}

fn beside_nobody(number: u64, generation: u64) -> CrlHeld {
    CrlHeld { provable: false, ..held(number, generation) }
}

/// A PuppetDB that must be restarted for every file is restarted once for a revocation, and not once more for its proof.
#[test]
fn what_revokes_a_canary_alone_goes_only_where_a_puppet_server_can_be_asked() {
    let mut desk = proving();
    desk.holds("c2", beside_nobody(1, 1));
    desk.seen(file(2));
    assert!(desk.crl_steps().contains(&install("c2", 2, 2, false)), "somebody else's change goes everywhere");
    desk.holds("c2", beside_nobody(2, 2));
    desk.wait(SECOND);
    desk.seen(SeenCrl { canaries: ["a".to_owned()].into(), ..file(3) });
    let installs = |desk: &Desk| -> Vec<Step> {
        desk.crl_steps().into_iter().filter(|step| matches!(step, Step::InstallCrl { .. })).collect()
    };
    assert_eq!(installs(&desk), [install("c1", 3, 3, false)]);
    let known = desk.state.revocations();
    assert!(known.has(&known.nodes[&node("c2")]), "it lacks nothing");
    // The CA made its CRL anew, with a later end.
    desk.seen(SeenCrl { added: 0, ..file(4) });
    assert!(installs(&desk).contains(&install("c2", 4, 4, false)));
}

/// Regression: a node that had obeyed a journal with higher numbers was never sent what this one wants.
#[test]
fn a_node_without_a_puppet_server_whose_numbers_are_another_journals_is_sent_what_it_lacks() {
    let mut desk = desk();
    desk.seen(file(2));
    desk.holds("c2", beside_nobody(1, 10));
    assert!(desk.crl_steps().contains(&install("c2", 2, 2, false)), "{:?}", desk.crl_steps());
    desk.holds("c2", beside_nobody(2, 10));
    assert!(!desk.crl_steps().contains(&install("c2", 2, 2, false)), "it has that file");
}

#[test]
fn a_service_that_has_not_read_its_file_for_long_is_an_alarm_and_no_reason_to_drain() {
    let mut desk = desk();
    let unread = "puppetdb has not read its file yet: it is about to be told";
    desk.holds("c1", CrlHeld { unread: unread.into(), ..held(1, 1) });
    let alarms = |desk: &Desk| desk.state.crl_alarms(&desk.presence, desk.now, 0);
    desk.wait(60 * SECOND);
    assert_eq!(alarms(&desk), [""; 0], "PuppetDB needs half a minute");
    desk.wait(30 * SECOND);
    assert_eq!(alarms(&desk), [format!("on c1, for 90 s: {unread}\nhint: bunraku crl status")]);
    desk.holds("c1", held(1, 1));
    assert_eq!(alarms(&desk), [""; 0]);
}

#[test]
fn where_no_puppet_server_can_be_asked_no_canary_is_revoked() {
    let mut desk = proving();
    for name in ["c1", "c2"] {
        desk.holds(name, beside_nobody(1, 1));
    }
    desk.seen(file(2));
    desk.wait(10 * SECOND);
    let revokes = |desk: &Desk| desk.crl_steps().iter().any(|step| matches!(step, Step::RevokeCanary { .. }));
    assert!(!revokes(&desk));
    assert_eq!(desk.state.deadline(&desk.presence), None, "nothing is waited for");
    desk.holds("c1", held(1, 1));
    desk.wait(0);
    assert!(revokes(&desk), "as soon as one can");
}

#[test]
fn what_is_not_proven_is_an_alarm_and_the_same_excuse_is_journalled_once() {
    let mut desk = proving();
    desk.wait(SECOND);
    desk.seen(SeenCrl { canaries: ["a".to_owned()].into(), ..file(2) });
    desk.holds("c1", held(2, 2));
    let excuse = |desk: &mut Desk| {
        let refused = Err("it lets the canary in".to_owned());
        desk.hear(Event::Crl(CrlEvent::Proof { node: node("c1"), generation: Generation(2), refused }))
    };
    assert_eq!(excuse(&mut desk).len(), 1);
    assert_eq!(excuse(&mut desk), []);
    let alarms = desk.state.crl_alarms(&desk.presence, desk.now, 0).join("\n");
    assert!(
        alarms.contains("not proven that c1 refuses") && alarms.contains("lets the canary in"),
        "{alarms}"
    );
    desk.refuses("c1", 2);
    assert_eq!(desk.state.crl_alarms(&desk.presence, desk.now, 0), Vec::<String>::new());
}

#[test]
fn a_node_whose_file_is_not_right_is_an_alarm_after_a_while() {
    let mut desk = desk();
    desk.holds("c1", CrlHeld { owed: "crl.pem: read-only file system".into(), ..held(1, 1) });
    assert_eq!(desk.state.crl_alarms(&desk.presence, desk.now, 0), Vec::<String>::new());
    desk.now += 11 * SECOND;
    let alarms = desk.state.crl_alarms(&desk.presence, desk.now, 0).join("\n");
    assert!(alarms.contains("c1 lacks what") && alarms.contains("read-only file system"), "{alarms}");
    desk.holds("c1", held(1, 1));
    assert_eq!(desk.state.crl_alarms(&desk.presence, desk.now, 0), Vec::<String>::new());
}

#[test]
fn t17_an_ending_crl_or_ca_is_an_alarm_long_before() {
    let desk = desk();
    let alarms = |years: u64| desk.state.crl_alarms(&desk.presence, desk.now, years * YEAR_S).join("\n");
    assert_eq!(alarms(4), "");
    assert!(alarms(5).contains("CRL ends in 1825 days, and no newer one has come"), "{}", alarms(5));
    assert!(
        alarms(10).contains("CRL has ended: servers that read it anew refuse everybody"),
        "{}",
        alarms(10)
    );
    assert!(alarms(20).contains("CA certificate ends in 0 days"), "{}", alarms(20));
}

/// Regression: a rebuilt host counted as proven though nobody had asked its Puppet Server anything.
#[test]
fn what_was_proven_of_a_host_is_not_true_of_another_one_with_its_name() {
    let mut desk = proving();
    desk.wait(SECOND);
    desk.seen(SeenCrl { canaries: ["a".to_owned()].into(), ..file(2) });
    desk.holds("c1", held(2, 2));
    desk.refuses("c1", 2);
    let is_proven = |desk: &Desk| {
        let known = desk.state.revocations();
        known.nodes.get(&node("c1")).is_some_and(|on_node| known.is_proven(on_node))
    };
    assert!(is_proven(&desk));
    desk.enrol("c1").unwrap();
    desk.holds("c1", CrlHeld { provable: true, ..CrlHeld::default() });
    assert!(!is_proven(&desk));
    desk.holds("c1", held(2, 2));
    assert!(desk.crl_steps().contains(&prove("c1", "a", 2, 2)));
    // The same without an enrolment: its files were removed.
    desk.refuses("c1", 2);
    desk.holds("c1", CrlHeld { provable: true, ..CrlHeld::default() });
    assert!(!is_proven(&desk));
}

#[test]
fn a_connected_compiler_that_takes_no_crls_is_an_alarm() {
    let mut desk = desk();
    desk.enrol("c3").unwrap();
    assert_eq!(desk.state.crl_alarms(&desk.presence, desk.now, 0), Vec::<String>::new());
    desk.presence.connected(node("c3"));
    let alarms = desk.state.crl_alarms(&desk.presence, desk.now, 0);
    assert!(alarms[0].starts_with("c3 takes no CRLs") && alarms.len() == 1, "{alarms:?}");
}

#[test]
fn a_removed_node_is_forgotten() {
    let mut desk = desk();
    desk.ask(Request::RemoveNode { node: node("c1") }).unwrap();
    assert!(!desk.state.revocations().nodes.contains_key(&node("c1")));
    desk.holds("c1", held(1, 1));
    assert!(!desk.state.revocations().nodes.contains_key(&node("c1")), "it is no node any more");
}

#[test]
fn the_facts_survive_the_journal() {
    let fact = Fact::Crl(CrlFact::Wanted {
        seen: Box::new(file(3)),
        generation: Generation(7),
        news: true,
        by: None,
    });
    let text = serde_json::to_string(&fact).unwrap();
    assert!(text.starts_with(r#"{"fact":"crl","crl":"wanted""#), "{text}");
    assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
    let over = Fact::Crl(CrlFact::RejectionOver);
    assert_eq!(serde_json::from_str::<Fact>(&serde_json::to_string(&over).unwrap()).unwrap(), over);
}
