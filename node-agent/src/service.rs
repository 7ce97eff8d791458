//! The service `Node`, as the controller calls it: one short function per RPC.

use std::{
    str::FromStr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
};

use bunraku_common::{Chain, Digest, EnvironmentName, Fence, Generation, NodeName, Term, crash, limits};
use bunraku_proto::{
    PROTOCOL,
    v1::{self, node_server, stage_reply::Outcome},
};
use bunraku_puppetserver::server::Status as ServerStatus;
use bunraku_versions::VersionsError;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, transport::Channel};
use zeroize::Zeroizing;

use crate::{
    balancer::{self, Balance, no_balancer},
    certificate::{self, copies::Copies},
    commit::{Commit, wall_ms},
    crl::{self, kept::Crl},
    doctor,
    heal::Heal,
    memory::{Memory, Refused},
    node::{Compiler, Node},
    setup::{self, SetUp},
    stage::{self, Stage},
    turn::{self, Action, Consent, Step},
};

type Answer<T> = Result<Response<T>, Status>;

/// Serves orders on one connection.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub node: Arc<Node>,
    /// What tells the fleet of this connection from every other: the pin of its first CA.
    pub fleet: Digest,
    /// The pins of the mesh CAs that this connection's identity trusts, the one that signed it first.
    pub anchors: Vec<String>,
    /// To the controller's `Content`; replaced with the identity.
    pub content: Arc<RwLock<Channel>>,
    /// How the controller wants nodes to come back.
    pub redial_spread_ms: Arc<AtomicU32>,
    /// Whether the controller has said hello on this connection, in a protocol that both speak.
    pub greeted: Arc<watch::Sender<bool>>,
}

/// No controller can send a node away for longer than this.
const LONGEST_SPREAD_MS: u32 = 60_000;

#[tonic::async_trait]
impl node_server::Node for Service {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Answer<v1::HelloReply> {
        let hello = request.into_inner();
        let term = term(hello.term)?;
        let spoken = (hello.protocol_oldest..=hello.protocol_newest).contains(&PROTOCOL);
        self.same_fleet(&self.node.memory())?;
        self.greeted.send_replace(spoken);
        if !spoken {
            tracing::error!(
                oldest = hello.protocol_oldest,
                newest = hello.protocol_newest,
                own = PROTOCOL,
                "the controller does not speak this agent's protocol (hint: upgrade bunraku-agent)"
            );
        }
        // A controller of an older term hears so, and gives no orders; those it gave would be refused.
        if let Err(refused) = self.node.memory().meet(term) {
            tracing::warn!(reason = %Chain(&refused), "a controller of an older term calls");
        }
        let ahead = i64::try_from(wall_ms()).unwrap_or(0) - i64::try_from(hello.wall_ms).unwrap_or(0);
        *self.node.clock_ahead_ms.lock().unwrap_or_else(PoisonError::into_inner) = Some(ahead);
        self.redial_spread_ms.store(hello.redial_spread_ms.min(LONGEST_SPREAD_MS), Ordering::Relaxed);
        self.follow_authority(hello.anchors);
        let highest_term = self.node.memory().highest_term().map(v1::Term::from);
        tracing::info!(controller = hello.controller, %term, "the controller said hello");
        Ok(Response::new(v1::HelloReply {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.node.instance.clone(),
            abilities: self.abilities(),
            highest_term,
            wall_ms: wall_ms(),
            observed: Some(self.observed().await),
            anchors: self.anchors.clone(),
        }))
    }

    async fn observe(&self, _: Request<v1::ObserveRequest>) -> Answer<v1::ObserveReply> {
        Ok(Response::new(self.observed().await))
    }

