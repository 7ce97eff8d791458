//! What the controller serves: `Control`, `Content` and `Enrollment`. Every call passes the table of rights first;
//! handlers ask the driver, and answer with what the state says then.

mod authority;
mod balance;
pub(crate) mod caller;
mod certificates;
mod compilers;
mod content;
mod control;
mod crl;
mod deploys;
mod enrollment;
mod nodes;
mod outgoing;
mod people;
mod record;
pub(crate) mod rights;
mod rollouts;

pub(crate) use nodes::observed;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bunraku_builder::Builder;
use bunraku_common::{Label, hint, limits};
use bunraku_engine::RefusalCode;
use bunraku_proto::{
    accept::Caller,
    v1::{content_server::ContentServer, control_server::ControlServer, enrollment_server::EnrollmentServer},
};
use bunraku_store::Lost;
use tokio::sync::Semaphore;
use tonic::{Status, body::Body, server::NamedService, service::Routes, transport::server::UdsConnectInfo};
use tower::Service;

use crate::{
    balancers::Balancers,
    certificates::MainCa,
    config::Config,
    driver::{Driver, RequestError, Shared},
    identities::Identities,
    nodes::Connections,
    report::Reporter,
    revocation::CrlFiles,
    turns::Turns,
};

/// What handlers work with.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub driver: Driver,
    pub reporter: Reporter,
    pub connections: Arc<Connections>,
    pub balancers: Arc<Balancers>,
    pub turns: Arc<Turns>,
    pub crls: CrlFiles,
    pub puppet_ca: Arc<MainCa>,
    pub builder: Arc<Builder>,
    pub identities: Arc<Identities>,
    pub config: Arc<Config>,
    /// Found at the start: acknowledged records that the journal does not have any more.
    pub lost: Option<Lost>,
    /// Turns of those who have the journal verified: each reads all of it.
    pub verifying: Arc<Semaphore>,
    /// The same for asking all nodes what they serve, out of turn.
    pub looking: Arc<Semaphore>,
}

impl Api {
    /// For nodes and operators (`h2`), and root on the unix socket.
    pub(crate) fn control_routes(&self) -> Routes {
        let control = ControlServer::new(self.clone()).max_decoding_message_size(limits::MESSAGE_BYTES);
        let content = content::ContentService::new(self.reporter.store.clone(), self.driver.shared.clone());
        let content = ContentServer::new(content).max_decoding_message_size(limits::MESSAGE_BYTES);
        Routes::new(self.admitted(control)).add_service(self.admitted(content))
    }

    /// For those who have no mesh identity yet.
    pub(crate) fn enrollment_routes(&self) -> Routes {
        Routes::new(self.admitted(EnrollmentServer::new(self.clone()).max_decoding_message_size(64 << 10)))
    }

    fn admitted<S>(&self, inner: S) -> Admission<S> {
        Admission { inner, shared: self.driver.shared.clone() }
    }
}

/// Stands before a service: lets a call through only as the table of rights says.
#[derive(Debug, Clone)]
struct Admission<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S: NamedService> NamedService for Admission<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Admission<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.judge(&request) {
            Ok(subject) => {
                request.extensions_mut().insert(subject);
                Box::pin(self.inner.call(request))
            }
            Err(status) => {
                let path = request.uri().path().to_owned();
                tracing::warn!(path, reason = status.message(), "call refused");
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

impl<S> Admission<S> {
    fn judge(&self, request: &http::Request<Body>) -> Result<caller::Subject, Status> {
        let caller = request.extensions().get::<Arc<Caller>>();
        if caller.is_none() {
            // The unix socket: its permissions let only root in, and the kernel says who it is.
            let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
            if peer.is_none_or(|peer| peer.uid() != rustix::process::getuid().as_raw()) {
                return Err(Status::permission_denied("only root may use this socket"));
            }
        }
        caller::admit(&self.shared, caller.map(AsRef::as_ref), request.uri().path())
    }
}

/// One table from meaning to gRPC code.
impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(refusal) => {
                let text = hint::join(&refusal.reason, &refusal.hint);
                match refusal.code {
                    RefusalCode::NotFound => Self::not_found(text),
                    RefusalCode::Conflict => Self::failed_precondition(text),
                    RefusalCode::Invalid => Self::invalid_argument(text),
                    RefusalCode::Denied => Self::permission_denied(text),
                }
            }
            RequestError::Full(text) => Self::resource_exhausted(text),
            busy @ RequestError::Busy => Self::resource_exhausted(busy.to_string()),
            stopping @ RequestError::Stopping => Self::unavailable(stopping.to_string()),
        }
    }
}

/// A name from the wire, or an error that says what a name is.
/// Labels of one request.
const LABELS: usize = 64;

fn labels<C: FromIterator<Label>>(texts: &[String]) -> Result<C, Status> {
    if texts.len() > LABELS {
        return Err(Status::invalid_argument(format!("more than {LABELS} labels in one request")));
    }
    texts.iter().map(|text| parse(text)).collect()
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Status>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Status::invalid_argument(error.to_string()))
}
