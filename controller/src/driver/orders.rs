//! Does one step: calls the node or runs the builder, and says what came of it.
//!
//! A call that timed out, or whose connection broke, is unknown: no event at all. The step is still to do, and the
//! node will say what became of it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bunraku_builder::{Builder, ObjectStore, Pin};
use bunraku_common::{
    Chain, Digest, EnvironmentName, Generation, NodeName, Term, hint, limits,
    snapshot::{diff, ruby},
};
use bunraku_engine::{Built, DeployId, Event, Fault, State, Step, StepId};
use bunraku_proto::v1::{
    self, BalanceRequest, CommitReply, CommitRequest, DiscardRequest, Order, StageRequest, stage_failed,
    stage_reply::Outcome,
};
use tokio::{runtime::Handle, task::AbortHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request, Status};

use super::{Shared, flight::FlightId};
use crate::{
    balancers::Balancers,
    certificates::MainCa,
    clock::wall_ms,
    nodes::Connections,
    provenance::{Origin, Provenance},
    revocation::{CrlFiles, Stock},
    turns::Turns,
    words::plain,
};

/// A commit waits for the settle, the flush and the proof; Puppet Server answers these within seconds or not at all.
const COMMIT_DEADLINE: Duration = Duration::from_secs(60);
const DISCARD_DEADLINE: Duration = Duration::from_secs(30);
/// A balancer's program answers within seconds or is in trouble; orders wait for each other's turn.
const BALANCE_DEADLINE: Duration = Duration::from_secs(20);

/// What the steps are done with.
#[derive(Debug)]
pub(crate) struct Hands {
    pub runtime: Handle,
    pub connections: Arc<Connections>,
    pub balancers: Arc<Balancers>,
    pub turns: Arc<Turns>,
    pub builder: Arc<Builder>,
    pub store: Arc<ObjectStore>,
    pub provenance: Arc<Provenance>,
    pub crls: CrlFiles,
    pub stock: Stock,
    pub puppet_ca: Arc<MainCa>,
    pub stage_deadline: Duration,
    /// To compare a new snapshot with what is committed. Weak: the loop owns the hands.
    pub shared: Weak<Shared>,
}

/// A step's task has ended.
pub(super) struct Done {
    pub step: StepId,
    pub flight: FlightId,
    /// Nothing: the outcome is unknown.
    pub event: Option<Event>,
    /// Keeps a built snapshot from the sweeper until it is on record.
    pub pin: Option<Pin>,
}

impl Hands {
    /// Starts a step; `done` is called when its task ends by itself.
    pub(super) fn start(
        self: &Arc<Self>,
        step: Step,
        term: Term,
        flight: FlightId,
        done: impl FnOnce(Done) + Send + 'static,
    ) -> AbortHandle {
        let hands = self.clone();
        let task = self.runtime.spawn(async move {
            let id = step.id();
            let (event, pin) = hands.perform(step, term).await;
            done(Done { step: id, flight, event, pin });
        });
        task.abort_handle()
    }

    pub(super) fn cut_denied(&self, state: &State) {
        self.connections.cut_denied(state);
    }

