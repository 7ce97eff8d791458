//! Whether a request is accepted, and what follows: deploy, roll back, release. (Nodes and identities: `decide_fleet`.)

use bunraku_common::{EnvironmentName, limits};

use crate::{
    Deploy, DeployId, Environment, Fact, Kind, Millis, Policy, Presence, Refusal, RefusalCode, Request,
    Retained, State,
};

/// Shortest beginning of a digest that names a snapshot.
const PREFIX: usize = 4;

impl State {
    /// Accepts or refuses a request. Accepted: facts to journal, then to apply with the same `now`; empty when it is
    /// already so. The request is acknowledged only when they are on disk.
    ///
    /// # Errors
    /// Why not, for the one who asked; nothing has changed then.
    pub fn decide(
        &self,
        request: Request,
        who: &str,
        presence: &Presence,
        now: Millis,
    ) -> Result<Vec<Fact>, Refusal> {
        let facts = match request {
            Request::Deploy { environment, branch, commit, plan, policy } => {
                vec![self.deploy_requested(environment, branch, commit, plan, policy, who)?]
            }
            Request::Rollback { environment, to } => {
                vec![self.rollback_requested(environment, to.as_deref(), who)?]
            }
            Request::Release { environment } => match &self.known(&environment)?.held {
                None => Vec::new(),
                Some(_) => vec![Fact::EnvironmentReleased { environment, who: who.to_owned() }],
            },
            Request::Drain { compiler, reason, min_available } => {
                self.drain_asked(&compiler, &reason, min_available, who, presence, now)?
            }
            Request::Enable { compiler } => self.enable_asked(&compiler, presence)?,
            Request::Certificate { node, alt_names } => self.certificate_asked(&node, &alt_names, who)?,
            Request::AcceptCrl => vec![self.accept_crl(who)?],
            Request::StartRollout { ask } => self.rollout_asked(&ask, who, presence, now)?,
            Request::PauseRollout { rollout, reason } => self.pause_asked(rollout, &reason, who)?,
            Request::ResumeRollout { rollout } => self.resume_asked(rollout, who)?,
            Request::RetargetRollout { rollout, version } => self.retarget_asked(rollout, &version, who)?,
            Request::AbortRollout { rollout, reason } => self.abort_asked(rollout, &reason, who)?,
            Request::RetryTurn { rollout, node } => self.retry_asked(rollout, &node, who)?,
            Request::SkipTurn { rollout, node } => self.skip_asked(rollout, &node, who)?,
            Request::HoldNode { .. }
            | Request::ReleaseNode { .. }
            | Request::RevokeNode { .. }
            | Request::AllowNode { .. }
            | Request::LabelNode { .. }
            | Request::RemoveNode { .. }
            | Request::HealNode { .. }
            | Request::SetUpCompiler { .. }
            | Request::RevokePuppetCertificate { .. }
            | Request::CreateToken { .. }
            | Request::RevokeToken { .. }
            | Request::AddOperator { .. }
            | Request::RevokeOperator { .. }
            | Request::EnrolWithToken { .. }
            | Request::EnrolWithPuppet { .. }
            | Request::Renew { .. }
            | Request::RotateCa { .. } => self.decide_fleet(request, who)?,
        };
        Ok(facts)
    }

