//! Rotation of the mesh CA, in phases that a person moves on: each is one fact, so each goes on after a crash where it
//! was. A phase waits until every enrolled node is ready for it, except those that are named to be left: they come back
//! by their Puppet certificate or a token.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Digest, NodeName, OperatorName};
use serde::{Deserialize, Serialize};

use crate::{
    EnrolledBy, Fact, Millis, Owner, Refusal, RefusalCode, State,
    deploy::{names, span},
};

/// Part of the [`State`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The pin of the CA that counts, once there was a rotation.
    pub current: Option<Digest>,
    pub rotation: Option<CaRotation>,
}

/// A rotation under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRotation {
    pub from: Digest,
    pub to: Digest,
    pub phase: CaPhase,
    pub since: Millis,
    /// What each node said that it has of the new CA.
    pub nodes: BTreeMap<NodeName, CaHold>,
    /// Operators who were given an identity since the announcement, and from the overlap on one by the new CA.
    pub operators: BTreeSet<OperatorName>,
    /// Nodes for which no phase waits.
    pub left: BTreeSet<NodeName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaPhase {
    /// The new CA exists; whoever renews its identity hears of it. The old one signs.
    Announce,
    /// The new CA signs nodes and operators; every door accepts both.
    Overlap,
    /// The controller shows a certificate of the new CA.
    Switch,
    /// Only the new CA counts. The rotation is over.
    Retire,
}

/// What a node has of the new CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaHold {
    Nothing,
    /// It trusts it.
    Anchor,
    /// It trusts it and was signed by it.
    Certificate,
}

impl CaPhase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Announce => "announce",
            Self::Overlap => "overlap",
            Self::Switch => "switch",
            Self::Retire => "retire",
        }
    }

    pub fn next(self) -> Self {
        match self {
            Self::Announce => Self::Overlap,
            Self::Overlap => Self::Switch,
            Self::Switch | Self::Retire => Self::Retire,
        }
    }

    /// What every node must have before this phase may begin.
    pub fn needs(self) -> CaHold {
        match self {
            Self::Announce => CaHold::Nothing,
            Self::Overlap | Self::Switch => CaHold::Anchor,
            Self::Retire => CaHold::Certificate,
        }
    }
}

impl State {
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The enrolled nodes that have not what the next phase needs, and what they have. Those to be left are not named.
    pub fn ca_lacking(&self) -> BTreeMap<NodeName, CaHold> {
        let Some(rotation) = &self.authority.rotation else { return BTreeMap::new() };
        let needed = rotation.phase.next().needs();
        let enrolled = self.fleet.nodes.iter().filter(|(_, record)| record.enrolled).map(|(node, _)| node);
        let waited_for = enrolled.filter(|node| !rotation.left.contains(*node));
        let held = waited_for.map(|node| (node.clone(), rotation.holds(node)));
        held.filter(|(_, hold)| *hold < needed).collect()
    }

    /// Two CAs are trusted while a rotation stands: nobody should forget that one does.
    pub(crate) fn ca_alarm(&self, now: Millis) -> Option<String> {
        let rotation = self.authority.rotation.as_ref()?;
        let stands = now.saturating_sub(rotation.since);
        (stands > FORGOTTEN).then(|| {
            let (phase, next) = (rotation.phase.name(), rotation.phase.next().name());
            format!(
                "the rotation of the mesh CA stands in phase {phase} for {}, and {next} was not begun\nhint: bunraku ca status",
                span(stands)
            )
        })
    }

    /// Begins a rotation, or moves the one under way to its next phase. `to`: the CA that lies beside the current one.
    pub(crate) fn rotate_ca(
        &self,
        asked: CaPhase,
        from: Digest,
        to: Digest,
        leave: BTreeSet<NodeName>,
        who: &str,
    ) -> Result<Vec<Fact>, Refusal> {
        let phase = self.authority.rotation.as_ref().map_or(CaPhase::Announce, |r| r.phase.next());
        if asked != phase {
            let reason = format!("phase {} cannot begin: the next one is {}", asked.name(), phase.name());
            return Err(Refusal::new(RefusalCode::Conflict, reason, "bunraku ca status"));
        }
        for node in &leave {
            self.known_node(node)?;
        }
        let moved =
            |phase, from, to, left| Fact::CaRotationMoved { phase, from, to, left, who: who.to_owned() };
        let Some(rotation) = &self.authority.rotation else {
            return Ok(vec![moved(phase, from, to, leave)]);
        };
        let left: BTreeSet<NodeName> = &rotation.left | &leave;
        let waits: Vec<NodeName> =
            self.ca_lacking().into_keys().filter(|node| !leave.contains(node)).collect();
        if !waits.is_empty() {
            return Err(not_ready(phase, &waits));
        }
        let moved = moved(phase, rotation.from, rotation.to, left);
        if phase != CaPhase::Retire {
            return Ok(vec![moved]);
        }
        // The rotation's own fact comes last: cut off before it, the phase is simply not over yet.
        let cut = self
            .fleet
            .nodes
            .iter()
            .filter(|(node, record)| record.enrolled && rotation.holds(node) < CaHold::Certificate);
        let cut = cut.map(|(node, _)| Fact::IdentityCut { node: node.clone(), reason: RETIRED.to_owned() });
        Ok(cut.chain([moved]).collect())
    }