    async fn perform(&self, step: Step, term: Term) -> (Option<Event>, Option<Pin>) {
        match step {
            Step::Build { deploy, environment, branch, commit } => {
                self.build(deploy, environment, &branch, commit.as_deref()).await
            }
            Step::Stage { deploy, node, environment, snapshot, generation, generate_types, adopt } => {
                let order = order(term, generation, &environment);
                let request = stage_request(order, snapshot, generate_types, adopt);
                let staged = self.stage(&node, snapshot, request).await;
                if let Some(Ok(note)) = &staged
                    && !note.is_empty()
                {
                    self.describe(self.provenance.keep_note(deploy, &node, note));
                }
                (staged.map(|staged| stage_event(deploy, node, staged)), None)
            }
            Step::Commit { environment, node, snapshot, generation, deploy } => {
                let committed = self.commit(term, environment, node.clone(), snapshot, generation).await;
                (committed.map(|answer| answer.unwrap_or(Event::NotStaged { deploy, node })), None)
            }
            Step::Discard { environment, node, snapshot, generation } => {
                let order = Some(order(term, generation, &environment));
                let request = DiscardRequest { order, snapshot: snapshot.to_string() };
                let answer =
                    self.call(&node, request, DISCARD_DEADLINE, async |mut c, r| c.discard(r).await).await;
                (answer.ok().map(|_| Event::Discarded { environment, node, snapshot }), None)
            }
            Step::Bring { node, environment, snapshot, generation, adopt } => {
                (self.bring(term, node, environment, snapshot, generation, adopt).await, None)
            }
            Step::Balance {
                balancer,
                compiler,
                drained,
                owner,
                reason,
                generation,
                min_available,
                slow_start_s,
                close,
            } => {
                let order = Some(order_about(term, generation, &format!("server {compiler}")));
                let name = compiler.to_string();
                let request = BalanceRequest {
                    order,
                    compiler: name,
                    drained,
                    owner,
                    reason,
                    min_available,
                    slow_start_s,
                    close_sessions: close,
                };
                (self.balance(balancer, compiler, generation, request).await, None)
            }
            turn @ (Step::Prepare { .. } | Step::Settle { .. } | Step::Act { .. } | Step::Verify { .. }) => {
                (self.turn(turn, term).await, None)
            }
            Step::InstallCrl { node, crl, generation, number_reset } => {
                (self.install_crl(node, crl, generation, number_reset, term).await, None)
            }
            Step::ProveCrl { node, canary, revoked, generation } => {
                (self.prove_crl(node, &canary, revoked, generation, term).await, None)
            }
            Step::MakeCanary { more: _ } => (self.make_canary().await, None),
            Step::RevokeCanary { name } => (self.revoke_canary(&name).await, None),
            Step::ForgetCanary { name } => (self.forget_canary(&name).await, None),
            Step::RequestCertificate { node, generation, alt_names } => {
                let event = self.request_certificate(node, generation, &alt_names, term).await;
                (event.map(Event::Certificate), None)
            }
            Step::SignCertificate { certname, generation, alt_names, request, ours } => {
                let event = self.sign_certificate(certname, generation, &alt_names, &request, &ours).await;
                (Some(Event::Certificate(event)), None)
            }
            Step::StageCertificate { node, generation, certificate } => {
                let event = self.stage_certificate(node, generation, certificate, term).await;
                (event.map(Event::Certificate), None)
            }
            Step::Retain { node, environment, snapshot, generation, retained } => {
                let order = order(term, generation, &environment);
                let retained = retained.iter().take(limits::RETAINED).map(ToString::to_string).collect();
                let request = StageRequest { retained, ..stage_request(order, snapshot, false, false) };
                let staged = self.stage(&node, snapshot, request).await;
                (staged.map(|staged| retained_event(environment, node, snapshot, staged)), None)
            }
        }
    }

    async fn build(
        &self,
        deploy: DeployId,
        environment: EnvironmentName,
        branch: &str,
        commit: Option<&str>,
    ) -> (Option<Event>, Option<Pin>) {
        // An aborted task drops the guard, and the builder ends its processes.
        let cancel = CancellationToken::new();
        let _ends_with_the_task: DropGuard = cancel.clone().drop_guard();
        let built = match self.builder.build(&environment, branch, commit, cancel).await {
            Ok(built) => built,
            Err(failed) => {
                self.describe(self.provenance.keep_output(deploy, failed.output()));
                let (reason, own) = hint::split(&Chain(&failed).to_string());
                let hint = self.builder.hint(&failed).unwrap_or(own);
                return (Some(Event::BuildFailed { deploy, reason, hint }), None);
            }
        };
        self.describe(self.provenance.keep_output(deploy, &built.output));
        self.describe(self.provenance.keep(&Origin {
            snapshot: built.digest,
            environment: environment.clone(),
            branch: built.branch.clone(),
            commit: built.commit.clone(),
            builder: built.builder.clone(),
            files: built.files,
            bytes: built.bytes,
            modules: built.modules.iter().map(|m| (m.name.clone(), m.version.clone())).collect(),
            built_ms: wall_ms(),
        }));
        let (generate_types, stale_ruby) = self.touches_ruby(&environment, &built.digest).await;
        let made = Built { snapshot: built.digest, commit: Some(built.commit), generate_types, stale_ruby };
        (Some(Event::BuildDone { deploy, built: made }), Some(built.pin))
    }

