//! A desk to work the engine from: applies what it decides, keeps the time.

use std::collections::BTreeSet;

use bunraku_common::{Digest, EnvironmentName, Generation, NodeName, OperatorName, Role, Term};
use bunraku_engine::{
    Built, Deploy, DeployId, Event, Fact, Fault, Millis, Outcome, Phase, Policy, Presence, Refusal, Request,
    Seen, State, Step,
};

pub(crate) const MINUTE: Millis = 60_000;
pub(crate) const NOW_S: u64 = 1_800_000_000;

pub(crate) struct Desk {
    pub(crate) state: State,
    pub(crate) presence: Presence,
    pub(crate) now: Millis,
    serial: u64,
}

impl Desk {
    /// A controller of term 1, and these compilers, enrolled and connected.
    pub(crate) fn with(compilers: &[&str]) -> Self {
        let mut desk = Self { state: State::default(), presence: Presence::new(0), now: 0, serial: 0 };
        desk.term(1, None);
        for name in compilers {
            desk.enrol(name).unwrap();
            desk.presence.connected(node(name));
        }
        desk
    }

    pub(crate) fn term(&mut self, number: u64, takeover: Option<&str>) {
        let term = Term { number, id: number.into() };
        self.apply(&[Fact::TermBegan { term, takeover: takeover.map(str::to_owned) }]);
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<Vec<Fact>, Refusal> {
        let facts = self.state.decide(request, "ann", &self.presence, self.now)?;
        Ok(self.settle(facts, false))
    }

    pub(crate) fn hear(&mut self, event: Event) -> Vec<Fact> {
        self.presence.learn(&event, &self.state);
        let facts = self.state.observe(event, &self.presence);
        self.settle(facts, true)
    }

    fn settle(&mut self, mut facts: Vec<Fact>, looks: bool) -> Vec<Fact> {
        self.apply(&facts);
        loop {
            let due = self.state.due(looks.then_some(&self.presence), self.now);
            if due.is_empty() {
                return facts;
            }
            self.apply(&due);
            facts.extend(due);
        }
    }

    pub(crate) fn apply(&mut self, facts: &[Fact]) {
        for fact in facts {
            self.presence.decided(fact, &self.state);
            self.state.apply(fact, self.now);
        }
    }

    pub(crate) fn wait(&mut self, ms: Millis) {
        self.now += ms;
        self.hear(Event::Tick);
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.state.steps(&self.presence, self.now)
    }

    pub(crate) fn ask_deploy(&mut self, policy: Policy) -> Result<DeployId, Refusal> {
        let (environment, branch) = (production(), "production".to_owned());
        let policy = Some(policy);
        self.ask(Request::Deploy { environment, branch, commit: None, plan: false, policy })
            .map(|facts| Fact::accepted(&facts).unwrap())
    }

    pub(crate) fn built(&mut self, deploy: DeployId, content: &str) -> Vec<Fact> {
        let built =
            Built { snapshot: snapshot(content), commit: None, generate_types: false, stale_ruby: false };
        self.hear(Event::BuildDone { deploy, built })
    }

    pub(crate) fn staged(&mut self, deploy: DeployId, name: &str) -> Vec<Fact> {
        self.hear(Event::Staged { deploy, node: node(name) })
    }

    pub(crate) fn stage_failed(&mut self, deploy: DeployId, name: &str, fault: Fault) {
        let (reason, hint) = ("disk full".to_owned(), String::new());
        self.hear(Event::StageFailed { deploy, node: node(name), fault, reason, hint });
    }

    pub(crate) fn proven(&mut self, name: &str, content: &str, generation: u64) -> Vec<Fact> {
        self.committed(name, content, generation, "")
    }

    /// `owed`: empty when it is proven.
    pub(crate) fn committed(&mut self, name: &str, content: &str, generation: u64, owed: &str) -> Vec<Fact> {
        self.hear(Event::Committed {
            environment: production(),
            node: node(name),
            snapshot: snapshot(content),
            generation: Generation(generation),
            proven: owed.is_empty(),
            owed: owed.to_owned(),
            swapped_ms: Some(self.now),
        })
    }

    /// From request to live, on all compilers.
    pub(crate) fn deploy(&mut self, content: &str) -> DeployId {
        let deploy = self.ask_deploy(Policy::Fail).unwrap();
        self.built(deploy, content);
        self.finish(deploy, content);
        deploy
    }

    /// From staging to live, on all compilers.
    pub(crate) fn finish(&mut self, deploy: DeployId, content: &str) {
        let names: Vec<String> =
            self.state.deploy(deploy).unwrap().nodes().keys().map(ToString::to_string).collect();
        names.iter().for_each(|name| drop(self.staged(deploy, name)));
        let generation = self.state.deploy(deploy).unwrap().generation().unwrap().0;
        names.iter().for_each(|name| drop(self.proven(name, content, generation)));
        assert!(matches!(self.outcome(deploy), Outcome::Live { .. }), "{:?}", self.outcome(deploy));
    }

    pub(crate) fn get(&self, deploy: DeployId) -> &Deploy {
        self.state.deploy(deploy).unwrap()
    }

    pub(crate) fn outcome(&self, deploy: DeployId) -> Outcome {
        match &self.get(deploy).phase {
            Phase::Ended { outcome, .. } => outcome.clone(),
            other => panic!("deploy {deploy} has not ended: {other:?}"),
        }
    }

    pub(crate) fn live(&self) -> Option<Digest> {
        self.state.environments()[&production()].committed.as_ref().map(|committed| committed.snapshot)
    }

    pub(crate) fn observed(&mut self, name: &str, live: Option<&str>, proven: bool) {
        let live = live.map(snapshot);
        let seen = Seen { environment: production(), live, proven, versions: live.into_iter().collect() };
        self.hear(Event::NodeObserved { node: node(name), environments: vec![seen], keeps: 0 });
    }

    /// A compiler says hello: what it holds, the first of them live and proven, and how many it keeps.
    pub(crate) fn hello(&mut self, name: &str, holds: &[&str], keeps: usize) -> Vec<Fact> {
        let live = holds.first().map(|content| snapshot(content));
        let versions = holds.iter().map(|content| snapshot(content)).collect();
        let seen = Seen { environment: production(), live, proven: live.is_some(), versions };
        self.presence.connected(node(name));
        self.hear(Event::NodeObserved { node: node(name), environments: vec![seen], keeps })
    }

    /// By its Puppet certificate, with a new key.
    pub(crate) fn enrol(&mut self, name: &str) -> Result<String, Refusal> {
        self.serial += 1;
        let serial = format!("serial {}", self.serial);
        self.ask(Request::EnrolWithPuppet {
            node: node(name),
            roles: BTreeSet::from([Role::Compiler]),
            puppet_serial: format!("puppet {name}"),
            serial: serial.clone(),
            key: format!("key {}", self.serial),
            expires_s: NOW_S + 86_400,
        })?;
        Ok(serial)
    }
}

pub(crate) fn production() -> EnvironmentName {
    EnvironmentName::parse("production").unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

pub(crate) fn operator(name: &str) -> OperatorName {
    OperatorName::parse(name).unwrap()
}

pub(crate) fn snapshot(content: &str) -> Digest {
    Digest::of(content.as_bytes())
}