    fn deploy_requested(
        &self,
        environment: EnvironmentName,
        branch: String,
        commit: Option<String>,
        plan: bool,
        policy: Option<Policy>,
        who: &str,
    ) -> Result<Fact, Refusal> {
        if let Some(wrong) = commit.as_deref().filter(|commit| !is_sha(commit)) {
            let shown: String = wrong.chars().take(80).flat_map(char::escape_debug).collect();
            let reason = format!("`{shown}` is not a full commit id: 40 hex digits are expected");
            return Err(Refusal::new(RefusalCode::Invalid, reason, "git rev-parse BRANCH"));
        }
        let known = self.environments.get(&environment);
        if let Some(held) = known.and_then(|known| known.held.as_ref()).filter(|_| !plan) {
            let reason = format!("{environment} is held by {}: {}", held.who, held.why);
            return Err(Refusal::new(
                RefusalCode::Conflict,
                reason,
                format!("bunraku release {environment}"),
            ));
        }
        let kind = if plan { Kind::Plan { commit } } else { Kind::Build { commit } };
        let policy = policy.unwrap_or(self.settings.policy);
        let queued = known.and_then(|known| if plan { known.next_plan } else { known.next });
        let same =
            |queued: &&Deploy| queued.kind == kind && queued.policy == policy && queued.branch == branch;
        if let Some(queued) = queued.and_then(|id| self.deploys.get(&id)).filter(same) {
            return Ok(Fact::DeployJoined { deploy: queued.id, environment, who: who.to_owned() });
        }
        let deploy = self.next_deploy()?;
        Ok(Fact::DeployRequested { deploy, environment, branch, kind, policy, who: who.to_owned() })
    }

    fn rollback_requested(
        &self,
        name: EnvironmentName,
        to: Option<&str>,
        who: &str,
    ) -> Result<Fact, Refusal> {
        let environment = self.known(&name)?;
        let target = match to {
            Some(to) => find(environment, &name, to)?,
            None => environment.before_committed().ok_or_else(|| {
                let reason = format!("{name} has no earlier snapshot to go back to");
                Refusal::new(RefusalCode::NotFound, reason, format!("bunraku snapshots list {name}"))
            })?,
        };
        let kind = Kind::Rollback { snapshot: target.snapshot };
        let under_way = environment.active.and_then(|id| self.deploys.get(&id));
        if let Some(same) = under_way.filter(|active| active.kind == kind)
            && environment.next.is_none()
            && environment.held.is_some()
        {
            return Ok(Fact::DeployJoined { deploy: same.id, environment: name, who: who.to_owned() });
        }
        Ok(Fact::DeployRequested {
            deploy: self.next_deploy()?,
            branch: environment.branch.clone(),
            environment: name,
            kind,
            policy: self.settings.policy,
            who: who.to_owned(),
        })
    }

    fn known(&self, name: &EnvironmentName) -> Result<&Environment, Refusal> {
        self.environments.get(name).ok_or_else(|| {
            let reason = format!("environment {name} is not known here");
            Refusal::new(RefusalCode::NotFound, reason, "bunraku environments list")
        })
    }

    fn next_deploy(&self) -> Result<DeployId, Refusal> {
        if self.deploys.values().filter(|deploy| !deploy.is_ended()).count() >= limits::QUEUE {
            let reason = format!("{} deploys wait already", limits::QUEUE);
            return Err(Refusal::new(RefusalCode::Conflict, reason, "bunraku deploys list"));
        }
        Ok(DeployId(self.last_deploy.0 + 1))
    }
}

impl Fact {
    /// The deploy that serves a request: of the facts that `decide` returned for it.
    pub fn accepted(facts: &[Self]) -> Option<DeployId> {
        facts.iter().find_map(|fact| {
            if let Self::DeployRequested { deploy, .. } | Self::DeployJoined { deploy, .. } = fact {
                return Some(*deploy);
            }
            None
        })
    }
}

fn find<'a>(environment: &'a Environment, name: &EnvironmentName, to: &str) -> Result<&'a Retained, Refusal> {
    let hint = || format!("bunraku snapshots list {name}");
    let hex = to.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !hex || !(PREFIX..=64).contains(&to.len()) {
        let reason = format!("a snapshot is named by {PREFIX} to 64 lower-case hex digits");
        return Err(Refusal::new(RefusalCode::Invalid, reason, hint()));
    }
    let mut found = environment.retained.iter().filter(|kept| kept.snapshot.to_string().starts_with(to));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            let reason = format!("more than one snapshot of {name} begins with {to}");
            Err(Refusal::new(RefusalCode::Invalid, reason, hint()))
        }
        (None, _) => {
            let reason = format!("no snapshot {to} of {name} is retained");
            Err(Refusal::new(RefusalCode::NotFound, reason, hint()))
        }
    }
}

fn is_sha(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
