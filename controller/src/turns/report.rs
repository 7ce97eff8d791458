//! Rollouts as operators see them: what is decided, what is waited for, and what the compilers say of it.

use bunraku_common::NodeName;
use bunraku_engine::{
    Action, Ask, Batch, JudgedBy, Millis, OnDrainDeadline, OnInconclusive, Plan, Presence, Rollout,
    RolloutOutcome, RolloutPhase, State, Turn, TurnPhase, Wave,
};
use bunraku_proto::v1::{RolloutBlock, RolloutInfo, RolloutPlan, RolloutPolicy, RolloutWave, TurnInfo};

use super::Turns;
use crate::report::Reporter;

impl Reporter {
    pub(crate) fn plan(&self, ask: &Ask, plan: &Plan) -> RolloutPlan {
        let block = |block: &bunraku_engine::Block| RolloutBlock {
            reason: block.reason.clone(),
            hint: block.hint.clone(),
        };
        RolloutPlan {
            action: ask.action.to_string(),
            policy: Some(policy(&ask.policy, &ask.action)),
            waves: plan.waves.iter().map(wave).collect(),
            undrained: plan.undrained.iter().map(ToString::to_string).collect(),
            floors: plan.floors.clone(),
            blocks: plan.blocks.iter().map(block).collect(),
            changes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(crate) fn rollout(&self, state: &State, rollout: &Rollout, turns: &Turns) -> RolloutInfo {
        let (presence, now) = (self.shared.presence(), self.shared.clock.now());
        let look = Look { reporter: self, state, presence: &presence, now };
        let in_order = rollout.waves.iter().flat_map(|wave| &wave.nodes);
        let known = in_order.filter_map(|node| Some((node, rollout.turns.get(node)?)));
        let (reason, ended_ms) = match &rollout.phase {
            RolloutPhase::Running => (String::new(), 0),
            RolloutPhase::Paused { reason, .. } | RolloutPhase::Aborting { reason } => (reason.clone(), 0),
            RolloutPhase::Ended { outcome, at } => (ended(outcome), self.shown(*at)),
        };
        let (waits_for, next) = waits(state, rollout);
        RolloutInfo {
            id: rollout.id.0,
            action: rollout.action.to_string(),
            phase: rollout.phase_name().to_owned(),
            reason,
            who: rollout.who.clone(),
            requested_ms: self.shown(rollout.requested_at),
            ended_ms,
            policy: Some(policy(&rollout.policy, &rollout.action)),
            waves: rollout.waves.iter().map(wave).collect(),
            turns: known.map(|(node, turn)| look.turn(rollout, node, turn, turns)).collect(),
            waits_for,
            next,
            compilers: count(rollout.turns.len()),
            done: count(rollout.turns.values().filter(|turn| turn.phase == TurnPhase::Done).count()),
        }
    }

    /// Without the compilers that wait or are over: many rollouts of many compilers fit into one answer.
    pub(crate) fn rollout_in_brief(&self, state: &State, rollout: &Rollout, turns: &Turns) -> RolloutInfo {
        let mut info = self.rollout(state, rollout, turns);
        info.waves.clear();
        let told = |turn: &TurnInfo| turn.drained || !turn.waits_for.is_empty();
        info.turns.retain(told);
        info
    }

    /// Those that have not ended.
    pub(crate) fn open_rollouts(&self, state: &State, turns: &Turns) -> Vec<RolloutInfo> {
        let open = state.rollouts().values().filter(|rollout| !rollout.is_ended());
        open.map(|rollout| self.rollout_in_brief(state, rollout, turns)).collect()
    }

    /// A node's part in a rollout that goes on, as one line.
    pub(crate) fn turn_of(&self, state: &State, node: &NodeName) -> Option<String> {
        let mut open = state.rollouts().values().filter(|rollout| !rollout.is_ended());
        let (rollout, turn) = open.find_map(|rollout| Some((rollout, rollout.turns.get(node)?)))?;
        let (presence, now) = (self.shared.presence(), self.shared.clock.now());
        let waits = state.turn_waits(rollout, node, &presence, now);
        let waits = waits.map_or(String::new(), |waits| format!(", waits {}", waits.what));
        Some(format!("{} in rollout {} ({}){waits}", turn.phase.name(), rollout.id, rollout.action))
    }

    /// Compilers that stay out of service until somebody decides.
    pub(crate) fn rollout_alarms(&self, state: &State) -> Vec<String> {
        let open = state.rollouts().values().filter(|rollout| !rollout.is_ended());
        let stuck = open.flat_map(|rollout| {
            let failed = rollout.turns.iter().filter(|(_, turn)| turn.phase == TurnPhase::Failed);
            failed.filter(|(node, _)| is_drained_by(state, rollout, node)).map(move |(node, turn)| {
                let (id, reason) = (rollout.id, reason(turn));
                format!(
                    "{node} stays out of service, and rollout {id} is {}: {reason}\nhint: bunraku rollout show {id}; \
                     then `bunraku rollout retry {id} {node}`, or `skip`, or `abort`",
                    rollout.phase_name()
                )
            })
        });
        stuck.collect()
    }
}

struct Look<'a> {
    reporter: &'a Reporter,
    state: &'a State,
    presence: &'a Presence,
    now: Millis,
}

impl Look<'_> {
    fn turn(&self, rollout: &Rollout, node: &NodeName, turn: &Turn, turns: &Turns) -> TurnInfo {
        let mut info = TurnInfo {
            node: node.to_string(),
            phase: turn.phase.name().to_owned(),
            since_ms: self.reporter.shown(turn.since),
            reason: reason(turn).to_owned(),
            undrained: rollout.undrained.contains(node),
            ..TurnInfo::default()
        };
        if let Some(verdict) = &turn.verdict {
            info.verdict = verdict.says.name().to_owned();
            info.verdict_why.clone_from(&verdict.why);
        }
        let said = turns.said(node);
        info.notes = said.notes_of(rollout.id);
        info.drained = is_drained_by(self.state, rollout, node);
        if rollout.is_ended() {
            return info;
        }
        info.says = said.about(turn);
        if let Some(waits) = self.state.turn_waits(rollout, node, self.presence, self.now) {
            info.waits_for = waits.what;
            info.waits_until_ms = waits.until.map_or(0, |until| self.reporter.shown(until));
            info.then = waits.then;
        }
        info
    }
}