    async fn stage(&self, request: Request<v1::StageRequest>) -> Answer<v1::StageReply> {
        let v1::StageRequest { order, snapshot, generate_types, adopt, retained } = request.into_inner();
        let environment = match self.admit(order) {
            Ok((environment, _)) => environment,
            // What cannot be remembered is not obeyed. Said as a failed stage: a deploy does not wait for it in silence.
            Err(status) if status.code() == Code::Internal => {
                tracing::warn!(reason = status.message(), "stage refused");
                let outcome = Some(Outcome::Failed(stage::node_fault(status.message(), "")));
                return Ok(Response::new(v1::StageReply { outcome }));
            }
            Err(status) => return Err(status),
        };
        crash::point("stage-admitted");
        let retained = retained.iter().take(limits::RETAINED).map(|digest| parse(digest));
        let retained: Vec<Digest> = retained.collect::<Result<_, _>>()?;
        let stage = Stage { environment, snapshot: parse(&snapshot)?, generate_types, adopt, retained };
        let channel = self.content.read().unwrap_or_else(PoisonError::into_inner).clone();
        let outcome = match stage.run(&self.node, self.compiler()?, channel).await {
            Ok(staged) => Outcome::Staged(staged),
            Err(failed) => {
                tracing::warn!(environment = %stage.environment, reason = failed.reason, "stage failed");
                Outcome::Failed(failed)
            }
        };
        Ok(Response::new(v1::StageReply { outcome: Some(outcome) }))
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Answer<v1::CommitReply> {
        let v1::CommitRequest { order, snapshot } = request.into_inner();
        let (environment, fence) = self.admit(order)?;
        crash::point("commit-admitted");
        let commit = Commit { environment, snapshot: parse(&snapshot)?, fence };
        // A swap must not stop half way because the call was dropped.
        let node = self.node.clone();
        self.compiler()?;
        let done = tokio::spawn(async move {
            let compiler = node.compiler.as_ref().ok_or_else(no_code)?;
            commit.run(&node, compiler).await
        });
        done.await.unwrap_or_else(|_| Err(Status::internal("the commit ended early"))).map(Response::new)
    }

    async fn discard(&self, request: Request<v1::DiscardRequest>) -> Answer<v1::DiscardReply> {
        let v1::DiscardRequest { order, snapshot } = request.into_inner();
        let (environment, fence) = self.admit(order)?;
        let (versions, snapshot): (_, Digest) = (self.compiler()?.versions.clone(), parse(&snapshot)?);
        let owes = self
            .node
            .memory()
            .subject(&environment)
            .is_some_and(|subject| subject.owed == Some(snapshot) || subject.proven == Some(snapshot));
        if owes || versions.live(&environment) == Some(snapshot) {
            return Err(Status::failed_precondition(format!("{} is live here", snapshot.short())));
        }
        // A call that was given up may still wait for its turn when the same snapshot is staged again.
        let node = self.node.clone();
        let discarded = tokio::task::spawn_blocking(move || {
            let still = || node.memory().is_newest(&environment, fence);
            versions.discard_if(&environment, &snapshot, still)
        });
        match discarded.await {
            Ok(Ok(())) => Ok(Response::new(v1::DiscardReply {})),
            Ok(Err(error @ VersionsError::Overtaken { .. })) => Err(Status::aborted(error.to_string())),
            Ok(Err(error)) => Err(Status::internal(Chain(&error).to_string())),
            Err(_) => Err(Status::internal("the discard ended early")),
        }
    }

    async fn heal(&self, request: Request<v1::HealRequest>) -> Answer<v1::HealReply> {
        let (environment, fence) = self.admit(request.into_inner().order)?;
        let channel = self.content.read().unwrap_or_else(PoisonError::into_inner).clone();
        Heal { environment, fence }.run(&self.node, self.compiler()?, channel).await.map(Response::new)
    }

    async fn doctor(&self, _: Request<v1::DoctorRequest>) -> Answer<v1::DoctorReply> {
        let ahead = *self.node.clock_ahead_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let findings = doctor::examine(&self.node.config, &self.node.puppet, ahead).await;
        let mut findings = findings.map_err(Status::failed_precondition)?;
        findings.extend(self.node.crl.as_ref().map(Crl::finding));
        findings.extend(self.node.copies.as_ref().map(Copies::finding));
        Ok(Response::new(v1::DoctorReply { findings: findings.iter().map(doctor::wire).collect() }))
    }

    async fn balance(&self, request: Request<v1::BalanceRequest>) -> Answer<v1::BalanceReply> {
        let mut request = request.into_inner();
        let order = request.order.take();
        let subject = order.as_ref().map(|order| order.subject.clone()).unwrap_or_default();
        let balance = Balance::parse(request, &subject)?;
        let keeper = self.node.balancer.clone().ok_or_else(no_balancer)?;
        balance.is_mapped(&keeper)?;
        let fence = self.admit_about(order, &subject)?;
        crash::point("balance-admitted");
        // What was begun must not stop half way because the call was dropped.
        let done = tokio::spawn(balance.run(self.node.clone(), keeper, fence));
        done.await.unwrap_or_else(|_| Err(Status::internal("the order ended early"))).map(Response::new)
    }

    async fn balancer_status(
        &self,
        _: Request<v1::BalancerStatusRequest>,
    ) -> Answer<v1::BalancerStatusReply> {
        let keeper = self.node.balancer.as_deref().ok_or_else(no_balancer)?;
        Ok(Response::new(balancer::status(keeper).await))
    }

    async fn install_crl(&self, request: Request<v1::InstallCrlRequest>) -> Answer<v1::InstallCrlReply> {
        let v1::InstallCrlRequest { order, crls, number_reset } = request.into_inner();
        let fence = self.admit_crl(order)?;
        crash::point("crl-admitted");
        crl::install(self.node.clone(), crls, fence, number_reset).await.map(Response::new)
    }

    async fn prove_crl(&self, request: Request<v1::ProveCrlRequest>) -> Answer<v1::ProveCrlReply> {
        let v1::ProveCrlRequest { order, certificate, key } = request.into_inner();
        let key = Zeroizing::new(key);
        self.admit_crl(order)?;
        crl::prove(&self.node, self.compiler()?, &certificate, &key).await.map(Response::new)
    }

    async fn request_certificate(
        &self,
        request: Request<v1::RequestCertificateRequest>,
    ) -> Answer<v1::RequestCertificateReply> {
        let v1::RequestCertificateRequest { order, dns_alt_names } = request.into_inner();
        let fence = self.admit_certificate(order)?;
        crash::point("certificate-admitted");
        certificate::request(&self.node, self.compiler()?, &dns_alt_names, fence).await.map(Response::new)
    }

    async fn stage_certificate(
        &self,
        request: Request<v1::StageCertificateRequest>,
    ) -> Answer<v1::StageCertificateReply> {
        let v1::StageCertificateRequest { order, certificate } = request.into_inner();
        let fence = self.admit_certificate(order)?;
        certificate::stage(&self.node, self.compiler()?, certificate, fence).await.map(Response::new)
    }

    async fn certificates(&self, _: Request<v1::CertificatesRequest>) -> Answer<v1::CertificatesReply> {
        Ok(Response::new(certificate::list(&self.node).await))
    }

    async fn set_up_compiler(
        &self,
        request: Request<v1::SetUpCompilerRequest>,
    ) -> Answer<v1::SetUpCompilerReply> {
        let v1::SetUpCompilerRequest { order, ca_server, ca } = request.into_inner();
        let set_up = SetUp::parse(&ca_server, ca)?;
        self.compiler()?;
        if order.as_ref().is_none_or(|order| order.subject != setup::SUBJECT) {
            return Err(Status::invalid_argument(format!("the order's subject is not `{}`", setup::SUBJECT)));
        }
        self.admit_about(order, setup::SUBJECT)?;
        crash::point("setup-admitted");
        // What was begun must not stop half way because the call was dropped.
        let node = self.node.clone();
        let done = tokio::spawn(async move {
            let compiler = node.compiler.as_ref().ok_or_else(no_code)?;
            Ok(set_up.run(&node, compiler).await)
        });
        done.await.unwrap_or_else(|_| Err(Status::internal("the order ended early"))).map(Response::new)
    }

    async fn idle(&self, _: Request<v1::IdleRequest>) -> Answer<v1::IdleReply> {
        Ok(Response::new(turn::idle(&self.node, self.compiler()?).await))
    }

    async fn health(&self, request: Request<v1::HealthRequest>) -> Answer<v1::HealthReply> {
        let v1::HealthRequest { certname } = request.into_inner();
        if !certname.is_empty() {
            parse::<NodeName>(&certname)?;
        }
        Ok(Response::new(turn::health(&self.node, self.compiler()?, &certname).await))
    }

    async fn foresee(&self, request: Request<v1::ForeseeRequest>) -> Answer<v1::ForeseeReply> {
        self.compiler()?;
        let v1::ForeseeRequest { action, downgrade, no_revert } = request.into_inner();
        let consent = Consent { downgrade, no_revert };
        Ok(Response::new(turn::foresee(&self.node, &Action::parse(action)?, consent).await))
    }

    async fn prepare(&self, request: Request<v1::PrepareRequest>) -> Answer<v1::TurnReply> {
        let v1::PrepareRequest { order, action, no_revert, downgrade, certname } = request.into_inner();
        if !certname.is_empty() {
            parse::<NodeName>(&certname)?;
        }
        let consent = Consent { downgrade, no_revert };
        self.turn(order, Step::Prepare { action: Action::parse(action)?, consent, certname }).await
    }

    async fn settle(&self, request: Request<v1::SettleRequest>) -> Answer<v1::TurnReply> {
        let v1::SettleRequest { order, hold, owner } = request.into_inner();
        let owner = balancer::text(owner, "owner", balancer::LONGEST_OWNER)?;
        self.turn(order, if hold { Step::Hold { owner } } else { Step::Release }).await
    }

    async fn act(&self, request: Request<v1::ActRequest>) -> Answer<v1::TurnReply> {
        let v1::ActRequest { order, action, revert } = request.into_inner();
        let action = Action::parse(action)?;
        self.turn(order, if revert { Step::Revert(action) } else { Step::Act(action) }).await
    }

    async fn verify(&self, request: Request<v1::VerifyRequest>) -> Answer<v1::TurnReply> {
        let v1::VerifyRequest { order, action, certname, back } = request.into_inner();
        if !certname.is_empty() {
            parse::<NodeName>(&certname)?;
        }
        // On the way back it may be left out.
        let action = if back && action.is_none() { None } else { Some(Action::parse(action)?) };
        self.turn(order, Step::Verify { action, back, certname }).await
    }
}

/// The first counts by its place.
fn same_anchors(one: &[String], other: &[String]) -> bool {
    one.first() == other.first()
        && one.len() == other.len()
        && one.iter().all(|anchor| other.contains(anchor))
}

impl Service {
    pub(crate) fn into_server(self) -> node_server::NodeServer<Self> {
        node_server::NodeServer::new(self)
            .max_decoding_message_size(limits::ORDER_BYTES)
            .max_encoding_message_size(limits::MESSAGE_BYTES)
    }

