//! What each compiler is wanted to be at the balancers: ready, or drained by somebody for a reason. One generation for
//! each compiler; the newest decision is told to every balancer that carries it. A drain is decided only where the
//! floor of every backend allows it (I3), and undone when one balancer does not agree.

use std::fmt;

use bunraku_common::{Generation, NodeName};
use serde::{Deserialize, Serialize};

use crate::{
    DeployId, Fact, Millis, Presence, Refusal, RefusalCode, RolloutId, State, Step,
    deploy::span,
    view::{ServerSeen, Wish},
};

/// The newest decision about one compiler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    pub wanted: Wanted,
    pub generation: Generation,
    pub decided_at: Millis,
    /// What must stay in service while this compiler is out, beyond the balancers' own floors.
    pub min_available: u32,
    /// When every balancer was first seen to have drained it.
    pub agreed_at: Option<Millis>,
    /// Why the drain before this decision came to nothing.
    pub undone: Option<String>,
    /// It came to nothing because a balancer said no.
    #[serde(default)]
    pub refused: bool,
}

/// From a balancer's no to a drain until a rollout asks again: longer than a server that has just come back needs to
/// miss three of a balancer's checks, and to be seen to have passed them again.
const ASK_AGAIN: Millis = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wanted", rename_all = "kebab-case")]
pub enum Wanted {
    Ready,
    Drained { owner: DrainOwner, reason: String, since: Millis },
}

/// Who keeps a compiler drained, and ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrainOwner {
    Operator(String),
    Rollout(RolloutId),
    Deploy(DeployId),
    /// It lacks a revocation that Puppet's CA has made.
    Crl,
}

impl Balance {
    pub fn is_drained(&self) -> bool {
        self.wanted.is_drained()
    }

    pub fn owner(&self) -> Option<&DrainOwner> {
        match &self.wanted {
            Wanted::Ready => None,
            Wanted::Drained { owner, .. } => Some(owner),
        }
    }

    /// When a rollout may want the drain again to which a balancer said no.
    pub(crate) fn asked_again_at(&self) -> Option<Millis> {
        self.refused.then(|| self.decided_at.saturating_add(ASK_AGAIN))
    }

    /// Whether this is what a balancer was last told.
    pub fn is_asked_by(&self, wish: &Wish) -> bool {
        wish.generation == self.generation && wish.drained == self.is_drained()
    }

    /// Owner and reason as balancers show them; empty for a compiler that is wanted ready.
    fn told(&self) -> (String, String) {
        match &self.wanted {
            Wanted::Ready => Default::default(),
            Wanted::Drained { owner, reason, .. } => (owner.to_string(), reason.clone()),
        }
    }
}

impl DrainOwner {
    /// The command that ends this owner's drain of the compiler.
    fn end(&self, compiler: &NodeName) -> String {
        match self {
            Self::Operator(_) => format!("bunraku lb enable {compiler}"),
            Self::Rollout(id) => format!("bunraku rollout abort {id}"),
            Self::Deploy(id) => format!("bunraku deploys show {id}"),
            Self::Crl => "bunraku crl status".to_owned(),
        }
    }
}

impl fmt::Display for DrainOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(who) => write!(f, "operator {who}"),
            Self::Rollout(id) => write!(f, "rollout {id}"),
            Self::Deploy(id) => write!(f, "deploy {id}"),
            Self::Crl => f.write_str("revocation"),
        }
    }
}

