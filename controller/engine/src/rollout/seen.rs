//! What is seen of one compiler's turn: whether it is out, empty, back, and on what is committed.

use bunraku_common::{EnvironmentName, NodeName};

use super::Turn;
use crate::{Millis, NodeRecord, Presence, State, view::FRESH};

impl State {
    /// Whether every balancer is seen to have drained it.
    pub(crate) fn is_out(&self, node: &NodeName, presence: &Presence, now: Millis) -> bool {
        let agreed = self.balance.get(node).is_some_and(|balance| balance.agreed_at.is_some());
        agreed && self.sight(presence, now).is_ok_and(|sight| sight.is_out_everywhere(node))
    }

    /// Whether it is back where it was: in service, or out where somebody else had put it out.
    pub(crate) fn is_back(&self, node: &NodeName, presence: &Presence, now: Millis) -> bool {
        self.sight(presence, now).is_ok_and(|sight| !sight.is_carried(node) || sight.is_back(node))
    }

    /// Who is still served by a drained compiler, if anybody. What was counted before all balancers had drained it says
    /// nothing.
    pub(crate) fn busy(&self, node: &NodeName, presence: &Presence, now: Millis) -> Option<String> {
        let balance = self.balance.get(node)?;
        let Some(agreed_at) = balance.agreed_at else {
            return Some("not every balancer has drained it".to_owned());
        };
        let sessions = self.sight(presence, now).map_or(0, |sight| sight.sessions(node));
        if sessions > 0 {
            return Some(format!("{sessions} sessions are open at the balancers"));
        }
        let fresh = |at: Millis| at > agreed_at && now.saturating_sub(at) <= FRESH;
        match presence.idle(node).filter(|idle| fresh(idle.at) && presence.is_connected(node)) {
            None => Some("it has not said yet whether it is idle".to_owned()),
            Some(idle) if idle.is_empty() => None,
            Some(idle) => Some(format!(
                "{} connection{}, {} of {} JRubies at work",
                idle.connections,
                if idle.connections == 1 { "" } else { "s" },
                idle.jrubies.saturating_sub(idle.jrubies_free),
                idle.jrubies
            )),
        }
    }

    /// Whether it serves what is committed of every environment.
    pub(crate) fn is_proven(&self, node: &NodeName) -> bool {
        self.fleet.nodes.get(node).is_some_and(|record| self.unproven(record).next().is_none())
    }

    /// What is committed and not proven there.
    fn unproven<'a>(&'a self, record: &'a NodeRecord) -> impl Iterator<Item = &'a EnvironmentName> {
        let wanted = self.environments.iter().filter(|(_, environment)| !environment.adopting);
        let committed =
            wanted.filter_map(|(name, environment)| Some((name, environment.committed.as_ref()?)));
        committed.filter(|(name, committed)| !record.has_proven(name, committed)).map(|(name, _)| name)
    }

    /// What it does not serve yet, in words; empty: it serves all that is committed.
    pub(crate) fn unserved(&self, node: &NodeName) -> String {
        let Some(record) = self.fleet.nodes.get(node) else { return String::new() };
        self.unproven(record).next().map_or_else(String::new, |name| {
            let owed = record.environments.get(name).map_or("", |on_node| on_node.owed.as_str());
            let colon = if owed.is_empty() { "" } else { ": " };
            format!("it does not serve what is committed in {name}{colon}{owed}")
        })
    }

    /// Why a turn is not seen to be healthy and proven; empty: nobody has said.
    pub(crate) fn not_verified(&self, node: &NodeName, turn: &Turn, presence: &Presence) -> String {
        let said = presence.said.get(node).filter(|(generation, _)| *generation == turn.generation);
        said.map_or_else(|| self.unserved(node), |(_, why)| why.clone())
    }
}