    /// A node said whom it trusts: first the CA that signed it.
    pub(crate) fn anchors_seen(&self, node: NodeName, anchors: &[Digest]) -> Option<Fact> {
        let rotation = self.authority.rotation.as_ref()?;
        self.fleet.nodes.get(&node).filter(|record| record.enrolled)?;
        let hold = match anchors.iter().position(|anchor| *anchor == rotation.to) {
            None => CaHold::Nothing,
            Some(0) => CaHold::Certificate,
            Some(_) => CaHold::Anchor,
        };
        (rotation.holds(&node) != hold).then_some(Fact::AnchorsHeld { node, ca: rotation.to, hold })
    }

    pub(crate) fn apply_authority(&mut self, fact: &Fact, at: Millis) {
        if let Fact::CaRotationMoved { phase, from, to, left, who: _ } = fact {
            self.rotation_moved(*phase, *from, *to, left, at);
        }
        let Some(rotation) = &mut self.authority.rotation else { return };
        if let Fact::AnchorsHeld { node, ca, hold } = fact
            && *ca == rotation.to
        {
            rotation.nodes.insert(node.clone(), *hold);
        }
        if let Fact::NodeEnrolled { node, by: EnrolledBy::Token { .. } | EnrolledBy::Puppet { .. }, .. } =
            fact
        {
            // Another key, perhaps another host: what it has it will say.
            rotation.nodes.remove(node);
            rotation.left.remove(node);
        }
        if let Fact::OperatorEnrolled { name, .. } = fact {
            rotation.operators.insert(name.clone());
        }
    }

    fn rotation_moved(
        &mut self,
        phase: CaPhase,
        from: Digest,
        to: Digest,
        left: &BTreeSet<NodeName>,
        at: Millis,
    ) {
        if phase == CaPhase::Retire {
            let renewed = self.authority.rotation.take().map(|over| over.operators).unwrap_or_default();
            self.authority.current = Some(to);
            let operators = self.fleet.operators.keys().filter(|name| !renewed.contains(*name));
            for name in operators.cloned().collect::<Vec<_>>() {
                if let Some(operator) = self.fleet.operators.get_mut(&name) {
                    operator.enrolled = false;
                }
                self.fleet.deny_owner(&Owner::Operator(name), RETIRED);
            }
            return;
        }
        let fresh = || CaRotation {
            from,
            to,
            phase,
            since: at,
            nodes: BTreeMap::new(),
            operators: BTreeSet::new(),
            left: BTreeSet::new(),
        };
        self.authority.current = Some(from);
        let rotation = self.authority.rotation.get_or_insert_with(fresh);
        (rotation.phase, rotation.since) = (phase, at);
        if phase == CaPhase::Overlap {
            rotation.operators.clear();
        }
        rotation.left.clone_from(left);
    }
}

/// A phase that stands for longer is an alarm: connected nodes are ready in seconds, and those that are off were given a
/// weekend.
const FORGOTTEN: Millis = 3 * 24 * 3_600_000;

/// Why an identity ended.
const RETIRED: &str = "the mesh CA that had signed it was retired";

/// In a hint.
const NAMED: usize = 5;

impl CaRotation {
    pub fn holds(&self, node: &NodeName) -> CaHold {
        self.nodes.get(node).copied().unwrap_or(CaHold::Nothing)
    }
}

fn not_ready(phase: CaPhase, waits: &[NodeName]) -> Refusal {
    let lacks = match phase.needs() {
        CaHold::Certificate => "no certificate by the new CA yet",
        CaHold::Nothing | CaHold::Anchor => "not heard of the new CA yet",
    };
    let reason = format!("phase {} waits: {} {lacks}", phase.name(), has(waits));
    let leave: String = waits.iter().take(NAMED).map(|node| format!(" --leave {node}")).collect();
    let hint = format!(
        "start the agents there, and look again: bunraku ca status; or leave them behind: bunraku ca rotate --yes{leave}"
    );
    Refusal::new(RefusalCode::Conflict, reason, hint)
}

fn has(nodes: &[NodeName]) -> String {
    let verb = if nodes.len() == 1 { "has" } else { "have" };
    format!("{} {verb}", names(nodes.iter()))
}