impl State {
    /// Decides a drain, if nobody else holds the compiler and the balancers show that it may go.
    pub(crate) fn drain(
        &self,
        compiler: &NodeName,
        owner: DrainOwner,
        reason: &str,
        min_available: u32,
        presence: &Presence,
        now: Millis,
    ) -> Result<Vec<Fact>, Refusal> {
        let refused =
            |why: Refusal| Refusal { reason: format!("{compiler} cannot be drained: {}", why.reason), ..why };
        let known = self.balance.get(compiler);
        if let Some(Wanted::Drained { owner: holder, reason: why, since }) =
            known.map(|balance| &balance.wanted)
        {
            if *holder != owner && !outlives(&owner, holder) {
                return Err(self.held_by(compiler, holder, why));
            }
            if *holder == owner
                && why == reason
                && known.is_some_and(|balance| balance.min_available >= min_available)
            {
                return Ok(Vec::new());
            }
            // It is out already: what it needs is checked again, but it is out since then.
            let wanted = Wanted::Drained { owner, reason: reason.to_owned(), since: *since };
            let sight = self.sight(presence, now).map_err(refused)?;
            sight.may_go(compiler, min_available).map_err(refused)?;
            return Ok(vec![self.wanted(compiler, wanted, min_available, presence)]);
        }
        let sight = self.sight(presence, now).map_err(refused)?;
        if !sight.is_carried(compiler) {
            let reason = format!("no balancer carries {compiler}");
            let hint = "name its servers under [balancer.compilers] in the configuration of the balancer's node agent";
            return Err(Refusal::new(RefusalCode::NotFound, reason, hint));
        }
        sight.may_go(compiler, min_available).map_err(refused)?;
        let wanted = Wanted::Drained { owner, reason: reason.to_owned(), since: now };
        Ok(vec![self.wanted(compiler, wanted, min_available, presence)])
    }

    /// An operator drains a compiler by hand.
    pub(crate) fn drain_asked(
        &self,
        compiler: &NodeName,
        reason: &str,
        min_available: u32,
        who: &str,
        presence: &Presence,
        now: Millis,
    ) -> Result<Vec<Fact>, Refusal> {
        let node = self.known_node(compiler)?;
        if !node.is_compiler() {
            let reason = format!("{compiler} is no compiler");
            return Err(Refusal::new(RefusalCode::Invalid, reason, "bunraku nodes list"));
        }
        self.drain(compiler, DrainOwner::Operator(who.to_owned()), reason, min_available, presence, now)
    }

    /// An operator enables a compiler: their own drain or another operator's, or what nobody owns any more.
    pub(crate) fn enable_asked(
        &self,
        compiler: &NodeName,
        presence: &Presence,
    ) -> Result<Vec<Fact>, Refusal> {
        let known = self.balance.get(compiler);
        match known.map(|balance| &balance.wanted) {
            Some(Wanted::Drained { .. }) if let Some(id) = self.leans_on_the_drain_of(compiler) => {
                let reason = format!("rollout {id} changes {compiler} while it is drained");
                Err(Refusal::new(RefusalCode::Conflict, reason, format!("bunraku rollout show {id}")))
            }
            Some(Wanted::Drained { owner, reason, .. }) => match self.holds(owner) {
                true => Err(self.held_by(compiler, owner, reason)),
                false => Ok(vec![self.wanted(compiler, Wanted::Ready, 0, presence)]),
            },
            Some(Wanted::Ready) | None => self.enable_unknown(compiler, presence),
        }
    }

    /// Nothing here wants it drained. A balancer may: by an order that a restored backup does not know.
    fn enable_unknown(&self, compiler: &NodeName, presence: &Presence) -> Result<Vec<Fact>, Refusal> {
        let newest = self.balance.get(compiler).map_or(Generation::default(), |balance| balance.generation);
        let all = presence.balancers().iter();
        let seen = all.flat_map(|(name, view)| view.servers_of(compiler).map(move |server| (name, server)));
        let seen: Vec<(&NodeName, &ServerSeen)> = seen.collect();
        let unknown = |wish: &Wish| wish.drained && wish.generation > newest;
        if seen.iter().any(|(_, server)| server.wish.as_ref().is_some_and(unknown)) {
            return Ok(vec![self.wanted(compiler, Wanted::Ready, 0, presence)]);
        }
        if let Some((balancer, server)) = seen.iter().find(|(_, server)| server.foreign) {
            let reason = format!(
                "{}/{} at {balancer} was not put out of service by bunraku, so bunraku does not put it back",
                server.backend, server.server
            );
            return Err(Refusal::new(
                RefusalCode::Conflict,
                reason,
                format!("enable it at {balancer} itself"),
            ));
        }
        if !self.balance.contains_key(compiler) {
            self.known_node(compiler)?;
        }
        Ok(Vec::new())
    }

