//! The site, with a network between the controller and its nodes, and faults.

use bunraku_common::{Fence, NodeName, Term};
use bunraku_engine::{
    Ask, BalancerView, Batch, DrainOwner, Event, JudgedBy, OnDrainDeadline, OnInconclusive, Request,
    RolloutId, RolloutPhase, Step, TurnPhase, Wanted,
};

use crate::{
    balancer::{Balancer, Said},
    compiler::Did,
    ghost::Property,
    histories::Operation,
    site::{Site, node, restart, turn_order, update},
};

const COMPILERS: [&str; 3] = ["c1", "c2", "c3"];
const NODES: [&str; 5] = ["c1", "c2", "c3", "lb1", "lb2"];
const PEOPLE: [&str; 2] = ["ann", "bob"];
/// Rounds of a second without faults in which everything must have come to rest: each of three turns has nine phases,
/// each with a deadline of a minute.
const ROUNDS: usize = 3 * 9 * 60;
/// Of every so many messages the network keeps a copy that arrives later.
const HELD_UP: usize = 4;

pub(crate) struct World {
    pub(crate) site: Site,
    network: Vec<Message>,
    late: Vec<Message>,
    posted: usize,
    /// Answers of balancers that are on their way.
    views: Vec<(NodeName, BalancerView)>,
}

#[derive(Clone, Debug)]
struct Message {
    node: NodeName,
    step: Step,
    fence: Fence,
    answer: Option<Answer>,
}

#[derive(Clone, Debug)]
enum Answer {
    Balancer(Said),
    Compiler(Did),
}

impl World {
    /// The history, then an end without faults.
    pub(crate) fn after(operations: &[Operation]) -> Self {
        let mut site = Site::new();
        site.renews_by_itself();
        site.compilers.iter_mut().for_each(|compiler| compiler.carries(25, 0));
        // As nginx is.
        site.balancers[1].servers.values_mut().for_each(|server| server.cannot_close = true);
        let mut world = Self { site, network: Vec::new(), late: Vec::new(), posted: 0, views: Vec::new() };
        for operation in operations {
            world.perform(operation);
        }
        world.come_to_rest();
        world
    }

    pub(crate) fn broken(&self, property: Property) -> Vec<&str> {
        let broken = self.site.ghost.broken.iter();
        broken.filter(|(of, _)| *of == property).map(|(_, what)| what.as_str()).collect()
    }

    pub(crate) fn story(&self) -> String {
        self.site.story()
    }

