//! What a certificate on its way demands by itself: its rollout, its end, and an end in any case.

use bunraku_common::NodeName;

use super::{Attempt, CertificateFact, CertificatePhase};
use crate::{
    Action, Ask, Fact, Millis, Presence, Rollout, RolloutPhase, RolloutPolicy, State, TurnPhase, deploy::span,
};

/// For request, signature and staging together; a CA with a CRL of a hundred thousand entries needs seconds for each.
const DEADLINE: Millis = 15 * 60_000;
/// How long one that lies ready waits for its rollout.
const READY: Millis = 60 * 60_000;

impl State {
    pub(crate) fn due_certificates(&self, presence: &Presence, now: Millis) -> Option<Fact> {
        let open =
            self.certificates.nodes.iter().filter_map(|(node, known)| Some((node, known.attempt.as_ref()?)));
        open.filter(|(_, attempt)| attempt.is_open())
            .find_map(|(node, attempt)| self.due_certificate(node, attempt, presence, now))
    }

    fn due_certificate(
        &self,
        node: &NodeName,
        attempt: &Attempt,
        presence: &Presence,
        now: Millis,
    ) -> Option<Fact> {
        let since = attempt.since.max(presence.up_since());
        let late = |limit: Millis| {
            let trouble =
                if attempt.trouble.is_empty() { "it had no answer" } else { attempt.trouble.as_str() };
            let reason =
                format!("it was {} for {}: {trouble}", attempt.phase.name(), span(now.saturating_sub(since)));
            (now.saturating_sub(since) >= limit)
                .then(|| failed(node, attempt, reason, format!("bunraku cert request {node}")))
        };
        match &attempt.phase {
            CertificatePhase::Requesting
            | CertificatePhase::Signing { .. }
            | CertificatePhase::Staging { .. } => late(DEADLINE),
            CertificatePhase::Ready { fingerprint } => {
                self.begin_installing(node, attempt, fingerprint, presence, now).or_else(|| late(READY))
            }
            CertificatePhase::Installing { rollout, fingerprint } => {
                self.installed(node, attempt, self.rollouts.get(rollout), fingerprint)
            }
            CertificatePhase::Done { .. } | CertificatePhase::Failed { .. } => None,
        }
    }

    /// A rollout of one. What stands in the way is asked again at the next tick.
    fn begin_installing(
        &self,
        node: &NodeName,
        attempt: &Attempt,
        fingerprint: &str,
        presence: &Presence,
        now: Millis,
    ) -> Option<Fact> {
        let another =
            |rollout: &Rollout| !rollout.is_ended() && matches!(rollout.action, Action::Certificate { .. });
        if !presence.is_connected(node) || self.rollouts.values().any(another) {
            return None;
        }
        let uncarried = self.sight(presence, now).is_ok_and(|sight| !sight.is_carried(node));
        let ask = Ask {
            action: Action::Certificate { certificate: fingerprint.to_owned() },
            policy: RolloutPolicy::default(),
            nodes: vec![node.to_string()],
            labels: Vec::new(),
            roles: Vec::new(),
            groups: Vec::new(),
            undrained: uncarried,
        };
        match self.rollout_asked(&ask, &attempt.who, presence, now) {
            Ok(facts) => facts.into_iter().next(),
            Err(refusal) if refusal.reason == attempt.trouble => None,
            Err(refusal) => Some(Fact::Certificate(CertificateFact::Trouble {
                node: node.clone(),
                generation: attempt.generation,
                reason: refusal.reason,
            })),
        }
    }

    /// What became of its rollout. One whose only turn failed has nothing to wait for.
    fn installed(
        &self,
        node: &NodeName,
        attempt: &Attempt,
        rollout: Option<&Rollout>,
        fingerprint: &str,
    ) -> Option<Fact> {
        let forgotten = || {
            failed(
                node,
                attempt,
                "its rollout is not known any more".to_owned(),
                format!("bunraku cert request {node}"),
            )
        };
        let Some(rollout) = rollout else { return Some(forgotten()) };
        let Some(turn) = rollout.turns.get(node) else { return Some(forgotten()) };
        if turn.phase == TurnPhase::Done {
            let to = CertificatePhase::Done { fingerprint: fingerprint.to_owned() };
            return Some(moved(node, attempt, to));
        }
        let why = turn.retreat.as_ref().map(|retreat| retreat.reason.clone());
        if rollout.is_ended() {
            let reason = why.unwrap_or_else(|| format!("rollout {} ended before its turn", rollout.id));
            return Some(failed(node, attempt, reason, format!("bunraku rollout show {}", rollout.id)));
        }
        let aborting = matches!(rollout.phase, RolloutPhase::Aborting { .. });
        let over = matches!(turn.phase, TurnPhase::Failed | TurnPhase::Skipped);
        (over && !aborting).then(|| Fact::RolloutAborting {
            rollout: rollout.id,
            reason: "controller: its only compiler is done with".to_owned(),
        })
    }
}

fn moved(node: &NodeName, attempt: &Attempt, to: CertificatePhase) -> Fact {
    Fact::Certificate(CertificateFact::Moved { node: node.clone(), generation: attempt.generation, to })
}

fn failed(node: &NodeName, attempt: &Attempt, reason: String, hint: String) -> Fact {
    moved(node, attempt, CertificatePhase::Failed { reason, hint })
}