    /// Whether an owner will still end its drain itself. Operators do that by asking.
    fn holds(&self, owner: &DrainOwner) -> bool {
        match owner {
            DrainOwner::Operator(_) | DrainOwner::Crl => false,
            DrainOwner::Rollout(id) => self.rollouts.get(id).is_some_and(|rollout| !rollout.is_ended()),
            DrainOwner::Deploy(id) => self.deploys.get(id).is_some_and(|deploy| !deploy.is_ended()),
        }
    }

    fn held_by(&self, compiler: &NodeName, owner: &DrainOwner, reason: &str) -> Refusal {
        let end =
            if self.holds(owner) { owner.end(compiler) } else { format!("bunraku lb enable {compiler}") };
        Refusal::new(RefusalCode::Conflict, format!("{compiler} is drained by {owner}: {reason}"), end)
    }

    pub(crate) fn wanted(
        &self,
        compiler: &NodeName,
        wanted: Wanted,
        min_available: u32,
        presence: &Presence,
    ) -> Fact {
        let (compiler, generation) = (compiler.clone(), self.next_decision(compiler, presence));
        Fact::BalanceWanted { compiler, wanted, generation, min_available, undone: None, refused: false }
    }

    /// Above every number that was decided here or seen at a balancer.
    fn next_decision(&self, compiler: &NodeName, presence: &Presence) -> Generation {
        let own = self.balance.get(compiler).map(|balance| balance.generation);
        let servers = presence.balancers().values().flat_map(|view| view.servers_of(compiler));
        let seen = servers.filter_map(|server| server.wish.as_ref().map(|wish| wish.generation));
        seen.chain(own).max().unwrap_or_default().next()
    }

    /// A balancer said no to this order: the whole drain is undone.
    pub(crate) fn balance_refused(
        &self,
        balancer: &NodeName,
        compiler: &NodeName,
        generation: Generation,
        reason: &str,
        presence: &Presence,
    ) -> Option<Fact> {
        let balance = self.balance.get(compiler)?;
        let asked = balance.generation == generation && balance.is_drained();
        asked.then(|| self.undo(compiler, format!("{balancer} refused: {reason}"), true, presence))
    }

    fn undo(&self, compiler: &NodeName, why: String, refused: bool, presence: &Presence) -> Fact {
        let (compiler, generation) = (compiler.clone(), self.next_decision(compiler, presence));
        let (wanted, undone) = (Wanted::Ready, Some(why));
        Fact::BalanceWanted { compiler, wanted, generation, min_available: 0, undone, refused }
    }

    /// Drains that all balancers agree to by now, and those that they did not agree to in time.
    pub(crate) fn due_balance(&self, presence: &Presence, now: Millis) -> Vec<Fact> {
        let open = self.balance.iter().filter(|(_, balance)| balance.is_open());
        let due = open.filter_map(|(compiler, balance)| {
            let sight = self.sight(presence, now);
            if sight.as_ref().is_ok_and(|sight| sight.is_out_everywhere(compiler)) {
                let (compiler, generation) = (compiler.clone(), balance.generation);
                return Some(Fact::BalanceAgreed { compiler, generation });
            }
            if now < self.agree_by(balance, presence) {
                return None;
            }
            let why = match sight {
                Ok(_) => {
                    format!("not every balancer drained it within {}", span(self.settings.balance_deadline))
                }
                Err(unseen) => unseen.reason,
            };
            Some(self.undo(compiler, why, false, presence))
        });
        due.collect()
    }

    /// A controller that was away leaves the balancers their time again.
    pub fn agree_by(&self, balance: &Balance, presence: &Presence) -> Millis {
        balance.decided_at.max(presence.up_since()).saturating_add(self.settings.balance_deadline)
    }

    pub(crate) fn balance_deadline(&self, presence: &Presence) -> Option<Millis> {
        let open = self.balance.values().filter(|balance| balance.is_open());
        open.map(|balance| self.agree_by(balance, presence)).min()
    }

