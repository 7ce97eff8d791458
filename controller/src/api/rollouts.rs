//! Rollouts: what one would do, starting one, and what operators want of one that goes on.

use std::{collections::BTreeMap, time::Duration};

use bunraku_common::{NodeName, hint};
use bunraku_engine::{
    Action, Ask, Batch, Block, Fact, JudgedBy, Millis, OnDrainDeadline, OnInconclusive, Plan, Request,
    RolloutId, RolloutPolicy,
};
use bunraku_proto::v1::{self, action::Kind};
use futures_util::StreamExt;
use tonic::{Code, Status};

use super::{Api, caller::Subject, labels, parse};
use crate::{main_server, words};

/// Rollouts listed when the request does not say how many.
const LISTED: usize = 20;
/// Names and patterns of one request.
const PATTERNS: usize = 1000;
const PATTERN: usize = 255;
/// The ability of a node whose configuration grants services.
const SERVICES: &str = "services";
/// A simulation of apt takes a second or two; its metadata may have to be read first.
const FORESEE_DEADLINE: Duration = Duration::from_secs(60);
/// Nodes asked side by side.
const ASKED_AT_ONCE: usize = 32;
/// Changes of one node that are named.
const FORESEEN: usize = 50;
/// Nobody waits longer for anything in a rollout.
const LONGEST_S: u64 = 30 * 86_400;

impl Api {
    pub(super) async fn rollout_planned(
        &self,
        request: v1::RolloutRequest,
    ) -> Result<v1::RolloutPlan, Status> {
        let question = v1::ForeseeRequest {
            action: request.action.clone(),
            downgrade: request.downgrade,
            no_revert: request.no_revert,
        };
        let ask = ask_of(request)?;
        let mut plan = self.plan_of(&ask);
        let nodes: Vec<NodeName> = plan.waves.iter().flat_map(|wave| wave.nodes.clone()).collect();
        let asked = nodes.into_iter().map(|node| self.foreseen(node, question.clone()));
        let mut answers = futures_util::stream::iter(asked).buffered(ASKED_AT_ONCE);
        let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some((node, foreseen)) = answers.next().await {
            match foreseen {
                Ok(text) if text.is_empty() => {}
                Ok(text) => changes.entry(text).or_default().push(node.to_string()),
                Err((reason, hint)) => plan.blocks.push(Block { reason: format!("{node}: {reason}"), hint }),
            }
        }
        let changes = changes.into_iter().map(|(text, nodes)| format!("{}: {text}", nodes.join(", ")));
        let warnings = warned(&ask.action).await.into_iter().collect();
        Ok(v1::RolloutPlan { changes: changes.collect(), warnings, ..self.reporter.plan(&ask, &plan) })
    }

    /// What a node says it would do; `Err`: why it would not, and what to do. Who cannot be asked says nothing.
    async fn foreseen(
        &self,
        node: NodeName,
        question: v1::ForeseeRequest,
    ) -> (NodeName, Result<String, (String, String)>) {
        let Some(mut client) = self.connections.client(&node) else { return (node, Ok(String::new())) };
        let mut request = tonic::Request::new(question);
        request.set_timeout(FORESEE_DEADLINE);
        let foreseen = match client.foresee(request).await {
            Ok(reply) => {
                let v1::ForeseeReply { changes, refusal, hint } = reply.into_inner();
                let changes: Vec<String> = changes.iter().take(FORESEEN).map(|it| words::plain(it)).collect();
                match refusal.is_empty() {
                    true => Ok(changes.join(", ")),
                    false => Err((words::plain(&refusal), words::plain(&hint))),
                }
            }
            // An older agent says it when its turn comes.
            Err(status) if status.code() == Code::Unimplemented => Ok(String::new()),
            Err(status) => Ok(format!("it did not say what it would do: {}", words::plain(status.message()))),
        };
        (node, foreseen)
    }

    /// What the engine plans, and what forbids it at the nodes themselves.
    fn plan_of(&self, ask: &Ask) -> Plan {
        let shared = &self.driver.shared;
        let (state, presence, now) = (shared.state(), shared.presence(), shared.clock.now());
        let mut plan = state.plan_rollout(ask, &presence, now);
        if needs_services(&ask.action) {
            let nodes = plan.waves.iter().flat_map(|wave| &wave.nodes);
            let ungranted: Vec<Block> = nodes.filter_map(|node| self.ungranted(node)).collect();
            plan.blocks.extend(ungranted);
        }
        plan
    }

    /// Who is not connected is told of already.
    fn ungranted(&self, node: &NodeName) -> Option<Block> {
        let about = self.connections.about(node)?;
        let granted = about.hello.abilities.iter().any(|ability| ability == SERVICES);
        (!granted).then(|| Block {
            reason: format!("{node} grants nothing that a rollout could do to its services"),
            hint: format!(
                "on {node}: [services] in /etc/bunraku/agent.toml, then systemctl restart bunraku-agent"
            ),
        })
    }

