//! The controller's driver in small, the network, and what is checked after every step.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Digest, EnvironmentName, Fence, Generation, NodeName, Role, Term};
use bunraku_engine::{Built, DeployId, Event, Fact, Millis, Phase, Policy, Presence, Request, State, Step};

use crate::{
    node::{Answer, Node, Order},
    operation::Operation,
};

/// Rounds without faults in which everything must have ended: two environments, each with what is active, what is
/// next, a plan, and compilers to be brought up, each in a few rounds.
const ROUNDS: usize = 40;

/// How many versions every node of the model keeps.
pub(crate) const KEEPS: usize = 3;

/// Of every so many messages the network keeps a copy that arrives later.
const HELD_UP: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    I2,
    I4,
    I5,
    I7,
    Replay,
}

impl Property {
    pub(crate) const ALL: [Self; 5] = [Self::I2, Self::I4, Self::I5, Self::I7, Self::Replay];
}

/// Whether the history is written down: text costs more than the history itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    Nothing,
    Everything,
}

/// How much of interest happened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) decided: usize,
    pub(crate) abandoned: usize,
    pub(crate) superseded: usize,
    pub(crate) behind: usize,
    pub(crate) rollbacks: usize,
    pub(crate) adopted: usize,
    pub(crate) refused_by_fence: usize,
    /// Retained snapshots that were brought.
    pub(crate) retained: usize,
    /// Nodes that had lost what they had staged when they were told to commit.
    pub(crate) lost: usize,
}

pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) counts: Counts,
    /// The journal: each fact as JSON, with its time.
    journal: Vec<(String, Millis)>,
    pub(crate) now: Millis,
    pub(crate) presence: Presence,
    nodes: Vec<Node>,
    network: Vec<Message>,
    /// Copies that arrive much later.
    late: Vec<Message>,
    posted: usize,
    /// Raised when a node restarts: answers of its earlier process never come.
    incarnations: BTreeMap<NodeName, u64>,
    serial: u64,
    telling: Telling,
    story: Vec<String>,
    broken: Vec<(Property, String)>,
    /// Of every order that was sent: the one snapshot that a generation stands for.
    pub(crate) stands_for: BTreeMap<(EnvironmentName, Term2, Generation), Digest>,
    /// Decisions of each environment in their order.
    pub(crate) decisions: BTreeMap<EnvironmentName, Vec<(DeployId, Generation, Digest)>>,
    /// The newest decision that each node's live link followed.
    pub(crate) followed: BTreeMap<(NodeName, EnvironmentName), usize>,
    /// Compilers that each staging must wait for, as the model knows them.
    pub(crate) required: BTreeMap<DeployId, BTreeSet<NodeName>>,
    /// The newest accepted request that moves something.
    pub(crate) newest: BTreeMap<EnvironmentName, DeployId>,
}

/// Number and id, ordered.
type Term2 = (u64, u128);

#[derive(Clone, Debug)]
struct Message {
    node: NodeName,
    environment: EnvironmentName,
    fence: Fence,
    order: Order,
    deploy: Option<DeployId>,
    /// `None`: the order is on its way. `Some`: the answer is.
    answer: Option<Answer>,
    incarnation: u64,
}

pub(crate) fn content(number: u8) -> Digest {
    Digest::of(&[number])
}

fn commit_id(number: u8) -> String {
    format!("{number:040x}")
}

impl World {
    /// The history, then an end without faults.
    pub(crate) fn after(operations: &[Operation], telling: Telling) -> Self {
        let mut world = Self::new(telling);
        for operation in operations {
            world.perform(operation);
        }
        world.stop_faults();
        world.replay();
        world
    }

    fn new(telling: Telling) -> Self {
        let names = ["c1", "c2", "c3"].map(|name| NodeName::parse(name).unwrap());
        let mut world = Self {
            state: State::default(),
            counts: Counts::default(),
            journal: Vec::new(),
            now: 1_000,
            presence: Presence::new(1_000),
            nodes: names.iter().cloned().map(Node::new).collect(),
            network: Vec::new(),
            late: Vec::new(),
            posted: 0,
            incarnations: BTreeMap::new(),
            serial: 0,
            telling,
            story: Vec::new(),
            broken: Vec::new(),
            stands_for: BTreeMap::new(),
            decisions: BTreeMap::new(),
            followed: BTreeMap::new(),
            required: BTreeMap::new(),
            newest: BTreeMap::new(),
        };
        world.begin(1, None);
        for node in 0..3 {
            world.enrol(node);
            world.connect(node);
        }
        world
    }

