//! The policy `drain`: compilers that cannot follow a deploy are taken out of service, and come back by themselves as
//! soon as they serve what is committed. One that may not go forbids the deploy (I3 before I2).

use bunraku_common::NodeName;

use crate::{
    Commit, Deploy, DrainOwner, Fact, Millis, Outcome, Phase, Policy, Presence, RefusalCode, State, Wanted,
    due::NodeFault,
};

/// How a compiler that cannot stage gets out of a deploy's way.
enum WayOut {
    /// Nobody is sent to it, and why.
    Out(&'static str),
    /// It is being drained.
    Waits,
    /// The drain that is to be decided.
    Drain(Fact),
    Never(String),
}

impl State {
    /// What compilers that cannot stage do to a deploy whose policy is `drain`; nothing while one of them is drained.
    pub(crate) fn faults_drained(
        &self,
        deploy: &Deploy,
        faults: &[NodeFault<'_>],
        presence: &Presence,
        now: Millis,
    ) -> Vec<Fact> {
        let mut skipped = Vec::new();
        for fault in faults {
            match self.way_out(deploy, fault, presence, now) {
                WayOut::Out(how) => skipped.push(Fact::NodeSkipped {
                    deploy: deploy.id,
                    environment: deploy.environment.clone(),
                    node: fault.node.clone(),
                    reason: format!("{}; {how}", fault.told()),
                }),
                WayOut::Waits | WayOut::Drain(_) => {}
                WayOut::Never(why) => {
                    let reason = format!("{}, and {why}", fault.reason);
                    let fault = NodeFault { node: fault.node, reason, hint: fault.hint.clone() };
                    return self.abandoned_for(deploy, &[fault]);
                }
            }
        }
        skipped
    }

    fn way_out(&self, deploy: &Deploy, fault: &NodeFault<'_>, presence: &Presence, now: Millis) -> WayOut {
        match self.balance.get(fault.node) {
            Some(balance) if balance.is_drained() && balance.agreed_at.is_some() => {
                return WayOut::Out("it is drained until it follows");
            }
            Some(balance) if balance.is_drained() => return WayOut::Waits,
            Some(balance) if balance.decided_at >= deploy.requested_at => {
                if let Some(why) = &balance.undone {
                    return WayOut::Never(format!("its drain was undone: {why}"));
                }
            }
            Some(_) | None => {}
        }
        let reason = format!("it could not stage deploy {}: {}", deploy.id, fault.reason);
        match self.drain(fault.node, DrainOwner::Deploy(deploy.id), &reason, 0, presence, now) {
            Ok(facts) => facts.into_iter().next().map_or(WayOut::Waits, WayOut::Drain),
            Err(why) if why.code == RefusalCode::NotFound => WayOut::Out("no balancer carries it"),
            Err(why) => WayOut::Never(why.reason),
        }
    }

    /// The next drain or enable that deploys demand: one, because the next drain must count it.
    pub(crate) fn due_follow(&self, presence: &Presence, now: Millis) -> Option<Fact> {
        self.caught_up(presence)
            .or_else(|| self.unstaged_to_drain(presence, now))
            .or_else(|| self.straggler_to_drain(presence, now))
    }

    /// Whether a drain is under way that decides what becomes of this deploy.
    pub(crate) fn waits_for_drain(&self, deploy: &Deploy) -> bool {
        let Phase::Staging { nodes, .. } = &deploy.phase else { return false };
        deploy.policy == Policy::Drain
            && nodes.iter().any(|(node, stage)| {
                let open = |balance: &crate::Balance| balance.is_drained() && balance.agreed_at.is_none();
                stage.is_open() && self.balance.get(node).is_some_and(open)
            })
    }

    /// A compiler that a deploy has drained and that serves all that is committed by now.
    fn caught_up(&self, presence: &Presence) -> Option<Fact> {
        let drained = self.balance.iter().filter_map(|(node, balance)| match balance.owner() {
            Some(DrainOwner::Deploy(id)) => Some((node, id)),
            Some(DrainOwner::Operator(_) | DrainOwner::Rollout(_) | DrainOwner::Crl) | None => None,
        });
        let mut back = drained.filter(|(node, id)| {
            let staging = self.deploys.get(id).is_some_and(|deploy| {
                matches!(deploy.phase, Phase::Queued | Phase::Building { .. } | Phase::Staging { .. })
            });
            let active = self.fleet.nodes.get(*node).is_some_and(crate::NodeRecord::is_active_compiler);
            let lacks_revocations = self.settings.crl_drain && self.lacks_revocations(node);
            !staging && active && presence.is_connected(node) && self.is_proven(node) && !lacks_revocations
        });
        back.next().map(|(node, _)| self.wanted(node, Wanted::Ready, 0, presence))
    }

    fn unstaged_to_drain(&self, presence: &Presence, now: Millis) -> Option<Fact> {
        let mut deploys = self.active_deploys().filter(|deploy| deploy.policy == Policy::Drain);
        deploys.find_map(|deploy| {
            let faults = self.staging_faults(deploy, Some(presence), now);
            faults.iter().find_map(|fault| match self.way_out(deploy, fault, presence, now) {
                WayOut::Drain(fact) => Some(fact),
                WayOut::Out(_) | WayOut::Waits | WayOut::Never(_) => None,
            })
        })
    }

    /// One that was to follow after the commit decision and is away, or was late. Where it may not go it stays in
    /// service, on record as behind; whoever enables it by hand has the last word.
    fn straggler_to_drain(&self, presence: &Presence, now: Millis) -> Option<Fact> {
        let committed = self.environments.iter();
        let committed = committed.filter_map(|(name, it)| Some((name, it.committed.as_ref()?.generation)));
        let mut deploys = committed.filter_map(|(name, generation)| {
            let of =
                |deploy: &&Deploy| deploy.environment == *name && deploy.generation() == Some(generation);
            self.deploys.values().rev().find(of).filter(|deploy| deploy.policy == Policy::Drain)
        });
        deploys.find_map(|deploy| {
            let behind: Vec<&NodeName> = match &deploy.phase {
                Phase::Committing { nodes, .. } => {
                    let away =
                        |node: &NodeName| self.unreachable_at(node, presence).is_some_and(|at| at <= now);
                    let open = nodes.iter().filter(|(_, commit)| Commit::is_open(commit));
                    open.map(|(node, _)| node).filter(|node| away(node)).collect()
                }
                Phase::Ended { outcome: Outcome::Behind { nodes, .. }, .. } => nodes.iter().collect(),
                Phase::Queued | Phase::Building { .. } | Phase::Staging { .. } | Phase::Ended { .. } => {
                    Vec::new()
                }
            };
            behind.into_iter().find_map(|node| {
                let active = self.fleet.nodes.get(node).is_some_and(crate::NodeRecord::is_active_compiler);
                let decided =
                    self.balance.get(node).is_some_and(|known| known.decided_at >= deploy.requested_at);
                if !active || decided || self.is_proven(node) {
                    return None;
                }
                let reason = format!("it has not followed deploy {}", deploy.id);
                let drain = self.drain(node, DrainOwner::Deploy(deploy.id), &reason, 0, presence, now);
                drain.ok()?.into_iter().next()
            })
        })
    }
}
