//! Balancers and compilers at them as operators see them: what is wanted, what is observed, and what is waited for.

use bunraku_common::NodeName;
use bunraku_engine::{Balance, Millis, Presence, ServerSeen, State, Wanted};
use bunraku_proto::v1::{BalanceStatusReply, BalancerInfo, CompilerBalance};

use super::Balancers;
use crate::report::Reporter;

const IN_SERVICE: &str = "in service";

impl Reporter {
    /// Everything about every balancer.
    pub(crate) fn balance(&self, balancers: &Balancers) -> BalanceStatusReply {
        let state = self.shared.state();
        let presence = self.shared.presence();
        let look = Look { reporter: self, state: &state, presence: &presence, now: self.shared.clock.now() };
        BalanceStatusReply {
            balancers: state.balancers().map(|balancer| look.balancer(balancer, balancers)).collect(),
            compilers: look.compilers(),
        }
    }

    /// One compiler, also when no balancer carries it.
    pub(crate) fn compiler_balance(&self, compiler: &NodeName) -> CompilerBalance {
        let state = self.shared.state();
        let presence = self.shared.presence();
        Look { reporter: self, state: &state, presence: &presence, now: self.shared.clock.now() }
            .compiler(compiler)
    }

    /// Compilers that somebody wants out of service, or that are out although nobody does.
    pub(crate) fn out_of_service(&self, state: &State) -> Vec<CompilerBalance> {
        let presence = self.shared.presence();
        let look = Look { reporter: self, state, presence: &presence, now: self.shared.clock.now() };
        let known = |state: &str| matches!(state, IN_SERVICE | "not carried" | "unknown");
        let all = look.compilers().into_iter();
        all.filter(|compiler| compiler.wanted == "drained" || !known(&compiler.state)).collect()
    }
}

struct Look<'a> {
    reporter: &'a Reporter,
    state: &'a State,
    presence: &'a Presence,
    now: Millis,
}

/// What a compiler is, for what it waits, until when, and what then.
struct Standing {
    state: &'static str,
    waits_for: String,
    until: Option<(Millis, &'static str)>,
}

impl Standing {
    fn settled(state: &'static str) -> Self {
        Self { state, waits_for: String::new(), until: None }
    }

    fn waits(state: &'static str, waits_for: String) -> Self {
        Self { state, waits_for, until: None }
    }
}

type Server<'a> = (&'a NodeName, &'a ServerSeen);

impl<'a> Look<'a> {
    fn balancer(&self, balancer: &NodeName, balancers: &Balancers) -> BalancerInfo {
        let seen = balancers.seen(balancer);
        let trouble = self.state.unseen(balancer, self.presence, self.now);
        let silent = |trouble: String| match seen.silent.as_str() {
            why if why.is_empty() || trouble == why => trouble,
            why => format!("{trouble} ({why})"),
        };
        BalancerInfo {
            balancer: balancer.to_string(),
            trouble: trouble.map(silent).unwrap_or_default(),
            seen_ms: seen.at_ms,
            status: Some(seen.status),
        }
    }

    fn compilers(&self) -> Vec<CompilerBalance> {
        let carried = self.servers().map(|(_, server)| &server.compiler);
        let names: std::collections::BTreeSet<&NodeName> =
            carried.chain(self.state.balance().keys()).collect();
        names.into_iter().map(|compiler| self.compiler(compiler)).collect()
    }

    fn servers(&self) -> impl Iterator<Item = Server<'a>> {
        let (state, presence) = (self.state, self.presence);
        state.balancers().flat_map(move |balancer| {
            let servers = presence.balancer(balancer).into_iter().flat_map(|view| &view.servers);
            servers.map(move |server| (balancer, server))
        })
    }