    pub(crate) fn broken(&self, property: Property) -> Vec<&str> {
        self.broken.iter().filter(|(of, _)| *of == property).map(|(_, what)| what.as_str()).collect()
    }

    pub(crate) fn story(&self) -> String {
        self.story.join("\n")
    }

    pub(crate) fn perform(&mut self, operation: &Operation) {
        self.tell(|| format!("{operation:?}"));
        match *operation {
            Operation::Deploy { environment, content, skip, plan } => {
                self.deploy(environment, content, skip, plan);
            }
            Operation::Rollback { environment } => {
                let request = Request::Rollback { environment: env(environment), to: None };
                if self.request(request) {
                    self.counts.rollbacks += 1;
                }
            }
            Operation::Release { environment } => {
                self.request(Request::Release { environment: env(environment) });
            }
            Operation::Hold { node } => {
                self.request(Request::HoldNode { node: self.name(node), reason: "tests".into() });
            }
            Operation::ReleaseNode { node } => {
                self.request(Request::ReleaseNode { node: self.name(node) });
            }
            Operation::Revoke { node } => {
                let name = self.name(node);
                self.request(Request::RevokeNode { node: name.clone(), reason: "stolen".into() });
                self.cut(&name);
            }
            Operation::Enrol { node } => self.enrol(node),
            Operation::StartAll => {
                for step in self.steps() {
                    self.start(step);
                }
            }
            Operation::StartOne { which } => {
                let steps = self.steps();
                if !steps.is_empty() {
                    self.start(steps[which % steps.len()].clone());
                }
            }
            Operation::Build { succeeds } => self.build(succeeds),
            Operation::DeliverAll => {
                for message in std::mem::take(&mut self.network) {
                    self.deliver(message);
                }
            }
            Operation::Calm { rounds } => (0..rounds).for_each(|_| self.calm()),
            Operation::Deliver { which, again } => {
                if !self.network.is_empty() {
                    let message = self.network.remove(which % self.network.len());
                    if again {
                        self.network.push(message.clone());
                    }
                    self.deliver(message);
                }
            }
            Operation::Lose { which } => {
                if !self.network.is_empty() {
                    self.network.remove(which % self.network.len());
                }
            }
            Operation::Late => {
                for message in std::mem::take(&mut self.late) {
                    self.deliver(message);
                }
            }
            Operation::Wait { ms } => self.wait(ms),
            Operation::Cut { node } => self.cut(&self.name(node)),
            Operation::Connect { node } => self.connect(node),
            Operation::ConnectAll => (0..self.nodes.len()).for_each(|node| self.connect(node)),
            Operation::RestartNode { node, loses_proof } => {
                let name = self.name(node);
                self.cut(&name);
                for messages in [&mut self.network, &mut self.late] {
                    messages.retain(|message| message.node != name || message.answer.is_none());
                }
                *self.incarnations.entry(name).or_default() += 1;
                self.nodes[node].restart(loses_proof);
            }
            Operation::PuppetServer { node, up } => self.nodes[node].server_up = up,
            Operation::DiskFull { node, full } => self.nodes[node].disk_full = full,
            Operation::LoseVersions { node } => self.lose_versions(node),
            Operation::RestartController => self.restart(),
            Operation::Takeover { lost } => self.take_over(lost),
        }
        self.check();
    }

    /// Somebody deletes versions: all that is not live, but what a deploy that is not decided relies upon.
    fn lose_versions(&mut self, node: usize) {
        let deploys = self.state.deploys().values();
        let staged = deploys.filter(|deploy| matches!(deploy.phase, Phase::Staging { .. }));
        let staged: BTreeSet<Digest> = staged.filter_map(|deploy| Some(deploy.built()?.snapshot)).collect();
        self.nodes[node].lose_versions(&staged);
    }

    /// The faults stop: everything answers, nothing is lost. Then everything must come to an end, soon.
    fn stop_faults(&mut self) {
        for node in 0..self.nodes.len() {
            self.perform(&Operation::PuppetServer { node, up: true });
            self.perform(&Operation::DiskFull { node, full: false });
            self.perform(&Operation::Enrol { node });
            self.perform(&Operation::Connect { node });
        }
        for _round in 0..ROUNDS {
            self.calm();
            self.check();
            if self.network.is_empty() && self.steps().is_empty() {
                break;
            }
        }
        self.check_end();
    }