fn is_drained_by(state: &State, rollout: &Rollout, node: &NodeName) -> bool {
    let owner = state.balance().get(node).and_then(|balance| balance.owner());
    owner == Some(&bunraku_engine::DrainOwner::Rollout(rollout.id))
}

fn reason(turn: &Turn) -> &str {
    turn.retreat.as_ref().map_or("", |retreat| retreat.reason.as_str())
}

fn ended(outcome: &RolloutOutcome) -> String {
    match outcome {
        RolloutOutcome::Done => String::new(),
        RolloutOutcome::Incomplete { failed } => {
            let failed: Vec<String> = failed.iter().map(ToString::to_string).collect();
            format!("it went on without {}", failed.join(", "))
        }
        RolloutOutcome::Aborted { reason } => reason.clone(),
    }
}

/// What the rollout itself waits for, and the command that goes on.
fn waits(state: &State, rollout: &Rollout) -> (String, String) {
    let id = rollout.id;
    let mut left = rollout.turns.keys().filter(|node| is_drained_by(state, rollout, node));
    let failed = rollout.turns.iter().find(|(_, turn)| turn.phase == TurnPhase::Failed);
    match (&rollout.phase, failed) {
        (RolloutPhase::Paused { .. }, Some((node, _))) => (
            format!(
                "for a decision about {node}, without a limit; turns under way are finished, none begins"
            ),
            format!("bunraku rollout retry {id} {node}, or skip {id} {node}, or resume {id}, or abort {id}"),
        ),
        (RolloutPhase::Paused { .. }, None) => (
            "for somebody to resume it, without a limit; turns under way are finished, none begins"
                .to_owned(),
            format!("bunraku rollout resume {id}"),
        ),
        (RolloutPhase::Aborting { .. }, _) => {
            ("for the turns under way to be brought back; none begins".to_owned(), String::new())
        }
        (RolloutPhase::Running, _) => {
            let wanted = rollout.wanted.as_ref();
            let waits = wanted.map(|wanted| format!("for the turns under way; then all get the {wanted}"));
            (waits.unwrap_or_default(), String::new())
        }
        (RolloutPhase::Ended { .. }, _) => {
            let enable = left.next().map(|node| format!("bunraku lb enable {node}, when it is healthy"));
            (String::new(), enable.unwrap_or_default())
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn wave(wave: &Wave) -> RolloutWave {
    RolloutWave { nodes: wave.nodes.iter().map(ToString::to_string).collect(), canary: wave.canary }
}

fn policy(policy: &bunraku_engine::RolloutPolicy, action: &Action) -> RolloutPolicy {
    RolloutPolicy {
        canary: count(policy.canary),
        batch: match policy.batch {
            Batch::Count(count) => count.to_string(),
            Batch::Percent(percent) => format!("{percent}%"),
        },
        min_available: policy.min_available,
        drain_deadline_s: policy.drain_deadline / 1000,
        on_drain_deadline: match policy.on_drain_deadline {
            OnDrainDeadline::Abort => "abort",
            OnDrainDeadline::Force => "force",
        }
        .to_owned(),
        step_deadline_s: policy.phase_deadline / 1000,
        bake_s: policy.bake / 1000,
        reverts: policy.revert && action.is_revertible(),
        downgrade: policy.downgrade,
        test_catalog: policy.test_catalog.clone(),
        verdict: match policy.judged_by {
            JudgedBy::Health => "health",
            JudgedBy::Siblings => "siblings",
        }
        .to_owned(),
        bake_max_s: policy.bake_max.max(policy.bake) / 1000,
        on_inconclusive: match policy.on_inconclusive {
            OnInconclusive::Pause => "pause",
            OnInconclusive::Continue => "continue",
        }
        .to_owned(),
    }
}