    pub(super) async fn rollout_started(
        &self,
        request: v1::RolloutRequest,
        who: &Subject,
    ) -> Result<v1::RolloutInfo, Status> {
        self.in_command()?;
        let ask = ask_of(request)?;
        // The engine looks again at what may have changed since.
        if let Some(block) = self.plan_of(&ask).blocks.into_iter().next() {
            return Err(Status::failed_precondition(hint::join(&block.reason, &block.hint)));
        }
        let facts = self.driver.request(Request::StartRollout { ask }, &who.to_string()).await?;
        self.balancers.hurry();
        let id = Fact::started(&facts).ok_or_else(|| Status::internal("the rollout did not start"))?;
        self.rollout_shown(id)
    }

    pub(super) fn rollouts_listed(&self, request: &v1::ListRolloutsRequest) -> v1::ListRolloutsReply {
        let limit = if request.limit == 0 { LISTED } else { request.limit as usize };
        let state = self.driver.shared.state();
        let newest = state.rollouts().values().rev().take(limit);
        v1::ListRolloutsReply {
            rollouts: newest
                .map(|rollout| self.reporter.rollout_in_brief(&state, rollout, &self.turns))
                .collect(),
        }
    }

    pub(super) fn rollout_shown(&self, id: RolloutId) -> Result<v1::RolloutInfo, Status> {
        let state = self.driver.shared.state();
        let rollout = state.rollout(id).ok_or_else(|| {
            Status::not_found(format!("there is no rollout {id} (any more)\nhint: bunraku rollout list"))
        })?;
        Ok(self.reporter.rollout(&state, rollout, &self.turns))
    }

    pub(super) async fn rollout_changed(
        &self,
        id: RolloutId,
        request: Request,
        who: &Subject,
    ) -> Result<v1::RolloutInfo, Status> {
        self.in_command()?;
        self.driver.request(request, &who.to_string()).await?;
        self.balancers.hurry();
        self.rollout_shown(id)
    }
}

/// The rest the node itself grants or refuses, before it is drained.
fn needs_services(action: &Action) -> bool {
    match action {
        Action::Restart | Action::Reload | Action::FlushPool | Action::Update { .. } => true,
        Action::PuppetRun | Action::AgentUpdate { .. } | Action::Exec { .. } | Action::Certificate { .. } => {
            false
        }
    }
}

/// What may start, and should not without a thought.
async fn warned(action: &Action) -> Option<String> {
    let Action::Update { package, version } = action else { return None };
    let here = main_server::older(package, version).await?;
    let reason = format!(
        "the main server, which is the CA, has {package} {here}: it would be older than its compilers with {version}"
    );
    Some(hint::join(&reason, &format!("update {package} on the main server first")))
}

/// What was asked for, if it can be.
fn ask_of(request: v1::RolloutRequest) -> Result<Ask, Status> {
    let known = RolloutPolicy::default();
    let action = action_of(request.action.unwrap_or_default())?;
    let policy = RolloutPolicy {
        canary: request.canary.map_or(known.canary, |canary| canary as usize),
        batch: batch_of(&request.batch)?,
        min_available: request.min_available,
        drain_deadline: millis(request.drain_deadline_s, known.drain_deadline, "the drain's deadline")?,
        phase_deadline: match request.step_deadline_s {
            Some(0) => return Err(Status::invalid_argument("the deadline of a step must not be 0")),
            seconds => millis(seconds, known.phase_deadline, "the deadline of a step")?,
        },
        on_drain_deadline: match request.on_drain_deadline.as_str() {
            "" | "abort" => OnDrainDeadline::Abort,
            "force" => OnDrainDeadline::Force,
            other => {
                return Err(Status::invalid_argument(format!(
                    "`{other}` is nothing to do at the drain's deadline: abort and force are known"
                )));
            }
        },
        bake: millis(request.bake_s, known.bake, "the bake")?,
        revert: !request.no_revert,
        downgrade: request.downgrade,
        test_catalog: certname(request.test_catalog)?,
        judged_by: match request.verdict.as_str() {
            "" => action.judged_by(),
            "health" => JudgedBy::Health,
            "siblings" => JudgedBy::Siblings,
            other => {
                return Err(Status::invalid_argument(format!(
                    "`{other}` is nothing that a bake is judged by: health and siblings are known"
                )));
            }
        },
        bake_max: millis(request.bake_max_s, known.bake_max, "the longest bake")?,
        on_inconclusive: match request.on_inconclusive.as_str() {
            "" | "pause" => OnInconclusive::Pause,
            "continue" => OnInconclusive::Continue,
            other => {
                return Err(Status::invalid_argument(format!(
                    "`{other}` is nothing to do without a verdict: pause and continue are known"
                )));
            }
        },
    };
    Ok(Ask {
        action,
        policy,
        nodes: patterns(request.nodes)?,
        labels: labels(&request.labels)?,
        roles: request.roles.iter().map(|role| parse(role)).collect::<Result<_, _>>()?,
        groups: patterns(request.groups)?,
        undrained: request.undrained,
    })
}