    /// The controller names the mesh CAs that count: an identity that trusts others, or was signed by another than the
    /// first, is renewed at once. With the answer comes what it lacks.
    fn follow_authority(&self, anchors: Vec<String>) {
        if anchors.is_empty() || same_anchors(&anchors, &self.anchors) {
            return;
        }
        let mut heard = self.node.heard_anchors.lock().unwrap_or_else(PoisonError::into_inner);
        if *heard != anchors {
            tracing::info!(?anchors, "the mesh CA is rotated: the identity is renewed");
            *heard = anchors;
            self.node.renew.notify_one();
        }
    }

    /// What this node's configuration grants.
    fn abilities(&self) -> Vec<String> {
        let (code, balancer) = (self.node.compiler.is_some(), self.node.balancer.is_some());
        let (rollout, services) = (&self.node.config.rollout, &self.node.config.services);
        let anything =
            services.contains_key(&rollout.service) || rollout.puppet_run || !rollout.exec.is_empty();
        let anything = anything || !self.node.config.packages.allow.is_empty();
        let serves = code && anything;
        let crl = self.node.crl.is_some();
        let granted = [("code", code), ("balance", balancer), ("services", serves), ("crl", crl)];
        granted.into_iter().filter(|(_, granted)| *granted).map(|(ability, _)| ability.to_owned()).collect()
    }

