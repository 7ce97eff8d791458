//! Deploys, rollbacks, environments and snapshots.

use std::{collections::BTreeSet, time::Duration};

use bunraku_builder::{Branches, RefusedBranch, environment_of};
use bunraku_common::{Chain, Digest, EnvironmentName, hint};
use bunraku_engine::{DeployId, Fact, Policy, Refusal, RefusalCode, Request, State};
use bunraku_proto::v1;
use tonic::Status;

use super::{
    Api,
    caller::{Subject, may_deploy},
    parse,
};
use crate::{
    clock::wall_s,
    driver::{RequestError, Superseded},
    report,
};

/// Deploys listed when the request does not say how many.
const LISTED: usize = 20;
/// How long a deploy that changes nothing, it seems, waits for what the nodes serve. Nodes answer within milliseconds.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

impl Api {
    pub(super) fn status_now(&self) -> v1::StatusReply {
        let shared = &self.driver.shared;
        let now = shared.clock.now();
        let superseded = shared.superseded();
        let state = shared.state();
        let mut alarms = state.alarms(now);
        if let Some(jump) = shared.clock.jumped() {
            let jumped = format!("the clock jumped by {} s: no certificates are issued", jump.as_secs());
            alarms.push(hint::join(&jumped, "set the clock right, then systemctl restart bunraku"));
        }
        if let Some(lost) = self.lost {
            let lost = format!(
                "the journal has lost records that were acknowledged: it ends with record {}, and there were {}",
                lost.kept, lost.acknowledged
            );
            let look = "bunraku environments list shows what the compilers serve; compare it, then systemctl restart bunraku";
            alarms.push(hint::join(&lost, look));
        }
        alarms.extend(self.identities.alarms());
        alarms.extend(state.crl_alarms(&shared.presence(), now, wall_s()));
        alarms.extend(state.certificate_alarms(wall_s()));
        alarms.extend(state.balance_alarms(&shared.presence(), now));
        alarms.extend(self.reporter.rollout_alarms(&state));
        let nodes = self.reporter.nodes(&state);
        alarms.extend(nodes.iter().flat_map(|node| node.alarms.iter().cloned()));
        let standing = superseded.map_or_else(|| report::IN_COMMAND.to_owned(), |by| standing(&by, &state));
        let active = state.deploys().values().filter(|deploy| !deploy.is_ended());
        v1::StatusReply {
            controller: self.config.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            term: state.term().map_or(0, |term| term.number),
            standing,
            uptime_s: shared.clock.up().as_secs(),
            nodes,
            environments: state
                .environments()
                .iter()
                .map(|(n, e)| self.reporter.environment(&state, n, e))
                .collect(),
            active: active.map(|deploy| self.reporter.deploy(&state, deploy)).collect(),
            alarms,
            fleet: self.identities.fleet().to_string(),
            out_of_service: self.reporter.out_of_service(&state),
            rollouts: self.reporter.open_rollouts(&state, &self.turns),
        }
    }

    /// A request that would wait for orders that never leave is refused at once.
    pub(super) fn in_command(&self) -> Result<(), Status> {
        match self.driver.shared.superseded() {
            None => Ok(()),
            Some(by) => {
                let standing = standing(&by, &self.driver.shared.state());
                Err(Status::failed_precondition(format!("this controller {standing}")))
            }
        }
    }

    pub(super) fn environments_now(&self) -> Vec<v1::EnvironmentInfo> {
        let state = self.driver.shared.state();
        state.environments().iter().map(|(n, e)| self.reporter.environment(&state, n, e)).collect()
    }

