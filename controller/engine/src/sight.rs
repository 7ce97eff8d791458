//! What all balancers show together: which compilers are in service, and what would be left without one of them (I3).
//! When in doubt a compiler is out of service, and a balancer that cannot be seen forbids every drain.

use std::collections::BTreeSet;

use bunraku_common::{NodeName, Role};

use crate::{
    Balance, Millis, Presence, Refusal, RefusalCode, State, Wanted,
    deploy::span,
    view::{BalancerView, FRESH, ServerSeen},
};

/// The balancers as they were seen lately: all of them, or there is none of this.
pub(crate) struct Sight<'a> {
    state: &'a State,
    views: Vec<(&'a NodeName, &'a BalancerView)>,
}

/// One backend of one balancer.
pub(crate) struct Crowd<'a> {
    pub(crate) name: String,
    pub(crate) compilers: BTreeSet<&'a NodeName>,
    pub(crate) in_service: usize,
    pub(crate) floor: u32,
}

impl State {
    /// Nodes whose word counts for what is in service. One that is held counts too: it may still carry traffic.
    pub fn balancers(&self) -> impl Iterator<Item = &NodeName> {
        let nodes = self.fleet.nodes.iter();
        nodes
            .filter(|(_, node)| node.enrolled && node.roles.contains(&Role::LoadBalancer))
            .map(|(name, _)| name)
    }

    /// Why a balancer's view cannot be relied on now, if it cannot.
    pub fn unseen(&self, balancer: &NodeName, presence: &Presence, now: Millis) -> Option<String> {
        if !presence.is_connected(balancer) {
            return Some("it is not connected".to_owned());
        }
        let Some(view) = presence.balancer(balancer) else {
            return Some("it has not said yet what it carries".to_owned());
        };
        if !view.trouble.is_empty() {
            return Some(view.trouble.clone());
        }
        let age = now.saturating_sub(view.at);
        (age > FRESH).then(|| format!("what it carries was last seen {} ago", span(age)))
    }

    /// # Errors
    /// When one balancer cannot be seen.
    pub(crate) fn sight<'a>(&'a self, presence: &'a Presence, now: Millis) -> Result<Sight<'a>, Refusal> {
        let mut views = Vec::new();
        for balancer in self.balancers() {
            if let Some(why) = self.unseen(balancer, presence, now) {
                let reason = format!("balancer {balancer} cannot be seen: {why}");
                let hint = format!(
                    "bunraku nodes show {balancer}; one that is gone for good: bunraku nodes remove {balancer}"
                );
                return Err(Refusal::new(RefusalCode::Conflict, reason, hint));
            }
            views.extend(presence.balancer(balancer).map(|view| (balancer, view)));
        }
        Ok(Sight { state: self, views })
    }

    /// Whether a server was seen to have been told the newest decision about its compiler.
    pub fn has_heard(&self, server: &ServerSeen) -> bool {
        match (self.balance.get(&server.compiler), &server.wish) {
            (None, wish) => wish.as_ref().is_none_or(|wish| !wish.drained),
            (Some(_), None) => false,
            (Some(balance), Some(wish)) => balance.is_asked_by(wish),
        }
    }
}

impl<'a> Sight<'a> {
    pub(crate) fn servers_of<'s>(
        &'s self,
        compiler: &'s NodeName,
    ) -> impl Iterator<Item = &'a ServerSeen> + 's {
        let servers = self.views.iter().flat_map(|(_, view)| view.servers.iter());
        servers.filter(move |server| server.compiler == *compiler)
    }

    pub(crate) fn is_carried(&self, compiler: &NodeName) -> bool {
        self.servers_of(compiler).next().is_some()
    }

    /// Ready and up in every backend of every balancer that carries it, and not about to be drained.
    pub(crate) fn is_in_service(&self, compiler: &NodeName) -> bool {
        let wanted_out = self.state.balance.get(compiler).is_some_and(Balance::is_drained);
        let serves = |server: &ServerSeen| server.in_service && self.state.has_heard(server);
        !wanted_out && self.is_carried(compiler) && self.servers_of(compiler).all(serves)
    }

    /// Whether every balancer has done the newest decision about this compiler, a drain.
    pub(crate) fn is_out_everywhere(&self, compiler: &NodeName) -> bool {
        let out = |server: &ServerSeen| !server.in_service && self.state.has_heard(server);
        self.is_carried(compiler) && self.servers_of(compiler).all(out)
    }

    /// Out only where somebody else has put it out.
    pub(crate) fn is_back(&self, compiler: &NodeName) -> bool {
        let back =
            |server: &ServerSeen| (server.in_service || server.foreign) && self.state.has_heard(server);
        let wanted_out = self.state.balance.get(compiler).is_some_and(Balance::is_drained);
        !wanted_out && self.servers_of(compiler).all(back)
    }

    /// Sessions that balancers are known to have open to it. Where one cannot tell, the compiler's own count decides.
    pub(crate) fn sessions(&self, compiler: &NodeName) -> u64 {
        self.servers_of(compiler).filter_map(|server| server.sessions).sum()
    }

    /// Every backend of every balancer, for a plan.
    pub(crate) fn crowds(&self, min_available: u32) -> Vec<Crowd<'a>> {
        let mut crowds = Vec::new();
        for (balancer, view) in &self.views {
            let backends: BTreeSet<&str> =
                view.servers.iter().map(|server| server.backend.as_str()).collect();
            for backend in backends {
                let compilers = view.compilers_of(backend);
                let in_service = compilers.iter().filter(|compiler| self.is_in_service(compiler)).count();
                let floor = self.floor(view, backend, &compilers).max(min_available);
                crowds.push(Crowd { name: format!("{backend} of {balancer}"), compilers, in_service, floor });
            }
        }
        crowds
    }

    /// # Errors
    /// The first backend in which too few would stay in service without this compiler (I3).
    pub(crate) fn may_go(&self, compiler: &NodeName, min_available: u32) -> Result<(), Refusal> {
        for (balancer, view) in &self.views {
            let backends: BTreeSet<&str> =
                view.servers_of(compiler).map(|server| server.backend.as_str()).collect();
            for backend in backends {
                let others = view.compilers_of(backend);
                let floor = self.floor(view, backend, &others).max(min_available);
                let left =
                    others.iter().filter(|other| **other != compiler && self.is_in_service(other)).count();
                if left < floor as usize {
                    let reason = format!(
                        "without {compiler} backend {backend} of {balancer} would have {left} compilers in service, at \
                         least {floor} must stay"
                    );
                    return Err(Refusal::new(RefusalCode::Conflict, reason, "bunraku lb status"));
                }
            }
        }
        Ok(())
    }

    /// The largest number that anybody asked for: the balancer itself, or who has drained another of these compilers.
    /// One must always stay.
    fn floor(&self, view: &BalancerView, backend: &str, compilers: &BTreeSet<&NodeName>) -> u32 {
        let own = view.floors.get(backend).copied().unwrap_or(0);
        let drained = compilers.iter().filter_map(|other| self.state.balance.get(*other));
        let asked = drained.filter(|balance| balance.is_drained()).map(|balance| balance.min_available).max();
        own.max(asked.unwrap_or(0)).max(1)
    }
}

impl Wanted {
    pub(crate) fn is_drained(&self) -> bool {
        matches!(self, Self::Drained { .. })
    }
}
