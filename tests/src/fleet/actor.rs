//! A compiler whose node agent is played: a true identity, a connection of its own, and turns that go as a test wants
//! them to. What it is ordered it remembers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bunraku_common::limits;
use bunraku_proto::{
    Door, PROTOCOL, Peer, dial,
    identity::{self, Identity},
    serve::serve_node,
    tls,
    v1::{
        self,
        node_server::{Node, NodeServer},
        turn_reply::Outcome,
    },
};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, service::Routes};
use zeroize::Zeroizing;

use super::MainServer;

type Answer<T> = Result<Response<T>, Status>;

/// Longer than a controller that is there needs for its hello.
const HELLO: Duration = Duration::from_secs(30);
const BETWEEN_DIALS: Duration = Duration::from_millis(50);

/// Ends with its owner.
#[derive(Debug)]
pub struct Actor {
    name: String,
    play: Play,
    _connection: JoinSet<()>,
}

/// What the part is.
#[derive(Debug, Clone, Default)]
struct Play {
    stage: Arc<Mutex<Stage>>,
    /// Said at hello.
    abilities: Vec<String>,
}

#[derive(Debug, Default)]
struct Stage {
    /// What it answers to an order to `prepare`, `hold`, `release`, `act` or `verify`; else that it is done.
    answers: BTreeMap<&'static str, Outcome>,
    idle: v1::IdleReply,
    /// Connections that are really there, beside those of `idle`.
    held: Arc<AtomicU32>,
    health: v1::HealthReply,
    /// Catalogs and failures that come to its counts between two questions.
    fares: (u64, u64),
    too_old: bool,
    orders: Vec<Ordered>,
    questions: usize,
}

/// An order as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    pub what: &'static str,
    pub subject: String,
    pub term: u64,
    pub generation: u64,
    /// The owner of a hold.
    pub owner: String,
}

impl Actor {
    pub(super) async fn enter(name: &str, main: &MainServer, abilities: &[&str]) -> Self {
        let roles = vec!["compiler".to_owned()];
        let request = v1::CreateTokenRequest { node: name.to_owned(), roles, ttl_s: 0 };
        let token = Zeroizing::new(main.client().create_token(request).await.unwrap().into_inner().token);
        let peer = Peer::Node(name.parse().unwrap());
        let address = main.address().to_string();
        let identity = identity::with_token(&address, main.pin(), &token, &peer).await.unwrap();
        let abilities = abilities.iter().map(|ability| (*ability).to_owned()).collect();
        let play = Play { abilities, ..Play::default() };
        let mut connection = JoinSet::new();
        connection.spawn(play.clone().keep_connected(address, identity));
        Self { name: name.to_owned(), play, _connection: connection }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on it goes on with these orders, and says at what.
    pub fn goes_on(&self, what: &'static str, words: &str) {
        let going_on = v1::TurnGoingOn { what: words.to_owned() };
        self.play.stage().answers.insert(what, Outcome::GoingOn(going_on));
    }

    pub fn fails(&self, what: &'static str, reason: &str) {
        let failed = v1::TurnFailed { reason: reason.to_owned(), ..v1::TurnFailed::default() };
        self.play.stage().answers.insert(what, Outcome::Failed(failed));
    }

    /// It fails, and everything is as it was before.
    pub fn fails_in_vain(&self, what: &'static str, reason: &str) {
        let failed =
            v1::TurnFailed { reason: reason.to_owned(), unchanged: true, ..v1::TurnFailed::default() };
        self.play.stage().answers.insert(what, Outcome::Failed(failed));
    }

    pub fn notes(&self, what: &'static str, note: &str) {
        self.play.stage().answers.insert(what, Outcome::Done(v1::TurnDone { note: note.to_owned() }));
    }

    /// Orders of this kind go well again.
    pub fn goes_well(&self, what: &'static str) {
        self.play.stage().answers.remove(what);
    }

    /// As a node agent of before rollouts.
    pub fn is_too_old(&self) {
        self.play.stage().too_old = true;
    }

    /// What it answers when it is asked who is still served.
    pub fn is_idle(&self, idle: v1::IdleReply) {
        self.play.stage().idle = idle;
    }

    /// It counts these connections, too.
    pub(super) fn counts(&self, held: Arc<AtomicU32>) {
        self.play.stage().held = held;
    }

    /// From now on so many catalogs come between two questions, and so many of them fail.
    pub fn fares(&self, catalogs: u64, failed: u64) {
        self.play.stage().fares = (catalogs, failed);
    }

    /// How often it was asked who is still served.
    pub fn questions(&self) -> usize {
        self.play.stage().questions
    }

    /// All orders of a kind, oldest first; repetitions count.
    pub fn orders(&self, what: &str) -> Vec<Ordered> {
        self.play.stage().orders.iter().filter(|order| order.what == what).cloned().collect()
    }

    /// How often this was really to be done: orders under numbers of their own.
    pub fn times(&self, what: &str) -> usize {
        let numbers = self.orders(what).into_iter().map(|order| order.generation);
        numbers.collect::<std::collections::BTreeSet<_>>().len()
    }
}

impl Play {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For ever, also over the controller's restarts.
    async fn keep_connected(self, address: String, identity: Identity) {
        let tls = tls::mesh_client(identity.mesh(), Door::Node).unwrap();
        loop {
            if let Ok(io) = dial::dial(&address, &tls, limits::HANDSHAKE).await {
                let routes = Routes::new(NodeServer::new(self.clone()));
                let _why = serve_node(io, routes, HELLO, std::future::pending()).await;
            }
            tokio::time::sleep(BETWEEN_DIALS).await;
        }
    }