    fn calm(&mut self) {
        self.build(true);
        for step in self.steps() {
            self.start(step);
        }
        // The orders, then their answers.
        for _way in 0..2 {
            for message in std::mem::take(&mut self.network) {
                self.deliver(message);
            }
        }
        self.wait(1_000);
    }

    fn replay(&mut self) {
        let mut again = State::default();
        for (json, at) in &self.journal {
            again.apply(&serde_json::from_str(json).unwrap(), *at);
        }
        let checkpoint: State = serde_json::from_str(&serde_json::to_string(&self.state).unwrap()).unwrap();
        if again != self.state {
            self.breaks(Property::Replay, "a replay of the facts gives another state".into());
        }
        if checkpoint != self.state {
            self.breaks(Property::Replay, "a checkpoint gives another state".into());
        }
    }

    fn deploy(&mut self, environment: usize, content: u8, skip: bool, plan: bool) {
        self.request(Request::Deploy {
            environment: env(environment),
            branch: "main".into(),
            commit: Some(commit_id(content)),
            plan,
            policy: Some(if skip { Policy::Skip } else { Policy::Fail }),
        });
    }

    fn request(&mut self, request: Request) -> bool {
        match self.state.decide(request, "operator", &self.presence, self.now) {
            Ok(facts) => {
                self.append(facts);
                self.append_due(false);
                true
            }
            Err(refusal) => {
                self.tell(|| format!("  refused: {refusal}"));
                false
            }
        }
    }

    fn observe(&mut self, event: Event) {
        self.presence.learn(&event, &self.state);
        let facts = self.state.observe(event, &self.presence);
        self.append(facts);
        self.append_due(true);
    }

    fn append_due(&mut self, looks: bool) {
        loop {
            let due = self.state.due(looks.then_some(&self.presence), self.now);
            if due.is_empty() {
                return;
            }
            self.append(due);
        }
    }

