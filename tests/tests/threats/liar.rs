//! A compromised compiler: it has a true certificate, speaks the protocol, and says what it likes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bunraku_proto::{
    Door, PROTOCOL,
    serve::serve_node,
    v1::{
        self,
        node_server::{Node, NodeServer},
        stage_reply::Outcome,
    },
};
use bunraku_tests::fleet::MainServer;
use tonic::{Request, Response, Status, service::Routes};

use super::raw::{Client, Holder, SOON};

type Answer<T> = Result<Response<T>, Status>;

#[derive(Debug, Clone)]
pub(crate) struct Liar {
    /// At hello.
    says: v1::HelloReply,
    /// To every other order than a hello, as far as its kind has a place for words.
    talks: String,
    greeted: Arc<AtomicUsize>,
    ordered: Arc<AtomicUsize>,
}

impl Liar {
    pub(crate) fn new(says: v1::HelloReply, talks: String) -> Self {
        Self { says, talks, greeted: Arc::default(), ordered: Arc::default() }
    }

    pub(crate) fn honest() -> v1::HelloReply {
        v1::HelloReply { protocol: PROTOCOL, instance: "i".into(), ..Default::default() }
    }

    pub(crate) fn greeted(&self) -> usize {
        self.greeted.load(Ordering::Relaxed)
    }

    pub(crate) fn ordered(&self) -> usize {
        self.ordered.load(Ordering::Relaxed)
    }

    /// Dials, and answers until the controller leaves.
    pub(crate) async fn serve(&self, main: &MainServer, holder: &Holder) {
        self.clone().serving(main, holder).await.await;
    }

    /// Dials; what it answers from then on.
    pub(crate) async fn serving(
        self,
        main: &MainServer,
        holder: &Holder,
    ) -> impl Future<Output = ()> + Send + use<> {
        let io = Client::new(main, Door::Node, Some(holder)).dial().await.unwrap();
        // Whoever lies at length sends it, too.
        let routes = Routes::new(NodeServer::new(self).max_encoding_message_size(64 << 20));
        async move {
            let _why = serve_node(io, routes, SOON, std::future::pending()).await;
        }
    }

    fn order<T>(&self, answer: T) -> Answer<T> {
        self.ordered.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl Node for Liar {
    async fn hello(&self, _: Request<v1::HelloRequest>) -> Answer<v1::HelloReply> {
        self.greeted.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(self.says.clone()))
    }

    async fn observe(&self, _: Request<v1::ObserveRequest>) -> Answer<v1::ObserveReply> {
        Ok(Response::new(self.says.observed.clone().unwrap_or_default()))
    }

    async fn stage(&self, _: Request<v1::StageRequest>) -> Answer<v1::StageReply> {
        let failed = v1::StageFailed { fault: 2, reason: self.talks.clone(), hint: self.talks.clone() };
        self.order(v1::StageReply { outcome: Some(Outcome::Failed(failed)) })
    }

    async fn commit(&self, _: Request<v1::CommitRequest>) -> Answer<v1::CommitReply> {
        self.order(v1::CommitReply { owed: self.talks.clone(), ..Default::default() })
    }

    async fn discard(&self, _: Request<v1::DiscardRequest>) -> Answer<v1::DiscardReply> {
        self.order(v1::DiscardReply {})
    }

    async fn heal(&self, _: Request<v1::HealRequest>) -> Answer<v1::HealReply> {
        self.order(v1::HealReply { mended: vec![self.talks.clone()], checked_files: u64::MAX })
    }

    async fn doctor(&self, _: Request<v1::DoctorRequest>) -> Answer<v1::DoctorReply> {
        let talks = || self.talks.clone();
        let finding =
            v1::Finding { check: talks(), severity: 99, found: talks(), mend: talks(), fixable: true };
        self.order(v1::DoctorReply { findings: vec![finding] })
    }

    async fn balance(
        &self,
        _: tonic::Request<bunraku_proto::v1::BalanceRequest>,
    ) -> Result<tonic::Response<bunraku_proto::v1::BalanceReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar balances nothing"))
    }

    async fn balancer_status(
        &self,
        _: tonic::Request<bunraku_proto::v1::BalancerStatusRequest>,
    ) -> Result<tonic::Response<bunraku_proto::v1::BalancerStatusReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar balances nothing"))
    }

    async fn install_crl(
        &self,
        _: tonic::Request<v1::InstallCrlRequest>,
    ) -> Result<tonic::Response<v1::InstallCrlReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar takes no CRL"))
    }

    async fn prove_crl(
        &self,
        _: tonic::Request<v1::ProveCrlRequest>,
    ) -> Result<tonic::Response<v1::ProveCrlReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar proves nothing"))
    }

    async fn request_certificate(
        &self,
        _: tonic::Request<v1::RequestCertificateRequest>,
    ) -> Result<tonic::Response<v1::RequestCertificateReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar has no certificate"))
    }

    async fn stage_certificate(
        &self,
        _: tonic::Request<v1::StageCertificateRequest>,
    ) -> Result<tonic::Response<v1::StageCertificateReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar has no certificate"))
    }

    async fn certificates(
        &self,
        _: tonic::Request<v1::CertificatesRequest>,
    ) -> Result<tonic::Response<v1::CertificatesReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar has no certificate"))
    }

    async fn set_up_compiler(
        &self,
        _: tonic::Request<v1::SetUpCompilerRequest>,
    ) -> Result<tonic::Response<v1::SetUpCompilerReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar stays what it is"))
    }

    async fn idle(
        &self,
        _: tonic::Request<v1::IdleRequest>,
    ) -> Result<tonic::Response<v1::IdleReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar takes no turn"))
    }

    async fn health(
        &self,
        _: tonic::Request<v1::HealthRequest>,
    ) -> Result<tonic::Response<v1::HealthReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar takes no turn"))
    }

    async fn foresee(
        &self,
        _: tonic::Request<v1::ForeseeRequest>,
    ) -> Result<tonic::Response<v1::ForeseeReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar takes no turn"))
    }

    async fn prepare(
        &self,
        _: tonic::Request<v1::PrepareRequest>,
    ) -> Result<tonic::Response<v1::TurnReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar takes no turn"))
    }

    async fn settle(
        &self,
        _: tonic::Request<v1::SettleRequest>,
    ) -> Result<tonic::Response<v1::TurnReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar takes no turn"))
    }

    async fn act(
        &self,
        _: tonic::Request<v1::ActRequest>,
    ) -> Result<tonic::Response<v1::TurnReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar takes no turn"))
    }

    async fn verify(
        &self,
        _: tonic::Request<v1::VerifyRequest>,
    ) -> Result<tonic::Response<v1::TurnReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("a liar takes no turn"))
    }
}