    fn ordered(&self, what: &'static str, order: Option<v1::Order>, owner: String) -> Answer<v1::TurnReply> {
        let order = order.unwrap_or_default();
        let mut stage = self.stage();
        if stage.too_old {
            return Err(Status::unimplemented(""));
        }
        stage.orders.push(Ordered {
            what,
            subject: order.subject,
            term: order.term.unwrap_or_default().number,
            generation: order.generation,
            owner,
        });
        let done = || Outcome::Done(v1::TurnDone::default());
        let outcome = stage.answers.get(what).cloned().unwrap_or_else(done);
        Ok(Response::new(v1::TurnReply { outcome: Some(outcome) }))
    }
}

#[tonic::async_trait]
impl Node for Play {
    async fn hello(&self, _: Request<v1::HelloRequest>) -> Answer<v1::HelloReply> {
        Ok(Response::new(v1::HelloReply {
            protocol: PROTOCOL,
            instance: "actor".to_owned(),
            observed: Some(v1::ObserveReply::default()),
            abilities: self.abilities.clone(),
            ..Default::default()
        }))
    }

    async fn observe(&self, _: Request<v1::ObserveRequest>) -> Answer<v1::ObserveReply> {
        Ok(Response::new(v1::ObserveReply::default()))
    }

    async fn stage(&self, request: Request<v1::StageRequest>) -> Answer<v1::StageReply> {
        self.ordered("stage", request.into_inner().order, String::new())?;
        Err(no_part())
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Answer<v1::CommitReply> {
        self.ordered("commit", request.into_inner().order, String::new())?;
        Err(no_part())
    }

    async fn discard(&self, _: Request<v1::DiscardRequest>) -> Answer<v1::DiscardReply> {
        Err(no_part())
    }

    async fn heal(&self, _: Request<v1::HealRequest>) -> Answer<v1::HealReply> {
        Err(no_part())
    }

    async fn doctor(&self, _: Request<v1::DoctorRequest>) -> Answer<v1::DoctorReply> {
        Err(no_part())
    }

    async fn balance(&self, _: Request<v1::BalanceRequest>) -> Answer<v1::BalanceReply> {
        Err(no_part())
    }

    async fn balancer_status(
        &self,
        _: Request<v1::BalancerStatusRequest>,
    ) -> Answer<v1::BalancerStatusReply> {
        Err(no_part())
    }

    async fn install_crl(&self, _: Request<v1::InstallCrlRequest>) -> Answer<v1::InstallCrlReply> {
        Err(Status::unimplemented("no part of this play"))
    }

    async fn prove_crl(&self, _: Request<v1::ProveCrlRequest>) -> Answer<v1::ProveCrlReply> {
        Err(Status::unimplemented("no part of this play"))
    }

    async fn request_certificate(
        &self,
        _: Request<v1::RequestCertificateRequest>,
    ) -> Answer<v1::RequestCertificateReply> {
        Err(Status::unimplemented("no part of this play"))
    }

    async fn stage_certificate(
        &self,
        _: Request<v1::StageCertificateRequest>,
    ) -> Answer<v1::StageCertificateReply> {
        Err(Status::unimplemented("no part of this play"))
    }

    async fn certificates(&self, _: Request<v1::CertificatesRequest>) -> Answer<v1::CertificatesReply> {
        Err(Status::unimplemented("no part of this play"))
    }

    async fn set_up_compiler(&self, _: Request<v1::SetUpCompilerRequest>) -> Answer<v1::SetUpCompilerReply> {
        Err(no_part())
    }

    async fn idle(&self, _: Request<v1::IdleRequest>) -> Answer<v1::IdleReply> {
        let mut stage = self.stage();
        stage.questions += 1;
        let connections = stage.idle.connections + stage.held.load(Ordering::Relaxed);
        Ok(Response::new(v1::IdleReply { connections, ..stage.idle.clone() }))
    }

    async fn health(&self, _: Request<v1::HealthRequest>) -> Answer<v1::HealthReply> {
        let mut stage = self.stage();
        let fares = stage.fares;
        stage.health.epoch = 1;
        stage.health.catalogs += fares.0;
        stage.health.catalog_ms += fares.0 * 100;
        stage.health.failed += fares.1;
        Ok(Response::new(stage.health.clone()))
    }

    async fn foresee(&self, _: Request<v1::ForeseeRequest>) -> Answer<v1::ForeseeReply> {
        Ok(Response::new(v1::ForeseeReply::default()))
    }

    async fn prepare(&self, request: Request<v1::PrepareRequest>) -> Answer<v1::TurnReply> {
        self.ordered("prepare", request.into_inner().order, String::new())
    }

    async fn settle(&self, request: Request<v1::SettleRequest>) -> Answer<v1::TurnReply> {
        let v1::SettleRequest { order, hold, owner } = request.into_inner();
        self.ordered(if hold { "hold" } else { "release" }, order, owner)
    }

    async fn act(&self, request: Request<v1::ActRequest>) -> Answer<v1::TurnReply> {
        self.ordered("act", request.into_inner().order, String::new())
    }

    async fn verify(&self, request: Request<v1::VerifyRequest>) -> Answer<v1::TurnReply> {
        self.ordered("verify", request.into_inner().order, String::new())
    }
}

fn no_part() -> Status {
    Status::unimplemented("no part of this play")
}
