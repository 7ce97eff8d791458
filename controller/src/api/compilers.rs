//! A host becomes a compiler, and is one no more: what goes beyond its identity, its code and its place at the balancers.

use std::time::Duration;

use bunraku_common::{Chain, Generation, NodeName, hint};
use bunraku_engine::Request;
use bunraku_proto::v1;
use bunraku_puppet_ca::State as CaState;
use tonic::Status;

use super::{Api, caller::Subject, nodes::deadline};
use crate::{certificates::MainCaError, driver::order_about, words};

/// The node asks Puppet for its settings, which takes seconds, and looks at everything twice.
const SETUP_DEADLINE: Duration = Duration::from_secs(150);
const SUBJECT: &str = "setup";
/// It says the same whenever it is given, so there is nothing that a later one would overrule.
const GENERATION: Generation = Generation(1);

impl Api {
    pub(super) async fn compiler_set_up(
        &self,
        node: &NodeName,
        who: &Subject,
    ) -> Result<v1::SetUpCompilerReply, Status> {
        self.in_command()?;
        let mut client = self.reachable(node)?;
        let main = self.puppet_ca.server().map_err(no_main_server)?;
        let ca = self.puppet_ca.bundle().map_err(no_main_server)?;
        if main == *node {
            return Err(Status::failed_precondition(format!(
                "{node} is the main Puppet server: its CA stays on\nhint: there: bunraku-agent doctor --fix"
            )));
        }
        // On record before the order leaves (I12).
        self.driver.request(Request::SetUpCompiler { node: node.clone() }, &who.to_string()).await?;
        let term = self.driver.shared.state().term();
        let term = term.ok_or_else(|| Status::unavailable("no term has begun"))?;
        let order = Some(order_about(term, GENERATION, SUBJECT));
        let request = v1::SetUpCompilerRequest { order, ca_server: main.to_string(), ca };
        let asked = client.set_up_compiler(deadline(request, SETUP_DEADLINE)).await;
        let reply = words::set_up(asked.map_err(|status| told(node, &status))?.into_inner());
        match reply.refused.is_empty() {
            true => Ok(reply),
            false => Err(Status::failed_precondition(hint::join(
                &format!("{node} was not set up: {}", reply.refused),
                &reply.hint,
            ))),
        }
    }

    /// Revoked, so that nobody believes it, and forgotten, so that the name can get another one.
    pub(super) async fn puppet_certificate_revoked(
        &self,
        node: &NodeName,
        who: &Subject,
    ) -> Result<v1::RevokePuppetCertificateReply, Status> {
        self.in_command()?;
        let ca = self.puppet_ca.get().map_err(no_main_server)?;
        if self.puppet_ca.server().is_ok_and(|main| main == *node) {
            return Err(Status::failed_precondition(format!(
                "{node} is the main Puppet server: without its certificate no Puppet agent is served\nhint: bunraku nodes list"
            )));
        }
        // On record before Puppet's CA is asked (I12).
        let request = Request::RevokePuppetCertificate { node: node.clone() };
        self.driver.request(request, &who.to_string()).await?;
        let failed =
            |error: bunraku_puppet_ca::CaError| Status::failed_precondition(Chain(&error).to_string());
        let Some(known) = ca.status(node).await.map_err(failed)? else {
            return Ok(v1::RevokePuppetCertificateReply { unchanged: true });
        };
        if known.state == CaState::Signed {
            ca.revoke(node).await.map_err(failed)?;
        }
        ca.forget(node).await.map_err(failed)?;
        Ok(v1::RevokePuppetCertificateReply { unchanged: false })
    }
}

fn no_main_server(error: MainCaError) -> Status {
    Status::failed_precondition(Chain(&error).to_string())
}

/// A node's own words, and what helps where it does not know the order.
fn told(node: &NodeName, status: &Status) -> Status {
    let words = words::plain(status.message());
    if status.code() == tonic::Code::Unimplemented {
        let why = format!("the agent of {node} is too old to set it up");
        return Status::failed_precondition(hint::join(&why, "upgrade bunraku-agent there"));
    }
    Status::new(status.code(), format!("{node}: {words}"))
}
