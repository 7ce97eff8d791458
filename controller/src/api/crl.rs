//! Puppet's CRLs: what is so, and an administrator's word that the CA counts anew.

use bunraku_engine::Request;
use bunraku_proto::v1;
use tonic::Status;

use super::{Api, caller::Subject};

impl Api {
    pub(super) fn crl_now(&self) -> v1::CrlStatusReply {
        let state = self.driver.shared.state();
        self.reporter.crl(&state, &self.crls, self.config.puppet.is_some())
    }

    pub(super) async fn crl_accepted(
        &self,
        request: v1::AcceptCrlRequest,
        who: &Subject,
    ) -> Result<v1::CrlStatusReply, Status> {
        self.in_command()?;
        if !request.number_reset {
            let reason = "nothing else can be accepted than that the CA counts its CRLs anew";
            return Err(Status::invalid_argument(format!(
                "{reason}\nhint: bunraku crl accept --number-reset"
            )));
        }
        self.driver.request(Request::AcceptCrl, &who.to_string()).await?;
        Ok(self.crl_now())
    }
}