fn action_of(action: v1::Action) -> Result<Action, Status> {
    let kind = action.kind();
    let v1::Action { package, version, command, .. } = action;
    let action = match kind {
        Kind::Restart => Action::Restart,
        Kind::Reload => Action::Reload,
        Kind::FlushPool => Action::FlushPool,
        Kind::Update => Action::Update { package, version },
        Kind::PuppetRun => Action::PuppetRun,
        Kind::AgentUpdate => Action::AgentUpdate { version },
        Kind::Exec => Action::Exec { command },
        Kind::Certificate => {
            let reason = "a certificate is not installed by hand: it begins with its request";
            return Err(Status::invalid_argument(format!("{reason}\nhint: bunraku cert request NODE")));
        }
        Kind::Unspecified => {
            return Err(Status::invalid_argument("a rollout needs an action that this controller knows"));
        }
    };
    if action.is_well_formed() {
        return Ok(action);
    }
    let shown: String = action.to_string().escape_debug().take(80).collect();
    Err(Status::invalid_argument(format!(
        "`{shown}` cannot be the name of a package, a version or the name of a command"
    )))
}

/// Whom a test catalog is compiled for; empty: nobody.
fn certname(text: String) -> Result<String, Status> {
    if text.is_empty() || NodeName::parse(&text).is_ok() {
        return Ok(text);
    }
    let shown: String = text.escape_debug().take(80).collect();
    Err(Status::invalid_argument(format!(
        "`{shown}` is not a certname\nhint: --test-catalog agent1.example.com"
    )))
}

fn batch_of(text: &str) -> Result<Batch, Status> {
    let wrong = || {
        Status::invalid_argument(format!(
            "`{text}` is not the size of a batch\nhint: a number of compilers, as 2, or a part of them, as 25%"
        ))
    };
    let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0);
    match text.strip_suffix('%') {
        None if text.is_empty() => Ok(Batch::Count(1)),
        None => number(text).map(Batch::Count).ok_or_else(wrong),
        Some(percent) => {
            number(percent).filter(|percent| *percent <= 100).map(Batch::Percent).ok_or_else(wrong)
        }
    }
}

fn millis(seconds: Option<u64>, default: Millis, what: &str) -> Result<Millis, Status> {
    match seconds {
        None => Ok(default),
        Some(seconds) if seconds <= LONGEST_S => Ok(seconds * 1000),
        Some(_) => Err(Status::invalid_argument(format!("{what} is longer than 30 days"))),
    }
}

/// Names of nodes in which `*` stands for any text.
fn patterns(patterns: Vec<String>) -> Result<Vec<String>, Status> {
    if patterns.len() > PATTERNS {
        return Err(Status::invalid_argument(format!("more than {PATTERNS} names and patterns")));
    }
    let is_pattern = |pattern: &str| {
        let named = pattern.replace('*', "x");
        pattern.len() <= PATTERN && NodeName::parse(&named).is_ok()
    };
    match patterns.iter().find(|pattern| !is_pattern(pattern)) {
        None => Ok(patterns),
        Some(wrong) => Err(Status::invalid_argument(format!(
            "`{}` is not a node's name or a pattern of them\nhint: --nodes c1.example.com, or 'c*.example.com'",
            wrong.escape_debug().take(80).collect::<String>()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_a_number_or_a_part() {
        assert_eq!(batch_of("").unwrap(), Batch::Count(1));
        assert_eq!(batch_of("2").unwrap(), Batch::Count(2));
        assert_eq!(batch_of("25%").unwrap(), Batch::Percent(25));
        for wrong in ["0", "0%", "101%", "-1", "2.5", "all", "%", "2 %"] {
            assert!(batch_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_a_name_is_no_pattern() {
        let all = |texts: &[&str]| patterns(texts.iter().map(|text| (*text).to_owned()).collect());
        assert!(all(&["c1.example.com", "c*.example.com", "*", "dc1-*"]).is_ok());
        for wrong in ["", "C 1", "c1/../c2", "c[12]", "c1\n"] {
            assert!(all(&[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_request_without_choices_is_the_documented_policy() {
        let action = Some(v1::Action { kind: Kind::Restart.into(), ..v1::Action::default() });
        let ask = ask_of(v1::RolloutRequest { action, ..v1::RolloutRequest::default() }).unwrap();
        assert_eq!((ask.action, ask.policy), (Action::Restart, RolloutPolicy::default()));
        assert!(ask_of(v1::RolloutRequest::default()).is_err(), "no action");
        let action = Some(v1::Action { kind: Kind::Restart.into(), ..v1::Action::default() });
        let forever = v1::RolloutRequest { action, bake_s: Some(u64::MAX), ..v1::RolloutRequest::default() };
        assert!(ask_of(forever).is_err());
    }

    #[test]
    fn t10_what_could_be_an_option_of_a_program_is_no_action() {
        let update = |package: &str, version: &str| v1::Action {
            kind: Kind::Update.into(),
            package: package.into(),
            version: version.into(),
            ..v1::Action::default()
        };
        assert!(action_of(update("puppetserver", "7.9.5-2")).is_ok());
        for (package, version) in [("--purge", "1"), ("puppetserver", "-y"), ("", "1"), ("a", "1;id")] {
            assert!(action_of(update(package, version)).is_err(), "{package} {version}");
        }
    }
}