    fn perform(&mut self, operation: &Operation) {
        let site = &mut self.site;
        let rollout = |id: u64| RolloutId(id);
        match *operation {
            Operation::Start { nodes, batch, min_available, force, updates, reverts, judged } => {
                let chosen = COMPILERS.iter().enumerate().filter(|(bit, _)| nodes & (1 << bit) != 0);
                let nodes = chosen.map(|(_, name)| (*name).to_owned()).collect();
                let mut ask = Ask { nodes, ..if updates { update() } else { restart() } };
                ask.policy.revert = reverts;
                if let Some(goes_on) = judged {
                    (ask.policy.judged_by, ask.policy.bake_max) = (JudgedBy::Siblings, 20_000);
                    if goes_on {
                        ask.policy.on_inconclusive = OnInconclusive::Continue;
                    }
                }
                (ask.policy.batch, ask.policy.min_available) = (Batch::Count(batch), min_available);
                if force {
                    // Soon, so that it comes to that while the compiler is busy.
                    (ask.policy.on_drain_deadline, ask.policy.drain_deadline) =
                        (OnDrainDeadline::Force, 2_000);
                }
                let _refused = site.ask(Request::StartRollout { ask });
            }
            Operation::Pause { rollout: id } => {
                let _refused =
                    site.ask(Request::PauseRollout { rollout: rollout(id), reason: "lunch".into() });
            }
            Operation::Resume { rollout: id } => {
                let _refused = site.ask(Request::ResumeRollout { rollout: rollout(id) });
            }
            Operation::Deploy => site.deploy(),
            Operation::CannotStage { node: of, cannot } => site.compiler(COMPILERS[of]).cannot_stage = cannot,
            Operation::Fares { node: of, catalogs, failed } => {
                site.compiler(COMPILERS[of]).carries(catalogs, failed);
            }
            Operation::Retarget { rollout: id, version } => {
                let version = format!("8.{version}");
                let _refused = site.ask(Request::RetargetRollout { rollout: rollout(id), version });
            }
            Operation::Abort { rollout: id } => {
                let _refused = site.ask(Request::AbortRollout { rollout: rollout(id), reason: "no".into() });
            }
            Operation::Retry { rollout: id, node: of } => {
                let _refused =
                    site.ask(Request::RetryTurn { rollout: rollout(id), node: node(COMPILERS[of]) });
            }
            Operation::Skip { rollout: id, node: of } => {
                let _refused =
                    site.ask(Request::SkipTurn { rollout: rollout(id), node: node(COMPILERS[of]) });
            }
            Operation::Drain { who, node: of, min_available } => {
                let _refused = site.ask_as(PEOPLE[who], crate::site::drain(COMPILERS[of], min_available));
            }
            Operation::Enable { who, node: of } => {
                let _refused = site.ask_as(PEOPLE[who], Request::Enable { compiler: node(COMPILERS[of]) });
            }
            Operation::StartAll => site.steps().into_iter().for_each(|step| self.start(step)),
            Operation::StartOne { which } => {
                let steps = site.steps();
                if !steps.is_empty() {
                    self.start(steps[which % steps.len()].clone());
                }
            }
            Operation::DeliverAll => {
                std::mem::take(&mut self.network).into_iter().for_each(|message| self.deliver(message));
            }
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
                std::mem::take(&mut self.late).into_iter().for_each(|message| self.deliver(message))
            }
            Operation::Calm { rounds } => (0..rounds).for_each(|_| self.calm()),
            Operation::Look => site.look(),
            Operation::Ask { balancer } => {
                let balancer = &site.balancers[balancer];
                if site.presence.is_connected(&balancer.name) {
                    self.views.push((balancer.name.clone(), balancer.view(site.now)));
                }
            }
            Operation::Answer => {
                for (balancer, view) in std::mem::take(&mut self.views) {
                    site.presence.balancer_seen(balancer, view);
                }
                site.hear(Event::Tick);
            }
            Operation::Wait { ms } => self.wait(ms),
            Operation::Cut { node: of } => self.cut(NODES[of]),
            Operation::Connect { node: of } => site.presence.connected(node(NODES[of])),
            Operation::ConnectAll => site.connect_all(),
            Operation::KillAgent { node: of } => {
                self.cut(NODES[of]);
                self.site.presence.connected(node(NODES[of]));
            }
            Operation::KillController { away } => {
                site.now += away;
                site.restart();
                self.views.clear();
                self.site.hear(Event::Tick);
            }
            Operation::PuppetServer { node: of, up } => site.puppet_server(COMPILERS[of], up),
            Operation::Breaks { node: of, breaks } => site.compiler(COMPILERS[of]).breaks = breaks,
            Operation::Fails { node: of, unchanged, reverts } => {
                let compiler = site.compiler(COMPILERS[of]);
                (compiler.cannot_act, compiler.cannot_revert) = (unchanged, !reverts);
            }
            Operation::Busy { node: of, busy } => {
                site.compiler(COMPILERS[of]).idle.jrubies_free = if busy { 1 } else { 2 };
                for balancer in &mut site.balancers {
                    balancer.servers.get_mut(&node(COMPILERS[of])).unwrap().sessions = busy.into();
                }
            }
            Operation::PuppetRuns { node: of, runs } => site.compiler(COMPILERS[of]).puppet_runs = runs,
            Operation::Forget { balancer, node: of, knows } => {
                let server = site.balancers[balancer].servers.get_mut(&node(COMPILERS[of])).unwrap();
                (server.drained, server.forgot) = (false, true);
                if !knows {
                    server.wish = None;
                }
            }
            Operation::Foreign { balancer, node: of, out } => {
                site.balancers[balancer].servers.get_mut(&node(COMPILERS[of])).unwrap().foreign = out;
            }
        }
    }

    fn start(&mut self, step: Step) {
        // The network of deploys is that of their own histories.
        if self.site.follow(&step) {
            return;
        }
        let term = self.site.state.term().unwrap();
        let (node, generation) = match &step {
            Step::Balance { balancer, generation, .. } => (balancer.clone(), *generation),
            other => turn_order(other).unwrap(),
        };
        let fence = Fence { term, generation };
        self.site.ghost.sends(&step, fence);
        self.post(Message { node, step, fence, answer: None });
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

    fn deliver(&mut self, mut message: Message) {
        if !self.site.presence.is_connected(&message.node) {
            return;
        }
        let Some(answer) = message.answer.take() else {
            let answer = self.obey(&message);
            if matches!(answer, Answer::Balancer(Said::Stale) | Answer::Compiler(Did::Stale)) {
                self.site.ghost.counts.stale += 1;
            }
            return self.post(Message { answer: Some(answer), ..message });
        };
        self.answered(message.step, message.fence.term, answer);
    }

    fn obey(&mut self, message: &Message) -> Answer {
        let Message { node, step, fence, .. } = message;
        match self.site.told_by(step, *fence) {
            Some((balancer, told)) => Answer::Balancer(self.site.balancer(balancer.as_str()).obey(&told)),
            None => Answer::Compiler(self.site.obeys(node, step, *fence)),
        }
    }

    /// An answer for an earlier process of the controller reaches nobody.
    fn answered(&mut self, step: Step, term: Term, answer: Answer) {
        if self.site.state.term() != Some(term) {
            return;
        }
        match (step, answer) {
            (
                Step::Balance { balancer, compiler, generation, .. },
                Answer::Balancer(Said::Refused(reason)),
            ) => {
                self.site.hear(Event::BalanceRefused { balancer, compiler, generation, reason });
            }
            (step, Answer::Compiler(did)) => self.site.heard(&step, did),
            (_, Answer::Balancer(_)) => {}
        }
    }

    fn calm(&mut self) {
        self.site.balancers.iter_mut().for_each(Balancer::assert_again);
        for step in self.site.steps() {
            self.start(step);
        }
        // The orders, then their answers.
        for _way in 0..2 {
            self.perform(&Operation::DeliverAll);
        }
        self.site.now += 1_000;
        self.site.look();
    }

    fn wait(&mut self, ms: u64) {
        self.site.wait(ms);
        let deadline = self.site.state.deadline(&self.site.presence);
        let baking = self.site.state.rollouts().values().flat_map(|rollout| rollout.turns.values());
        let baking = baking.into_iter().any(|turn| turn.phase == TurnPhase::Baking);
        if !baking && deadline.is_some_and(|deadline| deadline <= self.site.now) {
            self.site.ghost.breaks(Property::I7, "a deadline has passed and nothing came of it".into());
        }
    }

    /// What was under way on the connection is lost with it.
    fn cut(&mut self, name: &str) {
        self.network.retain(|message| message.node.as_str() != name);
        self.late.retain(|message| message.node.as_str() != name);
        self.site.presence.gone(&node(name), self.site.now);
        self.site.hear(Event::Tick);
    }

    fn come_to_rest(&mut self) {
        for of in 0..3 {
            self.perform(&Operation::PuppetServer { node: of, up: true });
            self.perform(&Operation::Breaks { node: of, breaks: false });
            self.perform(&Operation::Fails { node: of, unchanged: None, reverts: true });
            self.perform(&Operation::Fares { node: of, catalogs: 0, failed: 0 });
            self.perform(&Operation::CannotStage { node: of, cannot: false });
            self.perform(&Operation::Busy { node: of, busy: false });
            self.perform(&Operation::PuppetRuns { node: of, runs: false });
            for balancer in 0..2 {
                self.perform(&Operation::Foreign { balancer, node: of, out: false });
            }
        }
        self.site.connect_all();
        self.site.look();
        self.run_until_quiet();
        let unended: Vec<RolloutId> = self.unended();
        for id in unended {
            if !matches!(self.site.rollout(id).phase, RolloutPhase::Paused { .. }) {
                let what = format!("rollout {id} neither ends nor is paused: {:?}", self.site.waiting(id));
                self.site.ghost.breaks(Property::I7, what);
            }
        }
        self.check_rest();
        // The operators clear up: everything must be as it was.
        for id in self.unended() {
            self.perform(&Operation::Abort { rollout: id.0 });
        }
        self.run_until_quiet();
        for of in 0..3 {
            self.perform(&Operation::Enable { who: 0, node: of });
        }
        self.run_until_quiet();
        self.check_rest();
        for name in COMPILERS {
            if !self.site.in_service(name) {
                self.site.ghost.breaks(Property::I7, format!("{name} is never in service again"));
            }
        }
        if !self.unended().is_empty() {
            self.site.ghost.breaks(Property::I7, "an aborted rollout does not end".into());
        }
    }

    fn unended(&self) -> Vec<RolloutId> {
        let rollouts = self.site.state.rollouts().values();
        rollouts.filter(|rollout| !rollout.is_ended()).map(|rollout| rollout.id).collect()
    }

    fn run_until_quiet(&mut self) {
        for _round in 0..ROUNDS {
            let before = self.site.facts();
            self.calm();
            let deadline = self.site.state.deadline(&self.site.presence);
            let quiet = self.network.is_empty() && self.site.steps().is_empty() && deadline.is_none();
            if quiet && before == self.site.facts() {
                return;
            }
        }
        let what = format!("there is always something left to do: {:?}", self.site.steps());
        self.site.ghost.breaks(Property::I7, what);
    }

    fn check_rest(&mut self) {
        let mut wrong = Vec::new();
        for name in COMPILERS {
            let balance = self.site.state.balance().get(&node(name));
            let wanted_out = balance.is_some_and(|balance| balance.is_drained());
            for balancer in &self.site.balancers {
                if balancer.servers[&node(name)].drained != wanted_out {
                    wrong.push(format!("{} does not do with {name} what is wanted", balancer.name));
                }
            }
            if let Some(Wanted::Drained { owner: DrainOwner::Deploy(id), .. }) = balance.map(|b| &b.wanted) {
                wrong.push(format!("{name} follows and stays drained by deploy {id}"));
            }
            if let Some(Wanted::Drained { owner: DrainOwner::Rollout(id), .. }) = balance.map(|b| &b.wanted) {
                let open = self.site.state.rollout(*id).is_some_and(|rollout| !rollout.is_ended());
                let told =
                    self.site.alarms().iter().any(|alarm| alarm.starts_with(&format!("{name} is drained")));
                let said = open
                    && self
                        .site
                        .waiting(*id)
                        .iter()
                        .any(|line| line.starts_with(&format!("{name}: for a decision")));
                if !told && !said {
                    wrong.push(format!("{name} is drained and nobody says so"));
                }
            }
            if self
                .site
                .compilers
                .iter()
                .any(|compiler| compiler.name == node(name) && compiler.puppet_disabled)
            {
                wrong.push(format!("the Puppet agent of {name} stays disabled"));
            }
        }
        wrong.into_iter().for_each(|what| self.site.ghost.breaks(Property::I7, what));
    }
}
