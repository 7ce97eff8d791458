//! One HTTPS request to the Puppet Server beside us: a connection of its own, a deadline, a bounded answer.
//!
//! Tells apart who is at fault: nobody answers (ask again later), or what answers is not what we may talk to.

use std::{error::Error, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, ClientConfig, pki_types::ServerName};
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
        let text = String::from_utf8_lossy(&self.body);
        let shown: String = text.trim().chars().take(300).collect();
        if shown.is_empty() { "(no text)".into() } else { shown }
    }
}

/// Who is at fault, from the chain of causes: a refused client certificate shows only when the answer is read (TLS 1.3).
fn judge(error: Box<dyn Error + Send + Sync>) -> Trouble {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error.as_ref());
    while let Some(error_here) = cause {
        if let Some(tls) = error_here.downcast_ref::<rustls::Error>() {
            if is_about_trust(tls) {
                return Trouble::Untrusted(tls.clone());
            }
            if matches!(tls, rustls::Error::InvalidMessage(_)) {
                return Trouble::Garbled(error);
            }
        }
        if error_here.is::<LengthLimitError>()
            || error_here.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
        {
            return Trouble::Garbled(error);
        }
        // io::Error hides what it carries from source().
        let carried = error_here.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = carried.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error_here.source());
    }
    Trouble::Silent(Silence::Broken(error))
}

fn is_about_trust(error: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    let refused = [
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::UnknownCA,
        Alert::AccessDenied,
        Alert::CertificateRequired,
        Alert::DecryptError,
    ];
    if let rustls::Error::AlertReceived(alert) = error {
        return refused.contains(alert);
    }
    matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.excerpt())
    }
}