    /// An order of this compiler's turn in a rollout.
    async fn turn(&self, order: Option<v1::Order>, step: Step) -> Answer<v1::TurnReply> {
        self.compiler()?;
        let subject = format!("turn {}", self.node.name);
        if order.as_ref().is_none_or(|order| order.subject != subject) {
            return Err(Status::invalid_argument(format!("the order's subject is not `{subject}`")));
        }
        let fence = self.admit_about(order, &subject)?;
        crash::point("turn-admitted");
        Ok(Response::new(turn::ask(&self.node, fence, step).await))
    }

    /// An order about the CRLs of this node.
    fn admit_crl(&self, order: Option<v1::Order>) -> Result<Fence, Status> {
        if self.node.crl.is_none() {
            return Err(crl::no_crl());
        }
        if order.as_ref().is_none_or(|order| order.subject != crl::SUBJECT) {
            return Err(Status::invalid_argument(format!("the order's subject is not `{}`", crl::SUBJECT)));
        }
        self.admit_about(order, crl::SUBJECT)
    }

    /// An order about this compiler's certificate.
    fn admit_certificate(&self, order: Option<v1::Order>) -> Result<Fence, Status> {
        self.compiler()?;
        let subject = certificate::SUBJECT;
        if order.as_ref().is_none_or(|order| order.subject != subject) {
            return Err(Status::invalid_argument(format!("the order's subject is not `{subject}`")));
        }
        self.admit_about(order, subject)
    }