    pub(super) async fn request_deploys(
        &self,
        request: v1::DeployRequest,
        who: &Subject,
    ) -> Result<v1::DeployReply, Status> {
        self.in_command()?;
        let policy = match request.policy.as_str() {
            "" => None,
            text => Some(Policy::parse(text).ok_or_else(|| {
                Status::invalid_argument(format!("`{text}` is not a policy: fail, skip and drain are known"))
            })?),
        };
        let commit = if request.commit.is_empty() { None } else { Some(request.commit) };
        let asked: BTreeSet<EnvironmentName> =
            request.environments.iter().map(|text| environment(text)).collect::<Result<_, _>>()?;
        if asked.is_empty() && !request.all {
            return Err(Status::invalid_argument("nothing to deploy\nhint: name an environment, or --all"));
        }
        if commit.is_some() && (asked.len() != 1 || request.all) {
            return Err(Status::invalid_argument("--commit goes with exactly one environment"));
        }
        for environment in &asked {
            may_deploy(who, environment)?;
        }
        let branches = self.builder.branches().await.map_err(|error| {
            let (why, own) = hint::split(&Chain(&error).to_string());
            let look =
                "check `remote` and `transports` in the [build] table, and that the build user may read it";
            let own = Some(own).filter(|own| !own.is_empty());
            let hint = self.builder.hint(&error).or(own).unwrap_or_else(|| look.to_owned());
            let why = format!("the control repository could not be read: {why}");
            Status::failed_precondition(hint::join(&why, &hint))
        })?;
        let mut reply = v1::DeployReply::default();
        let wanted = if request.all { self.all_of(&branches, who, &mut reply) } else { asked };
        if !request.plan && self.may_be_unchanged(&wanted, commit.as_deref(), &branches) {
            self.look_at_nodes().await;
        }
        for environment in wanted {
            let Some(branch) = branches.environments.get(&environment) else {
                reply.refused.push(no_branch(&environment, &branches));
                continue;
            };
            let request = Request::Deploy {
                environment: environment.clone(),
                branch: branch.name.clone(),
                commit: commit.clone(),
                plan: request.plan,
                policy,
            };
            self.accept(&environment, request, who, &mut reply).await?;
        }
        // One environment, refused: that is the answer, with its own code.
        match (reply.deploys.is_empty(), reply.refused.as_slice()) {
            (true, [only]) => {
                let text = hint::join(&only.reason, &only.hint);
                let missing = branches.environments.keys().all(|name| name.as_str() != only.environment)
                    && refused_as(&only.environment, &branches).is_none();
                Err(if missing { Status::not_found(text) } else { Status::failed_precondition(text) })
            }
            _ => Ok(reply),
        }
    }

    /// Whether one of these deploys is about the commit that is committed already.
    fn may_be_unchanged(
        &self,
        wanted: &BTreeSet<EnvironmentName>,
        commit: Option<&str>,
        branches: &Branches,
    ) -> bool {
        let state = self.driver.shared.state();
        wanted.iter().any(|environment| {
            let tip = branches.environments.get(environment).map(|branch| branch.commit.as_str());
            let committed = state.environments().get(environment).and_then(|known| {
                let live = known.committed.as_ref()?.snapshot;
                known.retained.iter().find(|kept| kept.snapshot == live)?.commit.as_deref()
            });
            committed.is_some_and(|committed| Some(committed) == commit.or(tip))
        })
    }

    /// Asks all connected nodes what they serve, so that a deploy without a change finds the one whose live link
    /// somebody changed by hand, and has it brought back now and not at the next round. What they say reaches the
    /// driver before the request does. A node that does not answer soon is left to the next round.
    async fn look_at_nodes(&self) {
        let look = async {
            // One at a time: whoever asks at the same time waits for the same answers.
            let _turn = self.looking.acquire().await;
            self.ask_nodes(self.connections.nodes()).await;
        };
        if tokio::time::timeout(LOOK_PATIENCE, look).await.is_err() {
            tracing::info!("not every node has said in time what it serves");
        }
    }

    /// Every branch that this caller may deploy; what cannot be is named.
    fn all_of(
        &self,
        branches: &Branches,
        who: &Subject,
        reply: &mut v1::DeployReply,
    ) -> BTreeSet<EnvironmentName> {
        for refused in &branches.refused {
            reply.refused.push(v1::Refused {
                environment: refused.name.clone(),
                reason: refused.reason.clone(),
                hint: "rename the branch: git branch -m OLD NEW, and push it".to_owned(),
            });
        }
        let state = self.driver.shared.state();
        let gone = state.environments().keys().filter(|name| !branches.environments.contains_key(*name));
        reply.gone = gone.map(ToString::to_string).collect();
        branches.environments.keys().filter(|name| may_deploy(who, name).is_ok()).cloned().collect()
    }

