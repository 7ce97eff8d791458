//! The service `Control`: one short function per RPC, in the order of the wire.

use bunraku_common::NodeName;
use bunraku_engine::{DeployId, RolloutId};
use bunraku_proto::v1::{self, control_server::Control};
use tonic::{Request, Response, Status};

use super::{Api, caller, labels, nodes::reasoned, parse};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Control for Api {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusReply> {
        Ok(Response::new(self.status_now()))
    }

    async fn deploy(&self, request: Request<v1::DeployRequest>) -> Answer<v1::DeployReply> {
        let who = caller::subject(&request)?;
        self.request_deploys(request.into_inner(), &who).await.map(Response::new)
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Answer<v1::DeployReply> {
        let who = caller::subject(&request)?;
        self.request_rollback(request.into_inner(), &who).await.map(Response::new)
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Answer<v1::ReleaseReply> {
        let who = caller::subject(&request)?;
        self.release_environment(&request.into_inner().environment, &who).await.map(Response::new)
    }

    async fn list_deploys(&self, request: Request<v1::ListDeploysRequest>) -> Answer<v1::ListDeploysReply> {
        self.deploys_listed(&request.into_inner()).map(Response::new)
    }

    async fn show_deploy(&self, request: Request<v1::ShowDeployRequest>) -> Answer<v1::DeployInfo> {
        self.deploy_shown(DeployId(request.into_inner().id)).await.map(Response::new)
    }

    async fn list_snapshots(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Answer<v1::ListSnapshotsReply> {
        let only = request.into_inner().environment;
        let only = if only.is_empty() { None } else { Some(parse(&only)?) };
        let reporter = self.reporter.clone();
        let listed = tokio::task::spawn_blocking(move || reporter.snapshots(only.as_ref())).await;
        let snapshots = listed.map_err(|_| Status::internal("the snapshots could not be listed"))?;
        Ok(Response::new(v1::ListSnapshotsReply { snapshots }))
    }

    async fn diff_snapshots(&self, request: Request<v1::DiffSnapshotsRequest>) -> Answer<v1::DiffReply> {
        self.snapshots_compared(request.into_inner()).await.map(Response::new)
    }

    async fn list_environments(
        &self,
        _: Request<v1::ListEnvironmentsRequest>,
    ) -> Answer<v1::ListEnvironmentsReply> {
        Ok(Response::new(v1::ListEnvironmentsReply { environments: self.environments_now() }))
    }

    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesReply> {
        let state = self.driver.shared.state();
        Ok(Response::new(v1::ListNodesReply { nodes: self.reporter.nodes(&state) }))
    }

    async fn show_node(&self, request: Request<v1::NodeRequest>) -> Answer<v1::NodeInfo> {
        let node = parse(&request.into_inner().node)?;
        self.ask_again(&node).await;
        self.node_info(&node).map(Response::new)
    }

    async fn hold_node(&self, request: Request<v1::HoldNodeRequest>) -> Answer<v1::NodeInfo> {
        let who = caller::subject(&request)?;
        let v1::HoldNodeRequest { node, reason } = request.into_inner();
        let node: NodeName = parse(&node)?;
        reasoned(&reason)?;
        let request = bunraku_engine::Request::HoldNode { node: node.clone(), reason };
        self.change_node(&node, request, &who).await.map(Response::new)
    }

    async fn release_node(&self, request: Request<v1::NodeRequest>) -> Answer<v1::NodeInfo> {
        let who = caller::subject(&request)?;
        let node: NodeName = parse(&request.into_inner().node)?;
        let request = bunraku_engine::Request::ReleaseNode { node: node.clone() };
        self.change_node(&node, request, &who).await.map(Response::new)
    }

    async fn revoke_node(&self, request: Request<v1::RevokeNodeRequest>) -> Answer<v1::NodeInfo> {
        let who = caller::subject(&request)?;
        let v1::RevokeNodeRequest { node, reason } = request.into_inner();
        let node: NodeName = parse(&node)?;
        reasoned(&reason)?;
        let request = bunraku_engine::Request::RevokeNode { node: node.clone(), reason };
        self.change_node(&node, request, &who).await.map(Response::new)
    }

    async fn allow_node(&self, request: Request<v1::NodeRequest>) -> Answer<v1::NodeInfo> {
        let who = caller::subject(&request)?;
        let node: NodeName = parse(&request.into_inner().node)?;
        let request = bunraku_engine::Request::AllowNode { node: node.clone() };
        self.change_node(&node, request, &who).await.map(Response::new)
    }

    async fn label_node(&self, request: Request<v1::LabelNodeRequest>) -> Answer<v1::NodeInfo> {
        let who = caller::subject(&request)?;
        let v1::LabelNodeRequest { node, add, remove } = request.into_inner();
        let node: NodeName = parse(&node)?;
        let (add, remove) = (labels(&add)?, labels(&remove)?);
        let request = bunraku_engine::Request::LabelNode { node: node.clone(), add, remove };
        self.change_node(&node, request, &who).await.map(Response::new)
    }

    async fn remove_node(&self, request: Request<v1::NodeRequest>) -> Answer<v1::RemoveNodeReply> {
        let who = caller::subject(&request)?;
        let node = parse(&request.into_inner().node)?;
        self.driver.request(bunraku_engine::Request::RemoveNode { node }, &who.to_string()).await?;
        Ok(Response::new(v1::RemoveNodeReply {}))
    }

    async fn heal_node(&self, request: Request<v1::HealNodeRequest>) -> Answer<v1::HealNodeReply> {
        let who = caller::subject(&request)?;
        self.heal(request.into_inner(), &who).await.map(Response::new)
    }

    async fn doctor(&self, request: Request<v1::DoctorFleetRequest>) -> Answer<v1::DoctorFleetReply> {
        self.doctor_fleet(request.into_inner()).await.map(Response::new)
    }

    async fn set_up_compiler(&self, request: Request<v1::NodeRequest>) -> Answer<v1::SetUpCompilerReply> {
        let who = caller::subject(&request)?;
        self.compiler_set_up(&parse(&request.into_inner().node)?, &who).await.map(Response::new)
    }

    async fn balancer_status(&self, _: Request<v1::BalanceStatusRequest>) -> Answer<v1::BalanceStatusReply> {
        Ok(Response::new(self.balance_now()))
    }

    async fn ask_certificate(
        &self,
        request: Request<v1::AskCertificateRequest>,
    ) -> Answer<v1::CertificateInfo> {
        let who = caller::subject(&request)?;
        self.certificate_asked(request.into_inner(), &who).await.map(Response::new)
    }

    async fn show_certificate(
        &self,
        request: Request<v1::ShowCertificateRequest>,
    ) -> Answer<v1::CertificateInfo> {
        self.certificate_shown(&parse(&request.into_inner().node)?).map(Response::new)
    }

    async fn revoke_puppet_certificate(
        &self,
        request: Request<v1::NodeRequest>,
    ) -> Answer<v1::RevokePuppetCertificateReply> {
        let who = caller::subject(&request)?;
        self.puppet_certificate_revoked(&parse(&request.into_inner().node)?, &who).await.map(Response::new)
    }

    async fn list_certificates(
        &self,
        _: Request<v1::ListCertificatesRequest>,
    ) -> Answer<v1::ListCertificatesReply> {
        Ok(Response::new(self.all_certificates().await))
    }

    async fn crl_status(&self, _: Request<v1::CrlStatusRequest>) -> Answer<v1::CrlStatusReply> {
        Ok(Response::new(self.crl_now()))
    }

    async fn accept_crl(&self, request: Request<v1::AcceptCrlRequest>) -> Answer<v1::CrlStatusReply> {
        let who = caller::subject(&request)?;
        self.crl_accepted(request.into_inner(), &who).await.map(Response::new)
    }

    async fn drain_compiler(
        &self,
        request: Request<v1::DrainCompilerRequest>,
    ) -> Answer<v1::CompilerBalance> {
        let who = caller::subject(&request)?;
        self.drain_asked(request.into_inner(), &who).await.map(Response::new)
    }

    async fn enable_compiler(
        &self,
        request: Request<v1::EnableCompilerRequest>,
    ) -> Answer<v1::CompilerBalance> {
        let who = caller::subject(&request)?;
        self.enable_asked(request.into_inner(), &who).await.map(Response::new)
    }

    async fn plan_rollout(&self, request: Request<v1::RolloutRequest>) -> Answer<v1::RolloutPlan> {
        self.rollout_planned(request.into_inner()).await.map(Response::new)
    }

    async fn start_rollout(&self, request: Request<v1::RolloutRequest>) -> Answer<v1::RolloutInfo> {
        let who = caller::subject(&request)?;
        self.rollout_started(request.into_inner(), &who).await.map(Response::new)
    }

    async fn list_rollouts(
        &self,
        request: Request<v1::ListRolloutsRequest>,
    ) -> Answer<v1::ListRolloutsReply> {
        Ok(Response::new(self.rollouts_listed(&request.into_inner())))
    }

    async fn show_rollout(&self, request: Request<v1::ShowRolloutRequest>) -> Answer<v1::RolloutInfo> {
        self.rollout_shown(RolloutId(request.into_inner().id)).map(Response::new)
    }

    async fn pause_rollout(&self, request: Request<v1::PauseRolloutRequest>) -> Answer<v1::RolloutInfo> {
        let who = caller::subject(&request)?;
        let v1::PauseRolloutRequest { id, reason } = request.into_inner();
        reasoned(&reason)?;
        let rollout = RolloutId(id);
        let request = bunraku_engine::Request::PauseRollout { rollout, reason };
        self.rollout_changed(rollout, request, &who).await.map(Response::new)
    }

    async fn resume_rollout(&self, request: Request<v1::ResumeRolloutRequest>) -> Answer<v1::RolloutInfo> {
        let who = caller::subject(&request)?;
        let rollout = RolloutId(request.into_inner().id);
        let request = bunraku_engine::Request::ResumeRollout { rollout };
        self.rollout_changed(rollout, request, &who).await.map(Response::new)
    }

    async fn abort_rollout(&self, request: Request<v1::AbortRolloutRequest>) -> Answer<v1::RolloutInfo> {
        let who = caller::subject(&request)?;
        let v1::AbortRolloutRequest { id, reason } = request.into_inner();
        reasoned(&reason)?;
        let rollout = RolloutId(id);
        let request = bunraku_engine::Request::AbortRollout { rollout, reason };
        self.rollout_changed(rollout, request, &who).await.map(Response::new)
    }

    async fn retry_turn(&self, request: Request<v1::TurnRequest>) -> Answer<v1::RolloutInfo> {
        let who = caller::subject(&request)?;
        let v1::TurnRequest { id, node } = request.into_inner();
        let (rollout, node) = (RolloutId(id), parse(&node)?);
        let request = bunraku_engine::Request::RetryTurn { rollout, node };
        self.rollout_changed(rollout, request, &who).await.map(Response::new)
    }

    async fn skip_turn(&self, request: Request<v1::TurnRequest>) -> Answer<v1::RolloutInfo> {
        let who = caller::subject(&request)?;
        let v1::TurnRequest { id, node } = request.into_inner();
        let (rollout, node) = (RolloutId(id), parse(&node)?);
        let request = bunraku_engine::Request::SkipTurn { rollout, node };
        self.rollout_changed(rollout, request, &who).await.map(Response::new)
    }

    async fn retarget_rollout(
        &self,
        request: Request<v1::RetargetRolloutRequest>,
    ) -> Answer<v1::RolloutInfo> {
        let who = caller::subject(&request)?;
        let v1::RetargetRolloutRequest { id, version } = request.into_inner();
        let rollout = RolloutId(id);
        let request = bunraku_engine::Request::RetargetRollout { rollout, version };
        self.rollout_changed(rollout, request, &who).await.map(Response::new)
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Answer<v1::TokenInfo> {
        let who = caller::subject(&request)?;
        self.token_created(request.into_inner(), &who).await.map(Response::new)
    }

    async fn list_tokens(&self, _: Request<v1::ListTokensRequest>) -> Answer<v1::ListTokensReply> {
        Ok(Response::new(v1::ListTokensReply { tokens: self.tokens_now() }))
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Answer<v1::TokenInfo> {
        let who = caller::subject(&request)?;
        self.token_revoked(request.into_inner().id, &who).await.map(Response::new)
    }

    async fn add_operator(&self, request: Request<v1::AddOperatorRequest>) -> Answer<v1::TokenInfo> {
        let who = caller::subject(&request)?;
        self.operator_added(request.into_inner(), &who).await.map(Response::new)
    }

    async fn list_operators(&self, _: Request<v1::ListOperatorsRequest>) -> Answer<v1::ListOperatorsReply> {
        Ok(Response::new(v1::ListOperatorsReply { operators: self.operators_now() }))
    }

    async fn revoke_operator(&self, request: Request<v1::RevokeOperatorRequest>) -> Answer<v1::OperatorInfo> {
        let who = caller::subject(&request)?;
        self.operator_revoked(&request.into_inner().name, &who).await.map(Response::new)
    }

    async fn takeover(&self, request: Request<v1::TakeoverRequest>) -> Answer<v1::TakeoverReply> {
        let who = caller::subject(&request)?;
        let reason = request.into_inner().reason;
        reasoned(&reason)?;
        let term = self.driver.takeover(reason, &who.to_string()).await?;
        self.connections.cut_nodes();
        Ok(Response::new(v1::TakeoverReply { term: term.number }))
    }

    async fn list_audit(&self, request: Request<v1::ListAuditRequest>) -> Answer<v1::ListAuditReply> {
        self.audit_listed(request.into_inner()).await.map(Response::new)
    }

    async fn verify_audit(&self, _: Request<v1::VerifyAuditRequest>) -> Answer<v1::VerifyAuditReply> {
        self.audit_verified().await.map(Response::new)
    }

    type WatchStream = super::record::Events;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        Ok(Response::new(self.watched(request.into_inner())))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Answer<v1::Identity> {
        let caller =
            caller::of(&request).ok_or_else(|| Status::unauthenticated("only a certificate is renewed"))?;
        self.renewed(&caller, &request.into_inner().csr).await.map(Response::new)
    }

    async fn ca_status(&self, _: Request<v1::CaStatusRequest>) -> Answer<v1::CaStatus> {
        self.ca_shown().map(Response::new)
    }

    async fn rotate_ca(&self, request: Request<v1::RotateCaRequest>) -> Answer<v1::CaStatus> {
        let who = caller::subject(&request)?;
        self.ca_rotated(request.into_inner(), &who).await.map(Response::new)
    }
}
