//! Compilers at the load balancers: what is so, and what operators want of it.

use bunraku_common::NodeName;
use bunraku_engine::Request;
use bunraku_proto::v1;
use tonic::Status;

use super::{Api, caller::Subject, nodes::reasoned, parse};

impl Api {
    pub(super) fn balance_now(&self) -> v1::BalanceStatusReply {
        self.reporter.balance(&self.balancers)
    }

    pub(super) async fn drain_asked(
        &self,
        request: v1::DrainCompilerRequest,
        who: &Subject,
    ) -> Result<v1::CompilerBalance, Status> {
        let v1::DrainCompilerRequest { compiler, reason, min_available } = request;
        let compiler: NodeName = parse(&compiler)?;
        reasoned(&reason)?;
        let request = Request::Drain { compiler: compiler.clone(), reason, min_available };
        self.balance_wanted(&compiler, request, who).await
    }

    pub(super) async fn enable_asked(
        &self,
        request: v1::EnableCompilerRequest,
        who: &Subject,
    ) -> Result<v1::CompilerBalance, Status> {
        let compiler: NodeName = parse(&request.compiler)?;
        let request = Request::Enable { compiler: compiler.clone() };
        self.balance_wanted(&compiler, request, who).await
    }

    async fn balance_wanted(
        &self,
        compiler: &NodeName,
        request: Request,
        who: &Subject,
    ) -> Result<v1::CompilerBalance, Status> {
        self.in_command()?;
        self.driver.request(request, &who.to_string()).await?;
        self.balancers.hurry();
        Ok(self.reporter.compiler_balance(compiler))
    }
}