    fn compiler(&self) -> Result<&Compiler, Status> {
        self.node.compiler.as_ref().ok_or_else(no_code)
    }

    /// What a controller of the fleet before says must not be remembered as this one's.
    fn same_fleet(&self, memory: &Memory) -> Result<(), Status> {
        if memory.belongs_to(&self.fleet) {
            Ok(())
        } else {
            Err(Status::failed_precondition("this node was enrolled in another fleet meanwhile"))
        }
    }

    /// Parses an order at the door and remembers it before anything happens.
    fn admit(&self, order: Option<v1::Order>) -> Result<(EnvironmentName, Fence), Status> {
        let order = order.ok_or_else(|| Status::invalid_argument("the order is missing"))?;
        let environment: EnvironmentName = parse(&order.environment)?;
        let fence = self.remember(order, |memory, fence| memory.admit(&environment, fence))?;
        Ok((environment, fence))
    }

    /// The same for an order about something that is no environment.
    fn admit_about(&self, order: Option<v1::Order>, subject: &str) -> Result<Fence, Status> {
        let order = order.ok_or_else(|| Status::invalid_argument("the order is missing"))?;
        self.remember(order, |memory, fence| memory.admit_about(subject, fence))
    }

    fn remember(
        &self,
        order: v1::Order,
        admit: impl FnOnce(&mut Memory, Fence) -> Result<(), Refused>,
    ) -> Result<Fence, Status> {
        if !*self.greeted.borrow() {
            return Err(Status::failed_precondition(
                "no hello in this node's protocol came on this connection",
            ));
        }
        let fence = Fence { term: term(order.term)?, generation: Generation(order.generation) };
        let mut memory = self.node.memory();
        self.same_fleet(&memory)?;
        match admit(&mut memory, fence) {
            Ok(()) => Ok(fence),
            Err(Refused::Memory(error)) => Err(Status::internal(Chain(&error).to_string())),
            Err(refused @ (Refused::Term { .. } | Refused::Generation { .. })) => {
                tracing::warn!(order = order.id, reason = %refused, "order refused");
                Err(Status::aborted(refused.to_string()))
            }
        }
    }