    pub(super) async fn request_rollback(
        &self,
        request: v1::RollbackRequest,
        who: &Subject,
    ) -> Result<v1::DeployReply, Status> {
        self.in_command()?;
        let environment: EnvironmentName = parse(&request.environment)?;
        may_deploy(who, &environment)?;
        let to = if request.to.is_empty() { None } else { Some(request.to) };
        let request = Request::Rollback { environment: environment.clone(), to };
        let facts = self.driver.request(request, &who.to_string()).await?;
        let mut reply = v1::DeployReply::default();
        reply.deploys.extend(self.accepted(&facts));
        Ok(reply)
    }

    async fn accept(
        &self,
        environment: &EnvironmentName,
        request: Request,
        who: &Subject,
        reply: &mut v1::DeployReply,
    ) -> Result<(), Status> {
        match self.driver.request(request, &who.to_string()).await {
            Ok(facts) => reply.deploys.extend(self.accepted(&facts)),
            // The call itself is wrong, whatever the state is.
            Err(error @ RequestError::Refused(Refusal { code: RefusalCode::Invalid, .. }))
                if reply.deploys.is_empty() =>
            {
                return Err(error.into());
            }
            Err(RequestError::Refused(refusal)) => reply.refused.push(v1::Refused {
                environment: environment.to_string(),
                reason: refusal.reason,
                hint: refusal.hint,
            }),
            // What was accepted before must not be told as an error.
            Err(other) if !reply.deploys.is_empty() => {
                let (reason, hint) = hint::split(&other.to_string());
                reply.refused.push(v1::Refused { environment: environment.to_string(), reason, hint });
            }
            Err(other) => return Err(other.into()),
        }
        Ok(())
    }

    fn accepted(&self, facts: &[Fact]) -> Option<v1::DeployInfo> {
        let state = self.driver.shared.state();
        state.deploy(Fact::accepted(facts)?).map(|deploy| self.reporter.deploy(&state, deploy))
    }

    pub(super) async fn release_environment(
        &self,
        name: &str,
        who: &Subject,
    ) -> Result<v1::ReleaseReply, Status> {
        let environment: EnvironmentName = parse(name)?;
        may_deploy(who, &environment)?;
        let request = Request::Release { environment: environment.clone() };
        let facts = self.driver.request(request, &who.to_string()).await?;
        let was_held = facts.iter().any(|fact| matches!(fact, Fact::EnvironmentReleased { .. }));
        let state = self.driver.shared.state();
        let known = state.environments().get(&environment);
        let environment = known.map(|e| self.reporter.environment(&state, &environment, e));
        Ok(v1::ReleaseReply { environment, was_held })
    }

    pub(super) fn deploys_listed(
        &self,
        request: &v1::ListDeploysRequest,
    ) -> Result<v1::ListDeploysReply, Status> {
        let only: Option<EnvironmentName> =
            if request.environment.is_empty() { None } else { Some(parse(&request.environment)?) };
        let limit = if request.limit == 0 { LISTED } else { request.limit as usize };
        let state = self.driver.shared.state();
        let newest = state.deploys().values().rev();
        let chosen = newest.filter(|deploy| only.as_ref().is_none_or(|name| *name == deploy.environment));
        Ok(v1::ListDeploysReply {
            deploys: chosen.take(limit).map(|deploy| self.reporter.deploy(&state, deploy)).collect(),
        })
    }

    pub(super) async fn deploy_shown(&self, id: DeployId) -> Result<v1::DeployInfo, Status> {
        let (deploy, info) = {
            let state = self.driver.shared.state();
            let deploy = state.deploy(id).ok_or_else(|| {
                Status::not_found(format!("there is no deploy {id} (any more)\nhint: bunraku deploys list"))
            })?;
            (deploy.clone(), self.reporter.deploy(&state, deploy))
        };
        if !deploy.is_ended() {
            return Ok(info);
        }
        let reporter = self.reporter.clone();
        let full = tokio::task::spawn_blocking(move || reporter.deploy_in_full(&deploy, info)).await;
        full.map_err(|_| Status::internal("the deploy could not be described"))
    }

