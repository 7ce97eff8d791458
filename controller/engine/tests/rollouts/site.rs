//! A small site to work the engine from: three compilers, two balancers that carry all of them.

use std::collections::BTreeSet;

use bunraku_common::{Fence, Generation, NodeName, Role, Term};
use bunraku_engine::{Balance, Event, Fact, Millis, Presence, Refusal, Request, State, Step};

use crate::balancer::{Balancer, Said, Told};

pub(crate) struct Site {
    pub(crate) state: State,
    pub(crate) presence: Presence,
    pub(crate) now: Millis,
    pub(crate) balancers: Vec<Balancer>,
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
        let mut said = Vec::new();
        for step in steps {
            let Some((balancer, told)) = self.told(&step) else {
                continue;
            };
            let answer = self.balancer(balancer.as_str()).obey(&told);
            if let Said::Refused(reason) = &answer {
                let (compiler, generation) = (told.compiler.clone(), told.fence.generation);
                let (balancer, reason) = (balancer.clone(), reason.clone());
                self.hear(Event::BalanceRefused { balancer, compiler, generation, reason });
            }
            said.push((balancer, answer));
        }
        self.look();
        said
    }

    pub(crate) fn told(&self, step: &Step) -> Option<(NodeName, Told)> {
        let Step::Balance { balancer, compiler, drained, owner, generation, min_available, .. } = step else {
            return None;
        };
        let fence = Fence { term: self.state.term().unwrap(), generation: *generation };
        let (compiler, owner) = (compiler.clone(), owner.clone());
        let told = Told { compiler, drained: *drained, owner, fence, min_available: *min_available };
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
}

pub(crate) fn drain(compiler: &str, min_available: u32) -> Request {
    Request::Drain { compiler: node(compiler), reason: "new disk".into(), min_available }
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}