    async fn observed(&self) -> v1::ObserveReply {
        let crl = self.node.crl.as_ref().map(Crl::seen);
        let Some(compiler) = &self.node.compiler else {
            return v1::ObserveReply { crl, ..v1::ObserveReply::default() };
        };
        // Asked first: it may take seconds, and what is said of the versions should not be older than the answer.
        let puppetserver = self.puppetserver(compiler).await;
        let versions = compiler.versions.clone();
        let states = tokio::task::spawn_blocking(move || versions.observe()).await.unwrap_or_default();
        let (free_bytes, free_inodes) = free(&compiler.config.versions_dir);
        v1::ObserveReply {
            environments: states.into_iter().map(|state| self.on_node(compiler, state)).collect(),
            puppetserver,
            free_bytes,
            free_inodes,
            keeps: u32::try_from(compiler.versions.keeps(&compiler.policy())).unwrap_or(u32::MAX),
            crl,
            host_certificate: certificate::seen(&self.node, compiler).await,
        }
    }

    fn on_node(
        &self,
        compiler: &Compiler,
        state: bunraku_versions::EnvironmentState,
    ) -> v1::EnvironmentOnNode {
        let memory = self.node.memory();
        let subject = memory.subject(&state.environment);
        let proven = state.live.is_some() && subject.and_then(|subject| subject.proven) == state.live;
        let owed = subject.and_then(|subject| subject.owed);
        let why = || compiler.owed(&state.environment).unwrap_or_else(|| "flush and proof".to_owned());
        v1::EnvironmentOnNode {
            live: state.live.map(|live| live.to_string()).unwrap_or_default(),
            sealed: state.sealed,
            proven,
            owed: owed.map(|_| why()).unwrap_or_default(),
            term: subject.map(|subject| subject.fence.term.into()),
            generation: subject.map_or(0, |subject| subject.fence.generation.0),
            versions: state.versions.iter().map(ToString::to_string).collect(),
            drift: state.drift,
            unmanaged: state.unmanaged || state.foreign_link.is_some(),
            environment: state.environment.to_string(),
        }
    }

    async fn puppetserver(&self, compiler: &Compiler) -> String {
        let asked = async {
            let settings = self.node.settings(compiler).await.map_err(|error| Chain(&error).to_string())?;
            self.node.server(&settings)
        };
        match asked.await {
            Err(why) => format!("unknown: {why}"),
            Ok(server) => match server.with_deadline(std::time::Duration::from_secs(3)).status().await {
                ServerStatus::Running => "running".to_owned(),
                ServerStatus::Starting => "starting".to_owned(),
                ServerStatus::Stopping => "stopping".to_owned(),
                ServerStatus::Ailing(why) => format!("ailing: {why}"),
                ServerStatus::Down(why) => format!("down: {why}"),
            },
        }
    }
}

fn no_code() -> Status {
    Status::failed_precondition(
        "this node's configuration grants no code (hint: add a [code] table to agent.toml)",
    )
}

fn parse<T: FromStr>(text: &str) -> Result<T, Status>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Status::invalid_argument(error.to_string()))
}

fn term(term: Option<v1::Term>) -> Result<Term, Status> {
    let parsed = term.and_then(|term| term.parsed());
    parsed.ok_or_else(|| Status::invalid_argument("the term is missing or malformed"))
}

fn free(path: &std::path::Path) -> (u64, u64) {
    rustix::fs::statvfs(path).map_or((0, 0), |fs| (fs.f_bavail * fs.f_frsize, fs.f_favail))
}
