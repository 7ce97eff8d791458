//! Random histories of Puppet's CRLs: a CA that revokes, nodes that come and go, a controller that is killed, files that
//! go back. What always holds is asked after each step, and that everything is proven once the faults stop.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "the whole program is a test")]

use std::collections::{BTreeMap, BTreeSet};

use bunraku_certificates::{IssuerId, Revoked};
use bunraku_common::{Digest, Generation, NodeName, Role, Term};
use bunraku_engine::{
    CrlEvent, CrlHeld, EnrolledBy, Event, Fact, Millis, Presence, SeenCrl, Settings, State, Step,
};
use proptest::prelude::*;

const NODES: [&str; 3] = ["c1", "c2", "lb1"];
const CANARIES: usize = 2;

#[derive(Clone, Debug)]
enum Operation {
    /// Somebody's certificate is revoked.
    Revoke,
    /// The CA's file is an old one for a while.
    GoesBack,
    Away(usize),
    Back(usize),
    /// One of the steps is done, and its answer heard.
    Do(usize),
    /// One is done, and its answer lost.
    Lose(usize),
    /// The controller reads its journal again.
    Restart,
    Wait(Millis),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => Just(Operation::Revoke),
        1 => Just(Operation::GoesBack),
        1 => (0..NODES.len()).prop_map(Operation::Away),
        2 => (0..NODES.len()).prop_map(Operation::Back),
        12 => (0..10_usize).prop_map(Operation::Do),
        2 => (0..10_usize).prop_map(Operation::Lose),
        1 => Just(Operation::Restart),
        4 => (1..2_000_u64).prop_map(Operation::Wait),
    ]
}

/// A CA with everything that it ever wrote: what each file revokes.
#[derive(Default)]
struct Ca {
    files: Vec<BTreeSet<String>>,
    foreign: usize,
    made: usize,
}

struct World {
    state: State,
    presence: Presence,
    now: Millis,
    journal: Vec<(Fact, Millis)>,
    ca: Ca,
    /// What each node keeps in place: the number of the file, and the order.
    held: BTreeMap<NodeName, (Option<usize>, Generation)>,
    chosen: usize,
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn issuer() -> IssuerId {
    Digest::of(b"ca").to_string().parse().unwrap()
}

fn digest(file: usize) -> Digest {
    Digest::of(&file.to_le_bytes())
}

impl World {
    fn new() -> Self {
        let ca = Ca { files: vec![BTreeSet::new()], ..Ca::default() };
        let (state, presence, held) = (State::default(), Presence::new(0), BTreeMap::new());
        let mut world = Self { state, presence, now: 0, journal: Vec::new(), ca, held, chosen: 0 };
        world.apply(vec![Fact::TermBegan { term: Term { number: 1, id: 1 }, takeover: None }]);
        let settings = Settings { crl_proof: true, crl_canaries: CANARIES, ..Settings::default() };
        world.hear(Event::Configured { settings });
        for name in NODES {
            world.apply(vec![Fact::NodeEnrolled {
                node: node(name),
                roles: [if name == "lb1" { Role::LoadBalancer } else { Role::Compiler }].into(),
                serial: name.into(),
                key: name.into(),
                by: EnrolledBy::Token { id: "t".into() },
                expires_s: 1,
            }]);
            world.held.insert(node(name), (None, Generation::default()));
            world.back(name);
        }
        world.look();
        world
    }

    fn hear(&mut self, event: Event) {
        let facts = self.state.observe(event, &self.presence);
        self.apply(facts);
        loop {
            let due = self.state.due(Some(&self.presence), self.now);
            if due.is_empty() {
                return;
            }
            self.apply(due);
        }
    }

    fn apply(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            let before = self.number();
            self.chosen += usize::from(fact.kind() == "canary-chosen");
            self.state.apply(&fact, self.now);
            assert!(before <= self.number(), "I11: from {before:?} to {:?} by {fact}", self.number());
            self.journal.push((fact, self.now));
        }
    }

    /// Of the file that is wanted.
    fn number(&self) -> Option<usize> {
        let wanted = self.state.revocations().wanted.as_ref()?.crl;
        (0..self.ca.files.len()).find(|file| digest(*file) == wanted)
    }

    /// The controller reads the CA's newest file.
    fn look(&mut self) {
        self.look_at(self.ca.files.len() - 1);
    }

    fn look_at(&mut self, file: usize) {
        let revoked = &self.ca.files[file];
        let since = self.number();
        let before = since.map(|since| &self.ca.files[since]);
        let added =
            revoked.iter().filter(|name| !before.is_some_and(|before| before.contains(*name))).count();
        let known = self.state.revocations();
        let open = known.canaries.iter().filter(|(_, canary)| !canary.is_spent());
        let canaries =
            open.filter(|(name, _)| revoked.contains(*name)).map(|(name, _)| name.clone()).collect();
        let seen = SeenCrl {
            crl: digest(file),
            numbers: [(issuer(), file.to_string().parse().unwrap())].into_iter().collect(),
            ends_s: u64::MAX,
            ca_ends_s: u64::MAX,
            half_s: u64::MAX,
            revoked: revoked.len() as u64,
            added: added as u64,
            since: since.map(digest),
            canaries,
            same_content: false,
            written_ms: self.now,
        };
        self.hear(Event::Crl(CrlEvent::Seen(seen)));
    }

