//! A small site to work the engine from: three compilers, two balancers that carry all of them.

use std::collections::BTreeSet;

use bunraku_common::{Digest, EnvironmentName, Fence, Generation, NodeName, Role, Term};
use bunraku_engine::{
    Action, Ask, Balance, Built, Event, Fact, Fault, HealthView, IdleView, Millis, OnDrainDeadline,
    OnStaleRuby, Plan, Presence, Refusal, Request, Rollout, RolloutId, RolloutOutcome, RolloutPhase,
    RolloutPolicy, Settings, State, Step, TurnPhase,
};

use crate::{
    balancer::{Balancer, Said, Told},
    compiler::{Compiler, Did},
    ghost::Ghost,
};

pub(crate) struct Site {
    pub(crate) state: State,
    pub(crate) presence: Presence,
    pub(crate) now: Millis,
    pub(crate) balancers: Vec<Balancer>,
    pub(crate) compilers: Vec<Compiler>,
    pub(crate) ghost: Ghost,
    journal: Vec<(Fact, Millis)>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let compilers = ["c1", "c2", "c3"].map(node);
        let balancers = ["lb1", "lb2"].map(|name| Balancer::new(node(name), &compilers));
        let mut site = Self {
            state: State::default(),
            presence: Presence::new(0),
            now: 0,
            balancers: balancers.into(),
            compilers: compilers.iter().cloned().map(Compiler::new).collect(),
            ghost: Ghost::default(),
            journal: Vec::new(),
        };
        site.term(1, None);
        compilers.iter().for_each(|name| site.enrol(name, Role::Compiler));
        ["lb1", "lb2"].iter().for_each(|name| site.enrol(&node(name), Role::LoadBalancer));
        site.connect_all();
        site.look();
        site
    }

    pub(crate) fn term(&mut self, number: u64, takeover: Option<&str>) {
        let term = Term { number, id: number.into() };
        self.apply(vec![Fact::TermBegan { term, takeover: takeover.map(str::to_owned) }]);
    }

    pub(crate) fn enrol(&mut self, name: &NodeName, role: Role) {
        let serial = format!("serial {name}");
        self.ask(Request::EnrolWithPuppet {
            node: name.clone(),
            roles: BTreeSet::from([role]),
            puppet_serial: format!("puppet {name}"),
            key: format!("key {name}"),
            serial,
            expires_s: 86_400,
        })
        .unwrap();
    }

    pub(crate) fn connect_all(&mut self) {
        for name in ["c1", "c2", "c3", "lb1", "lb2"] {
            self.presence.connected(node(name));
        }
    }

    /// Reads the journal again, as a controller that was killed does.
    pub(crate) fn restart(&mut self) {
        let mut state = State::default();
        self.journal.iter().for_each(|(fact, at)| state.apply(fact, *at));
        assert_eq!(state, self.state, "a replay gives the same state");
        self.presence = Presence::new(self.now);
        self.term(self.state.term().unwrap().number + 1, None);
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<Vec<Fact>, Refusal> {
        self.ask_as("ann", request)
    }

    pub(crate) fn ask_as(&mut self, who: &str, request: Request) -> Result<Vec<Fact>, Refusal> {
        let facts = self.state.decide(request, who, &self.presence, self.now)?;
        self.apply(facts.clone());
        self.apply_due(false);
        Ok(facts)
    }

    pub(crate) fn hear(&mut self, event: Event) {
        self.presence.learn(&event, &self.state);
        let facts = self.state.observe(event, &self.presence);
        self.apply(facts);
        self.apply_due(true);
    }

    fn apply_due(&mut self, looks: bool) {
        loop {
            let due = self.state.due(looks.then_some(&self.presence), self.now);
            if due.is_empty() {
                return;
            }
            self.apply(due);
        }
    }

    fn apply(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            let json = serde_json::to_string(&fact).unwrap();
            let fact: Fact = serde_json::from_str(&json).unwrap();
            self.ghost.saw(&fact, &self.presence, &self.balancers);
            self.state.apply(&fact, self.now);
            self.journal.push((fact, self.now));
        }
    }

    /// Every balancer that is connected is asked what it carries.
    pub(crate) fn look(&mut self) {
        for balancer in &self.balancers {
            if self.presence.is_connected(&balancer.name) {
                self.presence.balancer_seen(balancer.name.clone(), balancer.view(self.now));
            }
        }
        for compiler in &mut self.compilers {
            if self.presence.is_connected(&compiler.name) {
                let counts = HealthView { at: self.now, epoch: 1, counted: compiler.count() };
                self.presence.health_seen(compiler.name.clone(), counts);
                let view = IdleView { at: self.now, ..compiler.idle.clone() };
                self.presence.idle_seen(compiler.name.clone(), view);
            }
        }
        self.hear(Event::Tick);
    }

    pub(crate) fn wait(&mut self, ms: Millis) {
        self.now += ms;
        self.hear(Event::Tick);
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.state.steps(&self.presence, self.now)
    }

    /// The orders to balancers are delivered and obeyed, or refused; then the balancers are looked at.
    pub(crate) fn tell_balancers(&mut self) -> Vec<(NodeName, Said)> {
        let steps = self.steps();
        let said = steps.iter().filter_map(|step| self.tell_balancer(step)).collect();
        self.look();
        said
    }

    /// One order to a balancer.
    pub(crate) fn tell_balancer(&mut self, step: &Step) -> Option<(NodeName, Said)> {
        let (balancer, told) = self.told(step)?;
        let answer = self.balancer(balancer.as_str()).obey(&told);
        if let Said::Refused(reason) = &answer {
            let (compiler, generation) = (told.compiler.clone(), told.fence.generation);
            let (balancer, reason) = (balancer.clone(), reason.clone());
            self.hear(Event::BalanceRefused { balancer, compiler, generation, reason });
        }
        Some((balancer, answer))
    }

    pub(crate) fn told(&self, step: &Step) -> Option<(NodeName, Told)> {
        let Step::Balance { generation, .. } = step else {
            return None;
        };
        let fence = Fence { term: self.state.term().unwrap(), generation: *generation };
        self.told_by(step, fence)
    }

    pub(crate) fn told_by(&self, step: &Step, fence: Fence) -> Option<(NodeName, Told)> {
        let Step::Balance { balancer, compiler, drained, owner, min_available, close, .. } = step else {
            return None;
        };
        let (compiler, owner) = (compiler.clone(), owner.clone());
        let (drained, min_available, close) = (*drained, *min_available, *close);
        let told = Told { compiler, drained, owner, fence, min_available, close };
        Some((balancer.clone(), told))
    }

    pub(crate) fn balancer(&mut self, name: &str) -> &mut Balancer {
        self.balancers.iter_mut().find(|balancer| balancer.name.as_str() == name).unwrap()
    }

    pub(crate) fn balance(&self, compiler: &str) -> &Balance {
        &self.state.balance()[&node(compiler)]
    }

    pub(crate) fn generation(&self, compiler: &str) -> Generation {
        self.balance(compiler).generation
    }

    pub(crate) fn in_service(&self, compiler: &str) -> bool {
        self.state.is_in_service(&node(compiler), &self.presence, self.now)
    }

    pub(crate) fn drain(&mut self, compiler: &str) -> Result<Vec<Fact>, Refusal> {
        self.ask(drain(compiler, 0))
    }

    pub(crate) fn enable(&mut self, compiler: &str) -> Result<Vec<Fact>, Refusal> {
        self.ask(Request::Enable { compiler: node(compiler) })
    }

    pub(crate) fn ask_rollout(&mut self, ask: Ask) -> Result<RolloutId, Refusal> {
        self.ask(Request::StartRollout { ask }).map(|facts| Fact::started(&facts).unwrap())
    }

    pub(crate) fn start(&mut self, ask: Ask) -> RolloutId {
        let id = self.ask_rollout(ask).unwrap();
        self.hear(Event::Tick);
        id
    }

    pub(crate) fn plan(&self, ask: &Ask) -> Plan {
        self.state.plan_rollout(ask, &self.presence, self.now)
    }

    /// Every order is delivered, obeyed and answered; a millisecond later everybody is looked at.
    pub(crate) fn round(&mut self) {
        self.tell_balancers();
        for step in self.steps() {
            self.obey(&step);
        }
        self.now += 1;
        self.look();
    }

    /// One order to a compiler.
    pub(crate) fn obey(&mut self, step: &Step) {
        let Some((name, generation)) = turn_order(step) else {
            return;
        };
        let fence = Fence { term: self.state.term().unwrap(), generation };
        let did = self.obeys(&name, step, fence);
        self.heard(step, did);
    }

    pub(crate) fn obeys(&mut self, name: &NodeName, step: &Step, fence: Fence) -> Did {
        let changes = |phase| matches!(phase, TurnPhase::Acting | TurnPhase::Reverting);
        let acts = |rollout: &&Rollout| rollout.turns.get(name).is_some_and(|turn| changes(turn.phase));
        let turn =
            self.state.rollouts().values().filter(|r| !r.is_ended()).find(acts).map(|rollout| rollout.id);
        let compiler = self.compilers.iter_mut().find(|compiler| compiler.name == *name).unwrap();
        let (before, reverted_before) = (compiler.restarts, compiler.reverts);
        let did = compiler.obey(step, fence);
        let (up, restarted) = (compiler.up, compiler.restarts > before);
        let reverted = compiler.reverts > reverted_before;
        if restarted || reverted {
            self.ghost.restarted(name, turn, reverted, &self.balancers);
            self.puppet_server(name.as_str(), up);
        }
        did
    }

    pub(crate) fn heard(&mut self, step: &Step, did: Did) {
        let (node, generation) = turn_order(step).unwrap();
        match did {
            Did::Done => self.hear(Event::TurnStepDone { node, generation }),
            Did::Failed { reason, unchanged } => {
                self.hear(Event::TurnStepFailed { node, generation, reason, unchanged });
            }
            Did::Stale | Did::Waits => {}
        }
    }

    pub(crate) fn puppet_server(&mut self, name: &str, up: bool) {
        self.compiler(name).up = up;
        for balancer in &mut self.balancers {
            if let Some(server) = balancer.servers.get_mut(&node(name)) {
                server.up = up;
            }
        }
    }

    pub(crate) fn facts(&self) -> usize {
        self.journal.len()
    }

    pub(crate) fn story(&self) -> String {
        let lines = self.journal.iter().map(|(fact, at)| format!("{at:>9} {fact}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// One order after the other, until the node's turn has come so far.
    pub(crate) fn until(&mut self, id: RolloutId, name: &str, phase: TurnPhase) {
        for _round in 0..200 {
            for step in self.steps() {
                if self.phase(id, name) == phase {
                    return;
                }
                self.tell_balancer(&step);
                self.obey(&step);
            }
            if self.phase(id, name) == phase {
                return;
            }
            self.now += 1;
            self.look();
        }
        panic!("{name} does not come to {phase:?}: {:?}", self.waiting(id));
    }

    /// Rounds, with the time of a bake in each, until the rollout has ended.
    pub(crate) fn finish(&mut self, id: RolloutId) {
        for _round in 0..200 {
            if self.rollout(id).is_ended() {
                return;
            }
            self.round();
            self.now += 1_000;
        }
        panic!("rollout {id} does not end: {:?}", self.waiting(id));
    }

    pub(crate) fn waiting(&self, id: RolloutId) -> Vec<String> {
        self.state.rollout_waiting(id, &self.presence, self.now)
    }

    pub(crate) fn rollout(&self, id: RolloutId) -> &Rollout {
        self.state.rollout(id).unwrap()
    }

    pub(crate) fn phase(&self, id: RolloutId, name: &str) -> TurnPhase {
        self.rollout(id).turns[&node(name)].phase
    }

    pub(crate) fn compiler(&mut self, name: &str) -> &mut Compiler {
        self.compilers.iter_mut().find(|compiler| compiler.name.as_str() == name).unwrap()
    }

    /// Something new, unless a deploy is under way.
    pub(crate) fn deploy(&mut self) {
        let environment = EnvironmentName::parse("production").unwrap();
        if self.state.environments().get(&environment).is_some_and(|known| known.active.is_some()) {
            return;
        }
        let request = Request::Deploy {
            environment,
            branch: "production".into(),
            commit: None,
            plan: false,
            policy: None,
        };
        let Ok(facts) = self.ask(request) else { return };
        let deploy = Fact::accepted(&facts).unwrap();
        let snapshot = Digest::of(deploy.to_string().as_bytes());
        // Some change what stays in the interpreters.
        let stale_ruby = deploy.0.is_multiple_of(2);
        let built = Built { snapshot, commit: None, generate_types: false, stale_ruby };
        self.hear(Event::BuildDone { deploy, built });
    }

    /// A deploy that leaves stale Ruby ends with a rollout.
    pub(crate) fn renews_by_itself(&mut self) {
        let settings = Settings { on_stale_ruby: OnStaleRuby::Rollout, ..Settings::default() };
        self.hear(Event::Configured { settings });
    }

    /// An order of a deploy, obeyed and answered at once. Whether it is one.
    pub(crate) fn follow(&mut self, step: &Step) -> bool {
        match step {
            Step::Stage { node, deploy, .. } => {
                let (deploy, name) = (*deploy, node.clone());
                let cannot = self.compiler(name.as_str()).cannot_stage;
                self.hear(match cannot {
                    false => Event::Staged { deploy, node: name },
                    true => {
                        let (reason, hint) = ("no space left".to_owned(), String::new());
                        Event::StageFailed { deploy, node: name, fault: Fault::Node, reason, hint }
                    }
                });
            }
            Step::Commit { node, environment, snapshot, generation, .. }
            | Step::Bring { node, environment, snapshot, generation, .. } => {
                let (environment, name) = (environment.clone(), node.clone());
                if self.compiler(name.as_str()).cannot_stage {
                    return true;
                }
                self.hear(Event::Committed {
                    environment,
                    node: name,
                    snapshot: *snapshot,
                    generation: *generation,
                    proven: true,
                    owed: String::new(),
                    swapped_ms: None,
                });
            }
            Step::Discard { environment, node, snapshot, .. } => {
                let (environment, node) = (environment.clone(), node.clone());
                self.hear(Event::Discarded { environment, node, snapshot: *snapshot });
            }
            _ => return false,
        }
        true
    }

    /// A deploy that this compiler has not followed yet.
    pub(crate) fn commit_on_all_but(&mut self, late: &str) {
        let environment = EnvironmentName::parse("production").unwrap();
        let facts = self.ask(Request::Deploy {
            environment,
            branch: "production".into(),
            commit: None,
            plan: false,
            policy: None,
        });
        let deploy = Fact::accepted(&facts.unwrap()).unwrap();
        let built =
            Built { snapshot: Digest::of(b"a"), commit: None, generate_types: false, stale_ruby: false };
        self.hear(Event::BuildDone { deploy, built });
        ["c1", "c2", "c3"].iter().for_each(|name| self.hear(Event::Staged { deploy, node: node(name) }));
        ["c1", "c2", "c3"].iter().filter(|name| **name != late).for_each(|name| self.prove(name));
    }

    pub(crate) fn prove(&mut self, name: &str) {
        self.hear(Event::Committed {
            environment: EnvironmentName::parse("production").unwrap(),
            node: node(name),
            snapshot: Digest::of(b"a"),
            generation: Generation(1),
            proven: true,
            owed: String::new(),
            swapped_ms: None,
        });
    }

    pub(crate) fn alarms(&self) -> Vec<String> {
        self.state.balance_alarms(&self.presence, self.now)
    }
}

/// A restart of everything that the balancers carry, with short times.
pub(crate) fn restart() -> Ask {
    let policy = RolloutPolicy {
        drain_deadline: 60_000,
        phase_deadline: 60_000,
        bake: 1_000,
        on_drain_deadline: OnDrainDeadline::Abort,
        ..RolloutPolicy::default()
    };
    Ask {
        action: Action::Restart,
        policy,
        nodes: Vec::new(),
        labels: Vec::new(),
        roles: Vec::new(),
        groups: Vec::new(),
        undrained: false,
    }
}

/// The compiler and the number of an order of a turn.
pub(crate) fn turn_order(step: &Step) -> Option<(NodeName, Generation)> {
    match step {
        Step::Prepare { node, generation, .. }
        | Step::Settle { node, generation, .. }
        | Step::Act { node, generation, .. }
        | Step::Verify { node, generation, .. } => Some((node.clone(), *generation)),
        _ => None,
    }
}

pub(crate) fn drain(compiler: &str, min_available: u32) -> Request {
    Request::Drain { compiler: node(compiler), reason: "new disk".into(), min_available }
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

/// The same for an update of a package that is judged by how the compiler fares.
pub(crate) fn judged_update() -> Ask {
    let mut ask = update();
    (ask.policy.judged_by, ask.policy.bake_max) = (ask.action.judged_by(), 60_000);
    ask
}

/// The same for an update of a package.
pub(crate) fn update() -> Ask {
    let action = Action::Update { package: "puppetserver".into(), version: "8.1".into() };
    Ask { action, ..restart() }
}

pub(crate) fn outcome(site: &Site, id: RolloutId) -> RolloutOutcome {
    match &site.rollout(id).phase {
        RolloutPhase::Ended { outcome, .. } => outcome.clone(),
        other => panic!("{other:?}: {:?}", site.waiting(id)),
    }
}

pub(crate) fn everything_is_as_before(site: &mut Site) {
    site.round();
    site.round();
    for name in ["c1", "c2", "c3"] {
        assert!(site.in_service(name), "{name}");
        assert!(!site.compiler(name).puppet_disabled, "{name}");
    }
    assert!(site.steps().is_empty(), "{:?}", site.steps());
    assert_eq!(site.state.deadline(&site.presence), None);
    assert!(site.alarms().is_empty(), "{:?}", site.alarms());
}