    /// Every connected balancer is told what it was not seen to have heard, and to close the sessions of a compiler that
    /// a rollout takes by force, as long as it may have some. One that has heard more than is decided
    /// here is left alone: this journal lacks records.
    pub(crate) fn balance_steps(&self, presence: &Presence, steps: &mut Vec<Step>) {
        for balancer in self.balancers().filter(|balancer| presence.is_connected(balancer)) {
            let Some(view) = presence.balancer(balancer) else {
                continue;
            };
            for (compiler, balance) in &self.balance {
                let newer = |wish: &Wish| wish.generation > balance.generation;
                let close = self.is_closing(compiler)
                    && view.servers_of(compiler).any(|server| server.sessions != Some(0));
                let mut servers = view.servers_of(compiler).peekable();
                let heard = view.servers_of(compiler).all(|server| self.has_heard(server));
                if servers.peek().is_none() || heard && !close {
                    continue;
                }
                if servers.any(|server| server.wish.as_ref().is_some_and(newer)) {
                    continue;
                }
                let (owner, reason) = balance.told();
                steps.push(Step::Balance {
                    balancer: balancer.clone(),
                    compiler: compiler.clone(),
                    drained: balance.is_drained(),
                    owner,
                    reason,
                    generation: balance.generation,
                    min_available: balance.min_available,
                    slow_start_s: self.settings.slow_start_s,
                    close,
                });
            }
        }
    }

    /// What is wanted of each compiler about which anything was ever decided.
    pub fn balance(&self) -> &std::collections::BTreeMap<NodeName, Balance> {
        &self.balance
    }

    /// Whether every balancer shows this compiler in service: ready and up wherever it is carried.
    pub fn is_in_service(&self, compiler: &NodeName, presence: &Presence, now: Millis) -> bool {
        self.sight(presence, now).is_ok_and(|sight| sight.is_in_service(compiler))
    }

    /// What an operator must know of compilers at the balancers, one line each.
    pub fn balance_alarms(&self, presence: &Presence, now: Millis) -> Vec<String> {
        let ownerless = self.balance.iter().filter_map(|(compiler, balance)| match &balance.wanted {
            Wanted::Drained { owner: owner @ (DrainOwner::Rollout(_) | DrainOwner::Deploy(_)), reason, since }
                if !self.holds(owner) =>
            {
                let long = span(now.saturating_sub(*since));
                if matches!(owner, DrainOwner::Deploy(_)) && !self.is_proven(compiler) {
                    return Some(format!(
                        "{compiler} is out of service for {long} until it serves what is committed: {reason}\nhint: \
                         systemctl status bunraku-agent there; with the old code all the same: bunraku lb enable \
                         {compiler}"
                    ));
                }
                Some(format!(
                    "{compiler} is drained for {long} by {owner}, which has ended: {reason}\nhint: bunraku lb enable \
                     {compiler}"
                ))
            }
            Wanted::Drained { owner: DrainOwner::Crl, reason, since } => Some(format!(
                "{compiler} is out of service for {}: {reason}\nhint: systemctl status bunraku-agent there; all the \
                 same: bunraku lb enable {compiler}",
                span(now.saturating_sub(*since))
            )),
            Wanted::Drained { .. } | Wanted::Ready => None,
        });
        let mut alarms: Vec<String> = ownerless.collect();
        for balancer in self.balancers() {
            if !self.balance.is_empty()
                && let Some(why) = self.unseen(balancer, presence, now)
            {
                alarms.push(format!("balancer {balancer} cannot be seen: {why}"));
            }
            let servers = presence.balancer(balancer).into_iter().flat_map(|view| &view.servers);
            for server in servers {
                let compiler = &server.compiler;
                let decided =
                    self.balance.get(compiler).map_or(Generation::default(), |known| known.generation);
                if let Some(wish) =
                    server.wish.as_ref().filter(|wish| wish.drained && wish.generation > decided)
                {
                    alarms.push(format!(
                        "{}/{} at {balancer} is drained by {}, which this controller does not know\nhint: bunraku lb \
                         enable {compiler}",
                        server.backend, server.server, wish.owner
                    ));
                }
            }
        }
        alarms
    }
}

/// What a compiler lacks may come at any moment; what an operator wants it out for is still to be done then.
fn outlives(owner: &DrainOwner, holder: &DrainOwner) -> bool {
    matches!((owner, holder), (DrainOwner::Operator(_), DrainOwner::Crl))
}

impl Balance {
    /// A drain to which the balancers have not agreed yet.
    fn is_open(&self) -> bool {
        self.is_drained() && self.agreed_at.is_none()
    }
}