    fn describe(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            tracing::warn!(error = %Chain(&error), "where a snapshot came from could not be written down");
        }
    }

    /// Whether the difference to the committed snapshot asks for new `.resource_types`, and whether it leaves stale Ruby
    /// in interpreters; when in doubt, yes.
    async fn touches_ruby(&self, environment: &EnvironmentName, snapshot: &Digest) -> (bool, bool) {
        let committed = self.shared.upgrade().and_then(|shared| {
            shared.state().environments().get(environment)?.committed.as_ref().map(|c| c.snapshot)
        });
        let (store, new) = (self.store.clone(), *snapshot);
        let changes = tokio::task::spawn_blocking(move || diff(&*store, committed.as_ref(), &new)).await;
        match changes {
            Ok(Ok(changes)) => {
                (ruby::needs_types(&changes), committed.is_some() && ruby::flushes_jrubies(&changes))
            }
            Ok(Err(_)) | Err(_) => (true, true),
        }
    }

    /// What the node notes, if anything. `None`: unknown.
    async fn stage(
        &self,
        node: &NodeName,
        snapshot: Digest,
        request: StageRequest,
    ) -> Option<Result<String, v1::StageFailed>> {
        let reply = self.call(node, request, self.stage_deadline, async |mut c, r| c.stage(r).await).await;
        let reply = reply.ok()?;
        match reply.outcome? {
            Outcome::Staged(staged) => {
                tracing::info!(
                    %node, snapshot = %snapshot.short(), already = staged.already, bytes = staged.fetched_bytes,
                    objects = staged.fetched_objects, ms = staged.took_ms, note = staged.note, "staged"
                );
                Some(Ok(plain(&staged.note)))
            }
            Outcome::Failed(v1::StageFailed { fault, reason, hint }) => {
                Some(Err(v1::StageFailed { fault, reason: plain(&reason), hint: plain(&hint) }))
            }
        }
    }

    /// `None`: unknown. `Some(None)`: the node does not hold the version.
    async fn commit(
        &self,
        term: Term,
        environment: EnvironmentName,
        node: NodeName,
        snapshot: Digest,
        generation: Generation,
    ) -> Option<Option<Event>> {
        let order = Some(order(term, generation, &environment));
        let request = CommitRequest { order, snapshot: snapshot.to_string() };
        let reply = self.call(&node, request, COMMIT_DEADLINE, async |mut c, r| c.commit(r).await).await;
        let reply = match reply {
            Ok(reply) => reply,
            Err(NoReply::Unknown | NoReply::NotUnderstood(_)) => return None,
            Err(NoReply::Refused(owed) | NoReply::Failed(owed)) => {
                CommitReply { owed, ..CommitReply::default() }
            }
        };
        if reply.missing {
            tracing::warn!(%node, %environment, snapshot = %snapshot.short(), "what was staged is not there any more");
            return Some(None);
        }
        let swapped_ms = (reply.swapped_ms != 0).then_some(reply.swapped_ms);
        let proven = reply.committed && reply.proven;
        Some(Some(Event::Committed {
            environment,
            node,
            snapshot,
            generation,
            proven,
            owed: plain(&reply.owed),
            swapped_ms,
        }))
    }

    async fn bring(
        &self,
        term: Term,
        node: NodeName,
        environment: EnvironmentName,
        snapshot: Digest,
        generation: Generation,
        adopt: bool,
    ) -> Option<Event> {
        let order = order(term, generation, &environment);
        let reason = match self.stage(&node, snapshot, stage_request(order, snapshot, true, adopt)).await? {
            Ok(_note) => {
                let committed = self.commit(term, environment.clone(), node.clone(), snapshot, generation);
                match committed.await? {
                    Some(event) => return Some(event),
                    None => format!("{} was staged and is not there any more", snapshot.short()),
                }
            }
            Err(failed) => failed.reason,
        };
        Some(Event::BringFailed { environment, node, generation, reason })
    }

    /// Only a clear no to a drain is an event: whether it is done is seen when the balancer is asked.
    async fn balance(
        &self,
        balancer: NodeName,
        compiler: NodeName,
        generation: Generation,
        request: BalanceRequest,
    ) -> Option<Event> {
        let drained = request.drained;
        let reply =
            self.call(&balancer, request, BALANCE_DEADLINE, async |mut c, r| c.balance(r).await).await;
        self.balancers.look_at(&balancer);
        match reply {
            Ok(reply) if !reply.not_closed.is_empty() => {
                self.noted(
                    &compiler,
                    &format!("{balancer} did not close its sessions: {}", reply.not_closed),
                );
                None
            }
            Err(NoReply::Refused(reason)) if drained => {
                Some(Event::BalanceRefused { balancer, compiler, generation, reason })
            }
            Ok(_)
            | Err(NoReply::Unknown | NoReply::NotUnderstood(_) | NoReply::Failed(_) | NoReply::Refused(_)) => {
                None
            }
        }
    }

    /// One call with its deadline on the wire and here.
    pub(super) async fn call<Q, A, F>(
        &self,
        node: &NodeName,
        request: Q,
        deadline: Duration,
        call: F,
    ) -> Result<A, NoReply>
    where
        F: AsyncFnOnce(Client, Request<Q>) -> Result<tonic::Response<A>, Status>,
    {
        let client = self.connections.client(node).ok_or(NoReply::Unknown)?;
        let mut request = Request::new(request);
        request.set_timeout(deadline);
        match call(client, request).await {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => {
                let level_is_info = matches!(status.code(), Code::Unavailable | Code::Cancelled);
                if level_is_info {
                    tracing::info!(%node, reason = status.message(), "no answer from the node");
                } else {
                    tracing::warn!(%node, code = ?status.code(), reason = status.message(), "the node did not obey");
                }
                // A refused fence is unknown, too: a newer decision is on its way, or another controller's.
                let why = || plain(status.message());
                Err(if status.code() == Code::FailedPrecondition {
                    NoReply::Refused(why())
                } else if status.code() == Code::Internal {
                    NoReply::Failed(why())
                } else if matches!(status.code(), Code::Unimplemented | Code::InvalidArgument) {
                    NoReply::NotUnderstood(why())
                } else {
                    NoReply::Unknown
                })
            }
        }
    }
}