    fn compiler(&self, compiler: &NodeName) -> CompilerBalance {
        let servers: Vec<Server<'_>> = self.servers().filter(|(_, s)| s.compiler == *compiler).collect();
        let balance = self.state.balance().get(compiler);
        let standing = match balance.filter(|balance| balance.is_drained()) {
            Some(balance) => self.drained(balance, &servers),
            None => self.ready(&servers),
        };
        let (waits_until, then) = standing.until.unzip();
        let mut info = CompilerBalance {
            compiler: compiler.to_string(),
            state: standing.state.to_owned(),
            waits_for: standing.waits_for,
            waits_until_ms: waits_until.map_or(0, |at| self.reporter.shown(at)),
            then: then.unwrap_or_default().to_owned(),
            sessions: servers.iter().filter_map(|(_, server)| server.sessions).sum(),
            sessions_known: servers.iter().all(|(_, server)| server.sessions.is_some()),
            foreign: servers.iter().filter(|(_, server)| server.foreign).map(named).collect(),
            ..CompilerBalance::default()
        };
        if let Some(balance) = balance {
            info.generation = balance.generation.0;
            info.min_available = balance.min_available;
            info.undone = balance.undone.clone().unwrap_or_default();
            info.since_ms = self.reporter.shown(balance.decided_at);
            match &balance.wanted {
                Wanted::Ready => info.wanted = "ready".to_owned(),
                Wanted::Drained { owner, reason, since } => {
                    info.wanted = "drained".to_owned();
                    (info.owner, info.reason) = (owner.to_string(), reason.clone());
                    info.since_ms = self.reporter.shown(*since);
                }
            }
        }
        info
    }

    fn drained(&self, balance: &Balance, servers: &[Server<'_>]) -> Standing {
        let until = balance.agreed_at.is_none();
        let until =
            until.then(|| (self.state.agree_by(balance, self.presence), "the drain is undone everywhere"));
        if let Some(unseen) = self.unseen() {
            return Standing { state: "unknown", waits_for: unseen, until };
        }
        let out = |server: &ServerSeen| !server.in_service && self.state.has_heard(server);
        let inside = list(servers.iter().filter(|(_, server)| !out(server)));
        let sessions: u64 = servers.iter().filter_map(|(_, server)| server.sessions).sum();
        if servers.is_empty() {
            Standing { state: "not carried", waits_for: String::new(), until }
        } else if !inside.is_empty() {
            Standing { state: "draining", waits_for: format!("{inside} to be drained"), until }
        } else if until.is_some() {
            Standing { state: "draining", waits_for: "the word of every balancer".to_owned(), until }
        } else if sessions > 0 {
            let s = if sessions == 1 { "" } else { "s" };
            Standing::waits("draining", format!("{sessions} session{s} to end"))
        } else {
            Standing::settled("drained")
        }
    }

    fn ready(&self, servers: &[Server<'_>]) -> Standing {
        if let Some(unseen) = self.unseen() {
            return Standing::waits("unknown", unseen);
        }
        let told = |server: &ServerSeen| self.state.has_heard(server);
        let untold = list(servers.iter().filter(|(_, server)| !told(server)));
        let away = list(servers.iter().filter(|(_, server)| !server.in_service && !server.foreign));
        if servers.is_empty() {
            Standing::settled("not carried")
        } else if !untold.is_empty() {
            Standing::waits("enabling", format!("{untold} to be enabled"))
        } else if !away.is_empty() {
            Standing::waits("out of service", format!("{away} to be ready and up"))
        } else if servers.iter().any(|(_, server)| !server.in_service) {
            Standing::settled("out of service")
        } else {
            Standing::settled(IN_SERVICE)
        }
    }

    fn unseen(&self) -> Option<String> {
        let unseen = |balancer: &'a NodeName| {
            let why = self.state.unseen(balancer, self.presence, self.now)?;
            Some(format!("balancer {balancer}, which cannot be seen: {why}"))
        };
        self.state.balancers().find_map(unseen)
    }
}

fn named((balancer, server): &Server<'_>) -> String {
    format!("{}/{} at {balancer}", server.backend, server.server)
}

fn list<'s>(servers: impl Iterator<Item = &'s Server<'s>>) -> String {
    servers.map(named).collect::<Vec<_>>().join(", ")
}