    fn append(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            self.tell(|| format!("  {fact}"));
            self.journal.push((serde_json::to_string(&fact).unwrap(), self.now));
            self.before(&fact);
            self.presence.decided(&fact, &self.state);
            self.state.apply(&fact, self.now);
        }
    }

    pub(crate) fn steps(&mut self) -> Vec<Step> {
        let steps = self.state.steps(&self.presence, self.now);
        let ids: BTreeSet<_> = steps.iter().map(Step::id).collect();
        if ids.len() != steps.len() {
            self.breaks(Property::I5, format!("two steps share an id: {steps:?}"));
        }
        steps
    }

    fn start(&mut self, step: Step) {
        let (deploy, order, generation, snapshot, node, environment) = match step {
            Step::Build { .. }
            | Step::Balance { .. }
            | Step::Prepare { .. }
            | Step::Settle { .. }
            | Step::Act { .. }
            | Step::Verify { .. }
            | Step::InstallCrl { .. }
            | Step::ProveCrl { .. }
            | Step::MakeCanary { .. }
            | Step::RevokeCanary { .. }
            | Step::ForgetCanary { .. }
            | Step::RequestCertificate { .. }
            | Step::SignCertificate { .. }
            | Step::StageCertificate { .. } => return,
            Step::Stage { deploy, node, environment, snapshot, generation, .. } => {
                (Some(deploy), Order::Stage { snapshot }, generation, Some(snapshot), node, environment)
            }
            Step::Commit { environment, node, snapshot, generation, deploy } => {
                (Some(deploy), Order::Commit { snapshot }, generation, Some(snapshot), node, environment)
            }
            Step::Bring { node, environment, snapshot, generation, .. } => {
                (None, Order::Stage { snapshot }, generation, Some(snapshot), node, environment)
            }
            Step::Discard { environment, node, snapshot, generation } => {
                (None, Order::Discard { snapshot }, generation, None, node, environment)
            }
            Step::Retain { environment, node, snapshot, generation, .. } => {
                self.counts.retained += 1;
                (None, Order::Retain { snapshot }, generation, None, node, environment)
            }
        };
        let term = self.state.term().unwrap();
        if let Some(snapshot) = snapshot {
            let key = (environment.clone(), (term.number, term.id), generation);
            let known = *self.stands_for.entry(key).or_insert(snapshot);
            if known != snapshot {
                self.breaks(Property::I5, format!("{generation} of {environment} stands for two snapshots"));
            }
        }
        let fence = Fence { term, generation };
        self.send(node, environment, fence, order, deploy);
    }

    fn send(
        &mut self,
        node: NodeName,
        environment: EnvironmentName,
        fence: Fence,
        order: Order,
        deploy: Option<DeployId>,
    ) {
        let incarnation = self.incarnations.get(&node).copied().unwrap_or(0);
        let message = Message { node, environment, fence, order, deploy, answer: None, incarnation };
        self.post(message);
    }

    fn deliver(&mut self, message: Message) {
        match message.answer.clone() {
            None => self.arrives(message),
            Some(answer) => self.answered(message, answer),
        }
    }

    fn arrives(&mut self, mut message: Message) {
        let Message { environment, fence, order, .. } = &message;
        let node = self.nodes.iter_mut().find(|node| node.name == message.node).unwrap();
        let answer = node.obey(environment, *fence, order, &content(3));
        self.tell(|| format!("  {} {fence:?} {order:?} -> {answer:?}", message.node));
        match (&answer, order) {
            (Answer::Refused, _) => {
                self.counts.refused_by_fence += 1;
                return;
            }
            (Answer::Committed { .. }, Order::Commit { snapshot }) => {
                let (snapshot, generation) = (*snapshot, fence.generation);
                self.committed_on(&message.node.clone(), &environment.clone(), snapshot, generation);
            }
            _ => {}
        }
        message.answer = Some(answer);
        message.incarnation = self.incarnations.get(&message.node).copied().unwrap_or(0);
        self.post(message);
    }

    fn post(&mut self, message: Message) {
        self.posted += 1;
        if self.posted.is_multiple_of(HELD_UP) {
            self.late.push(message.clone());
        }
        // The bound is the model's, to keep histories with many repeats fast.
        if self.network.len() < 200 {
            self.network.push(message);
        }
    }

    fn answered(&mut self, message: Message, answer: Answer) {
        let Message { node, environment, fence, order, deploy, incarnation, .. } = message;
        let alive = self.incarnations.get(&node).copied().unwrap_or(0) == incarnation;
        // An answer for an earlier process of the controller, or of an earlier one of the node, reaches nobody.
        if self.state.term() != Some(fence.term) || !alive {
            return;
        }
        let generation = fence.generation;
        match (order, answer, deploy) {
            (Order::Stage { .. }, Answer::Staged, Some(deploy)) => {
                self.observe(Event::Staged { deploy, node })
            }
            (Order::Stage { snapshot }, Answer::Staged, None) => {
                self.send(node, environment, fence, Order::Commit { snapshot }, None);
            }
            (Order::Retain { snapshot }, Answer::Staged, _) => {
                self.observe(Event::RetainedStaged { environment, node, snapshot });
            }
            (Order::Retain { .. }, Answer::StageFailed(_), _) => {
                self.observe(Event::RetainedRefused { environment, node, reason: "disk full".into() });
            }
            (Order::Commit { .. }, Answer::NotStaged, Some(deploy)) => {
                self.counts.lost += 1;
                self.observe(Event::NotStaged { deploy, node });
            }
            (Order::Stage { .. }, Answer::StageFailed(fault), Some(deploy)) => {
                let (reason, hint) = ("cannot".into(), String::new());
                self.observe(Event::StageFailed { deploy, node, fault, reason, hint });
            }
            (Order::Stage { .. }, Answer::StageFailed(_), None) => {
                self.observe(Event::BringFailed {
                    environment,
                    node,
                    generation,
                    reason: "disk full".into(),
                });
            }
            (Order::Commit { snapshot }, Answer::Committed { proven, swapped }, _) => {
                let owed = if proven { String::new() } else { "Puppet Server is down".to_owned() };
                let swapped_ms = swapped.then_some(self.now);
                let event =
                    Event::Committed { environment, node, snapshot, generation, proven, owed, swapped_ms };
                self.observe(event);
            }
            (Order::Commit { .. }, Answer::NotStaged, None) => {
                let reason = "not staged".into();
                self.observe(Event::BringFailed { environment, node, generation, reason });
            }
            (Order::Discard { snapshot }, Answer::Discarded, _) => {
                self.observe(Event::Discarded { environment, node, snapshot });
            }
            (order, answer, _) => unreachable!("the model answers {order:?} with {answer:?}"),
        }
    }

    fn build(&mut self, succeeds: bool) {
        for step in self.state.steps(&self.presence, self.now) {
            let Step::Build { deploy, commit, .. } = step else {
                continue;
            };
            let number = u8::from_str_radix(&commit.clone().unwrap(), 16).unwrap();
            let built = Built { snapshot: content(number), commit, generate_types: false, stale_ruby: false };
            self.observe(match succeeds {
                true => Event::BuildDone { deploy, built },
                false => Event::BuildFailed { deploy, reason: "r10k failed".into(), hint: String::new() },
            });
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.observe(Event::Tick);
        if self.state.deadline(&self.presence).is_some_and(|deadline| deadline <= self.now) {
            self.breaks(Property::I7, "a deadline has passed and nothing came of it".into());
        }
    }

    fn enrol(&mut self, node: usize) {
        let name = self.name(node);
        if self.state.fleet().nodes.get(&name).is_some_and(|record| record.enrolled) {
            return;
        }
        if self.state.fleet().barred.contains_key(&name) {
            self.request(Request::AllowNode { node: name.clone() });
        }
        self.serial += 1;
        self.request(Request::EnrolWithPuppet {
            node: name,
            roles: BTreeSet::from([Role::Compiler]),
            puppet_serial: "1".into(),
            serial: format!("{:x}", self.serial),
            key: format!("key {}", self.serial),
            expires_s: 86_400,
        });
    }

    fn connect(&mut self, node: usize) {
        let name = self.name(node);
        if !self.state.fleet().nodes.get(&name).is_some_and(|record| record.enrolled) {
            return;
        }
        self.presence.connected(name.clone());
        let environments = self.nodes[node].hello(self.state.term().unwrap());
        self.observe(Event::NodeObserved { node: name, environments, keeps: KEEPS });
    }

    fn cut(&mut self, node: &NodeName) {
        self.presence.gone(node, self.now);
        self.observe(Event::Tick);
    }

    fn restart(&mut self) {
        self.replay();
        let mut state = State::default();
        for (json, at) in &self.journal {
            state.apply(&serde_json::from_str(json).unwrap(), *at);
        }
        self.state = state;
        let number = self.state.term().unwrap().number + 1;
        self.begin(number, None);
    }

    fn take_over(&mut self, lost: usize) {
        let seen = self.state.term().unwrap().number;
        // The first records are the enrolments: a fleet without nodes would be no history.
        let kept = self.journal.len().saturating_sub(lost).max(8).min(self.journal.len());
        self.journal.truncate(kept);
        let mut state = State::default();
        for (json, at) in &self.journal {
            state.apply(&serde_json::from_str(json).unwrap(), *at);
        }
        self.state = state;
        // Requests that only the lost records knew are asked for again by whoever made them.
        self.newest.clear();
        self.required.retain(|id, _| self.state.deploy(*id).is_some_and(|deploy| !deploy.is_ended()));
        self.begin(seen + 1000, Some("restored from a backup".into()));
        self.decisions.values_mut().flatten().for_each(|(id, ..)| *id = DeployId(0));
    }

    fn begin(&mut self, number: u64, takeover: Option<String>) {
        self.presence = Presence::new(self.now);
        let term = Term { number, id: u128::from(number) << 64 };
        self.append(vec![Fact::TermBegan { term, takeover }]);
        self.observe(Event::Tick);
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.telling == Telling::Everything {
            self.story.push(line());
        }
    }

    pub(crate) fn breaks(&mut self, property: Property, what: String) {
        self.tell(|| format!("  BROKEN {property:?}: {what}"));
        self.broken.push((property, what));
    }

    fn name(&self, node: usize) -> NodeName {
        self.nodes[node].name.clone()
    }

    pub(crate) fn node(&self, name: &NodeName) -> &Node {
        self.nodes.iter().find(|node| node.name == *name).unwrap()
    }
}

fn env(number: usize) -> EnvironmentName {
    EnvironmentName::parse(["production", "testing"][number]).unwrap()
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.decided += other.decided;
        self.abandoned += other.abandoned;
        self.superseded += other.superseded;
        self.behind += other.behind;
        self.rollbacks += other.rollbacks;
        self.adopted += other.adopted;
        self.refused_by_fence += other.refused_by_fence;
        self.retained += other.retained;
        self.lost += other.lost;
    }
}