    pub(super) async fn snapshots_compared(
        &self,
        request: v1::DiffSnapshotsRequest,
    ) -> Result<v1::DiffReply, Status> {
        let (a, b) = (self.snapshot(&request.a)?, self.snapshot(&request.b)?);
        let reporter = self.reporter.clone();
        let compared = tokio::task::spawn_blocking(move || reporter.difference(Some(&a), &b)).await;
        let difference = compared.map_err(|_| Status::internal("the snapshots could not be compared"))?;
        let difference = difference.map_err(Status::data_loss)?;
        Ok(v1::DiffReply { a: a.to_string(), b: b.to_string(), difference: Some(difference) })
    }

    /// A retained snapshot by its digest or the unique beginning of one.
    fn snapshot(&self, text: &str) -> Result<Digest, Status> {
        let state = self.driver.shared.state();
        let known = state.snapshots();
        let found: Vec<_> = known.iter().filter(|digest| digest.to_string().starts_with(text)).collect();
        match found.as_slice() {
            [only] if !text.is_empty() => Ok(**only),
            [] | [_] => Err(Status::not_found(format!(
                "no retained snapshot begins with `{text}`\nhint: bunraku snapshots list"
            ))),
            _ => Err(Status::invalid_argument(format!(
                "{} snapshots begin with `{text}`: give more digits",
                found.len()
            ))),
        }
    }
}

/// What a controller is that gives no orders.
fn standing(superseded: &Superseded, state: &State) -> String {
    let own = state.term();
    let shown = own.map_or_else(|| "no term".to_owned(), |term| term.to_string());
    let Superseded { by, node, unknown, own: _ } = superseded;
    let standing = match unknown {
        None if own.is_some_and(|own| own.number == by.number) => {
            format!("gives no orders, there are two controllers: {node} has obeyed {by}, this is {shown}")
        }
        None => format!("gives no orders: {node} has obeyed {by}, this is {shown}"),
        Some(environment) => format!(
            "gives no orders: {node} has obeyed a decision about {environment}, in {by}, that is not in this journal"
        ),
    };
    hint::join(&standing, "if the other controller is gone: bunraku takeover --reason '…'")
}

/// A name of an environment; whoever gave the branch's instead is told what it becomes.
fn environment(text: &str) -> Result<EnvironmentName, Status> {
    parse(text).map_err(|status: Status| match environment_of(text) {
        Ok(name) => Status::invalid_argument(hint::join(
            status.message(),
            &format!("a branch of this name becomes environment {name}"),
        )),
        Err(_) => status,
    })
}

/// The branch that would become this environment, if another one would, too.
fn refused_as<'a>(environment: &str, branches: &'a Branches) -> Option<&'a RefusedBranch> {
    let told = format!("environment {environment}");
    branches.refused.iter().find(|refused| refused.reason.ends_with(&told))
}

fn no_branch(environment: &EnvironmentName, branches: &Branches) -> v1::Refused {
    match refused_as(environment.as_str(), branches) {
        Some(refused) => v1::Refused {
            environment: environment.to_string(),
            reason: refused.reason.clone(),
            hint: "rename one of the branches".to_owned(),
        },
        None => v1::Refused {
            environment: environment.to_string(),
            reason: format!("no branch of the control repository becomes environment {environment}"),
            hint: nearest(environment, branches),
        },
    }
}

fn nearest(environment: &EnvironmentName, branches: &Branches) -> String {
    let near = branches
        .environments
        .keys()
        .map(|name| (strsim::damerau_levenshtein(name.as_str(), environment.as_str()), name))
        .filter(|(distance, _)| *distance <= 3)
        .min();
    match near {
        Some((_, name)) => format!("did you mean {name}?"),
        None => "push the branch first; those that are there: git ls-remote --heads REMOTE".to_owned(),
    }
}