/// Why a call has no reply.
pub(super) enum NoReply {
    /// It may have been obeyed, or will be.
    Unknown,
    /// The node's program does not know such an order, and says so.
    NotUnderstood(String),
    /// The node says why it does not obey.
    Refused(String),
    /// The node says why it could not.
    Failed(String),
}

pub(super) type Client = v1::node_client::NodeClient<bunraku_proto::link::NodeLink>;

fn stage_event(deploy: DeployId, node: NodeName, staged: Result<String, v1::StageFailed>) -> Event {
    match staged {
        Ok(_note) => Event::Staged { deploy, node },
        Err(failed) => {
            let fault = match failed.fault() {
                stage_failed::Fault::Content => Fault::Content,
                stage_failed::Fault::Node | stage_failed::Fault::Unspecified => Fault::Node,
            };
            Event::StageFailed { deploy, node, fault, reason: failed.reason, hint: failed.hint }
        }
    }
}

fn retained_event(
    environment: EnvironmentName,
    node: NodeName,
    snapshot: Digest,
    staged: Result<String, v1::StageFailed>,
) -> Event {
    match staged {
        Ok(_note) => Event::RetainedStaged { environment, node, snapshot },
        Err(v1::StageFailed { reason, .. }) => {
            tracing::info!(%node, %environment, snapshot = %snapshot.short(), reason, "not retained on the node");
            Event::RetainedRefused { environment, node, reason }
        }
    }
}

fn stage_request(order: Order, snapshot: Digest, generate_types: bool, adopt: bool) -> StageRequest {
    let (order, snapshot, retained) = (Some(order), snapshot.to_string(), Vec::new());
    StageRequest { order, snapshot, generate_types, adopt, retained }
}

pub(crate) fn order(term: Term, generation: Generation, environment: &EnvironmentName) -> Order {
    Order {
        id: format!("{environment}-{}-{}", term.number, generation.0),
        term: Some(term.into()),
        generation: generation.0,
        environment: environment.to_string(),
        subject: String::new(),
    }
}

/// An order about something that is no environment.
pub(crate) fn order_about(term: Term, generation: Generation, subject: &str) -> Order {
    Order {
        id: format!("{}-{}-{}", subject.replace(' ', "-"), term.number, generation.0),
        term: Some(term.into()),
        generation: generation.0,
        environment: String::new(),
        subject: subject.to_owned(),
    }
}
