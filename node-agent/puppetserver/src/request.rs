//! One HTTPS request to the Puppet Server beside us: a connection of its own, a deadline, a bounded answer.
//!
//! Tells apart who is at fault: nobody answers (ask again later), or what answers is not what we may talk to.

use std::{error::Error, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use bunraku_puppet_https::{Fault, excerpt};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;

use crate::identity::{Identity, IdentityError};

/// The list of 1,000 environments with long modulepaths is below 2 MB.
const BODY_BYTES: usize = 16 << 20;

/// Whom to ask, as whom.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    /// The name in Puppet Server's certificate, and in the Host header: Jetty answers 400 where the two differ.
    pub(crate) certname: String,
    pub(crate) identity: Identity,
    /// For the whole request, from connecting to the last byte.
    pub(crate) deadline: Duration,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

#[derive(Debug)]
pub(crate) enum Trouble {
    /// Nothing answers, or not in time: a server that is down, starting, stopping, or stuck.
    Silent(Silence),
    /// It answers, but one side does not accept the other's certificate.
    Untrusted(rustls::Error),
    /// It answers, but not in HTTP, or without end.
    Garbled(Box<dyn Error + Send + Sync>),
    Identity(IdentityError),
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    #[error("could not connect")]
    Connect(#[source] io::Error),
    #[error("the connection broke")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    #[error("it answers 503: {0}")]
    Unavailable(String),
}

impl Door {
    pub(crate) async fn ask(&self, method: Method, path: &str) -> Result<Answer, Trouble> {
        match self.identity.tls() {
            Ok(config) => self.ask_as(config, method, path).await,
            Err(error) => Err(self.nobody_listens().await.unwrap_or(Trouble::Identity(error))),
        }
    }

    /// Whoever has no certificate yet has a server that was never started: that nothing answers is what counts then.
    async fn nobody_listens(&self) -> Option<Trouble> {
        let connected = timeout(self.deadline, TcpStream::connect(self.address)).await;
        connected.ok()?.err().map(|error| Trouble::Silent(Silence::Connect(error)))
    }

    /// With another certificate than the node's own.
    pub(crate) async fn ask_as(
        &self,
        config: Arc<ClientConfig>,
        method: Method,
        path: &str,
    ) -> Result<Answer, Trouble> {
        timeout(self.deadline, self.exchange(config, method, path))
            .await
            .unwrap_or(Err(Trouble::Silent(Silence::Deadline(self.deadline))))
    }

    async fn exchange(
        &self,
        config: Arc<ClientConfig>,
        method: Method,
        path: &str,
    ) -> Result<Answer, Trouble> {
        let garbled = |error: Box<dyn Error + Send + Sync>| Trouble::Garbled(error);
        let name = ServerName::try_from(self.certname.clone()).map_err(|error| garbled(error.into()))?;
        let silent = |error| Trouble::Silent(Silence::Connect(error));
        let tcp = TcpStream::connect(self.address).await.map_err(silent)?;
        tcp.set_nodelay(true).map_err(silent)?;
        let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| judge(error.into()))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(tls)).await.map_err(|error| judge(error.into()))?;
        // A set of one: the connection's task ends with this request, also when it is dropped.
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{}:{}", self.certname, self.address.port()))
            .header(header::ACCEPT, "application/json, text/plain, */*")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| garbled(error.into()))?;
        let response = sender.send_request(request).await.map_err(|error| judge(error.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES).collect().await.map_err(judge)?;
        Ok(Answer { status, body: body.to_bytes() })
    }
}

impl Answer {
    /// The beginning of the body, for an error that a person reads.
    pub(crate) fn excerpt(&self) -> String {
        excerpt(&self.body, 300)
    }
}

fn judge(error: Box<dyn Error + Send + Sync>) -> Trouble {
    match Fault::of(error.as_ref()) {
        Fault::Untrusted(tls) => Trouble::Untrusted(tls),
        Fault::Garbled => Trouble::Garbled(error),
        Fault::Broken => Trouble::Silent(Silence::Broken(error)),
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.excerpt())
    }
}
