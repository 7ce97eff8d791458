//! The service `Enrollment`, and renewal: who gets a certificate.
//!
//! The certificate is signed first and given out only when the journal has its serial: what was never journalled was
//! never given out.

use std::time::{Duration, SystemTime};

use bunraku_common::{Chain, NodeName, OperatorName, Role};
use bunraku_engine::{Grant, Request as Ask};
use bunraku_proto::{
    Door, Peer,
    accept::Caller,
    v1::{self, enrollment_server::Enrollment},
};
use tonic::{Request, Response, Status};

use super::{Api, parse};
use crate::{
    clock::wall_s,
    identity::{Issued, PuppetCertificate, token_digest},
};

#[tonic::async_trait]
impl Enrollment for Api {
    async fn with_token(
        &self,
        request: Request<v1::WithTokenRequest>,
    ) -> Result<Response<v1::Identity>, Status> {
        let caller = at_door(&request, Door::Enroll)?;
        self.enrolled_with_token(&caller, request.into_inner())
            .await
            .inspect_err(|status| refused(&caller, status))
            .map(Response::new)
    }

    async fn with_puppet_certificate(
        &self,
        request: Request<v1::WithPuppetCertificateRequest>,
    ) -> Result<Response<v1::Identity>, Status> {
        let caller = at_door(&request, Door::EnrollPuppet)?;
        self.enrolled_with_puppet(&caller, request.into_inner())
            .await
            .inspect_err(|status| refused(&caller, status))
            .map(Response::new)
    }
}

impl Api {
    async fn enrolled_with_token(
        &self,
        caller: &Caller,
        request: v1::WithTokenRequest,
    ) -> Result<v1::Identity, Status> {
        let unknown = || {
            Status::permission_denied("this token is not good\nhint: ask for a new one: bunraku token create")
        };
        let hash = token_digest(&request.token).ok_or_else(unknown)?.to_string();
        let grant = {
            let state = self.driver.shared.state();
            state.fleet().tokens.values().find(|token| token.hash == hash).map(|token| token.grant.clone())
        };
        let (peer, roles, life) = match grant.ok_or_else(unknown)? {
            Grant::Node { name, roles } => (Peer::Node(name), roles.into_iter().collect(), self.node_life()),
            Grant::Operator { name } => (Peer::Operator(name), Vec::new(), self.operator_life()),
        };
        let issued = self.signed(&request.csr, &peer, life)?;
        let ask = Ask::EnrolWithToken {
            hash,
            name: request.name,
            serial: issued.identity.serial.clone(),
            key: issued.identity.key.to_string(),
            expires_s: issued.identity.not_after,
            now_s: wall_s(),
        };
        self.driver.request(ask, &format!("token for {peer}, from {}", caller.address.ip())).await?;
        Ok(self.given(issued, &roles))
    }

    async fn enrolled_with_puppet(
        &self,
        caller: &Caller,
        request: v1::WithPuppetCertificateRequest,
    ) -> Result<v1::Identity, Status> {
        let certificate = caller.certificate.as_ref().and_then(PuppetCertificate::read);
        let PuppetCertificate { certname, origin } = certificate
            .ok_or_else(|| Status::unauthenticated("the Puppet certificate names no single certname"))?;
        let asked: Vec<Role> = request.roles.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
        let roles = self.identities.allow().grants(&certname, &asked).ok_or_else(|| {
            Status::permission_denied(format!(
                "the allow-list grants {certname} none of the roles it asks for\n\
                 hint: add [[puppet.allow]] with certname = \"{certname}\" and roles to bunraku.toml, or: bunraku token create {certname} --role compiler"
            ))
        })?;
        let peer = Peer::Node(certname.clone());
        let issued = self.signed(&request.csr, &peer, self.node_life())?;
        let ask = Ask::EnrolWithPuppet {
            node: certname.clone(),
            roles: roles.iter().copied().collect(),
            puppet_serial: origin,
            serial: issued.identity.serial.clone(),
            key: issued.identity.key.to_string(),
            expires_s: issued.identity.not_after,
        };
        self.driver
            .request(ask, &format!("puppet certificate of {certname}, from {}", caller.address.ip()))
            .await?;
        Ok(self.given(issued, &roles))
    }

    /// The holder of a mesh certificate gets a fresh one for the same name.
    pub(super) async fn renewed(&self, caller: &Caller, csr: &str) -> Result<v1::Identity, Status> {
        let own =
            caller.peer.as_ref().ok_or_else(|| Status::unauthenticated("only a certificate is renewed"))?;
        let (life, roles) = match &own.peer {
            Peer::Node(name) => (self.node_life(), self.roles_of(name)),
            Peer::Operator(_) => (self.operator_life(), Vec::new()),
            Peer::Controller => return Err(Status::permission_denied("the controller renews itself")),
        };
        let issued = self.signed(csr, &own.peer, life)?;
        let ask = Ask::Renew {
            old_serial: own.serial.clone(),
            old_key: own.key.to_string(),
            serial: issued.identity.serial.clone(),
            key: issued.identity.key.to_string(),
            expires_s: issued.identity.not_after,
            now_s: wall_s(),
        };
        self.driver.request(ask, &own.peer.to_string()).await?;
        Ok(self.given(issued, &roles))
    }

    fn roles_of(&self, node: &NodeName) -> Vec<Role> {
        let state = self.driver.shared.state();
        state.fleet().nodes.get(node).map(|record| record.roles.iter().copied().collect()).unwrap_or_default()
    }

    fn signed(&self, csr: &str, peer: &Peer, life: Duration) -> Result<Issued, Status> {
        if let Some(jump) = self.driver.shared.clock.jumped() {
            return Err(Status::failed_precondition(format!(
                "the controller's clock jumped by {} s: no certificates are issued\n\
                 hint: set the clock right, then systemctl restart bunraku",
                jump.as_secs()
            )));
        }
        let issued = self.identities.authorities().signer().sign(csr, peer, SystemTime::now(), life);
        issued.map_err(|error| Status::invalid_argument(Chain(&error).to_string()))
    }

    fn given(&self, issued: Issued, roles: &[Role]) -> v1::Identity {
        let peer = &issued.identity;
        v1::Identity {
            certificate: issued.pem,
            ca: self.identities.authorities().bundle(),
            name: match &peer.peer {
                Peer::Node(name) => name.to_string(),
                Peer::Operator(name) => OperatorName::to_string(name),
                Peer::Controller => String::new(),
            },
            roles: roles.iter().map(ToString::to_string).collect(),
            renew_after: peer.not_before.midpoint(peer.not_after),
            fleet: self.identities.fleet().to_string(),
            controller: self.identities.fleet().controller(),
        }
    }

    fn node_life(&self) -> Duration {
        self.config.identity.node_life()
    }

    fn operator_life(&self) -> Duration {
        Duration::from_secs(self.config.identity.operator_days * 86_400)
    }
}

/// Each way to enrol belongs to one door, whose handshake proved what the other's did not.
fn at_door<T>(request: &Request<T>, door: Door) -> Result<Caller, Status> {
    match Caller::of(request) {
        Some(caller) if caller.door == door => Ok(caller.clone()),
        Some(_) | None => Err(Status::permission_denied(format!("this way to enrol is open only at {door}"))),
    }
}

fn refused(caller: &Caller, status: &Status) {
    caller.source.failed();
    tracing::warn!(address = %caller.address, reason = status.message(), "enrolment refused");
}