    fn revokes(&mut self, name: String) {
        let mut next = self.ca.files.last().unwrap().clone();
        if next.insert(name) {
            self.ca.files.push(next);
        }
    }

    fn says(&mut self, name: &NodeName) {
        let (file, generation) = self.held[name];
        let provable = name.as_str() != "lb1";
        let holds = CrlHeld {
            crl: file.map(digest),
            generation,
            provable,
            owed: String::new(),
            unread: String::new(),
        };
        self.hear(Event::Crl(CrlEvent::OnNode { node: name.clone(), holds: Some(holds) }));
    }

    fn back(&mut self, name: &str) {
        self.presence.connected(node(name));
        self.says(&node(name));
    }

    fn steps(&self) -> Vec<Step> {
        let known = self.state.revocations();
        let steps = self.state.steps(&self.presence, self.now);
        let chosen = steps.iter().filter(|step| matches!(step, Step::RevokeCanary { .. })).count();
        assert!(chosen <= 1, "one canary at a time: {steps:?}");
        for step in &steps {
            if let Step::ProveCrl { node, canary, revoked, .. } = step {
                let wanted = &self.ca.files[self.number().unwrap()];
                assert!(wanted.contains(canary), "the key of {canary} would leave before its revocation");
                assert!(self.held[node].1 >= *revoked, "{node} does not have what revokes {canary}");
                assert!(known.canaries[canary].is_spent());
            }
        }
        steps
    }

    /// `heard`: whether the answer comes back.
    fn does(&mut self, step: &Step, heard: bool) {
        match step {
            Step::InstallCrl { node, crl, generation, number_reset } => {
                assert!(!number_reset);
                let file = (0..self.ca.files.len()).find(|file| digest(*file) == *crl).unwrap();
                let held = self.held.get_mut(node).unwrap();
                assert!(held.0.is_none_or(|before| before <= file), "I11: {node} would go back");
                *held = (Some(file), *generation);
                if heard {
                    self.says(&node.clone());
                }
            }
            Step::ProveCrl { node, revoked, .. } if heard => {
                let (node, generation) = (node.clone(), *revoked);
                self.hear(Event::Crl(CrlEvent::Proof { node, generation, refused: Ok(self.now) }));
            }
            Step::MakeCanary { .. } if heard => {
                self.ca.made += 1;
                let name = format!("canary {}", self.ca.made);
                let certificate = Revoked { issuer: issuer(), serial: name.clone() };
                self.hear(Event::Crl(CrlEvent::CanaryReady { name, certificate, ends_s: u64::MAX }));
            }
            Step::RevokeCanary { name } => {
                self.revokes(name.clone());
                if heard {
                    self.look();
                }
            }
            Step::ForgetCanary { name } if heard => {
                self.hear(Event::Crl(CrlEvent::CanaryGone { name: name.clone() }));
            }
            _ => {}
        }
    }

    fn run(&mut self, operation: &Operation) {
        match operation {
            Operation::Revoke => {
                self.ca.foreign += 1;
                self.revokes(format!("agent {}", self.ca.foreign));
                self.look();
            }
            Operation::GoesBack => {
                self.look_at(self.ca.files.len() / 2);
                self.look();
            }
            Operation::Away(which) => self.presence.gone(&node(NODES[*which]), self.now),
            Operation::Back(which) => self.back(NODES[*which]),
            Operation::Do(which) | Operation::Lose(which) => {
                let steps = self.steps();
                if let Some(step) = steps.get(which % steps.len().max(1)) {
                    self.does(step, matches!(operation, Operation::Do(_)));
                }
            }
            Operation::Restart => {
                let mut state = State::default();
                self.journal.iter().for_each(|(fact, at)| state.apply(fact, *at));
                assert_eq!(state, self.state, "a replay gives the same state");
                self.presence = Presence::new(self.now);
                self.look();
            }
            Operation::Wait(ms) => {
                self.now += ms;
                self.hear(Event::Tick);
            }
        }
        self.steps();
    }

    /// No faults any more: everything is delivered and proven, and then it is quiet.
    fn calms_down(&mut self) {
        self.look();
        NODES.iter().for_each(|name| self.back(name));
        for _round in 0..100 {
            for step in self.steps() {
                // An answer before it may have made it needless.
                if self.steps().iter().any(|still| still.id() == step.id()) {
                    self.does(&step, true);
                }
            }
            self.now += 200;
            self.hear(Event::Tick);
        }
        assert_eq!(self.steps(), [], "it is quiet");
        assert_eq!(self.number(), Some(self.ca.files.len() - 1));
        let known = self.state.revocations();
        for (name, on_node) in &known.nodes {
            assert!(known.has(on_node), "{name} has the newest: {on_node:?}");
            assert!(on_node.exposed.is_none(), "{name}");
            if on_node.holds.provable {
                assert!(known.is_proven(on_node), "{name}: {on_node:?}");
                let news = known.wanted.as_ref().unwrap().news;
                assert_eq!(on_node.proof.unwrap().covers, news, "{name} is proven for the newest change");
            }
        }
        // Each change by others costs one canary at most, as does the very first file.
        assert!(self.chosen <= self.ca.foreign + 1, "{} canaries for {}", self.chosen, self.ca.foreign);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn i11_i7_crls_never_go_back_and_everything_is_proven_in_the_end(
        operations in prop::collection::vec(operation(), 0..80)
    ) {
        let mut world = World::new();
        operations.iter().for_each(|operation| world.run(operation));
        world.calms_down();
    }
}
