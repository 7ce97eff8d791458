//! One HTTPS request to the main server: a connection of its own, a deadline, a bounded answer, no redirects.
//!
//! Tells apart who is at fault, and whether the request had left when it failed: only then may it have been carried out.

use std::{error::Error, time::Duration};

use bunraku_puppet_https::{Fault as Cause, excerpt};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{error::Why, identity::Identity};

/// Puppet Server's own (`wrap-with-puppet-version-header`): Jetty's answers for paths that nobody serves lack it.
const PUPPET_VERSION: &str = "x-puppet-version";

/// Whom to ask, as whom.
#[derive(Debug)]
pub(crate) struct Door {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// The main server's certname: in its certificate, in SNI, and in the Host header (Jetty answers 400 where they
    /// differ).
    pub(crate) name: String,
    pub(crate) identity: Identity,
}

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) accept: &'static str,
    /// Its kind and its content.
    pub(crate) body: Option<(&'static str, Bytes)>,
    /// From connecting to the last byte.
    pub(crate) within: Duration,
    /// The longest answer, in bytes.
    pub(crate) most: usize,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Whether Puppet Server's own code has answered.
    pub(crate) of_puppet: bool,
    pub(crate) body: Bytes,
}

/// No answer, or none that can be used.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) why: Why,
    /// Whether the request may have reached Puppet Server's code.
    pub(crate) left: bool,
}

impl Door {
    pub(crate) async fn ask(&self, question: &Question) -> Result<Answer, Fault> {
        let deadline = Instant::now() + question.within;
        let late = || Why::Deadline { address: self.address.clone(), within: question.within };
        let mut connection = timeout_at(deadline, self.connect())
            .await
            .unwrap_or_else(|_| Err(late()))
            .map_err(|why| Fault { why, left: false })?;
        timeout_at(deadline, self.exchange(&mut connection, question))
            .await
            .unwrap_or_else(|_| Err(Fault { why: late(), left: true }))
    }

    async fn connect(&self) -> Result<Connection, Why> {
        let config = self.identity.tls().map_err(|error| Why::Identity(Box::new(error)))?;
        let name = ServerName::try_from(self.name.clone()).map_err(|error| self.strange(error.into()))?;
        let unreachable = |source| Why::Unreachable { address: self.address.clone(), source };
        let tcp = TcpStream::connect(&self.address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let tls =
            TlsConnector::from(config).connect(name, tcp).await.map_err(|error| self.judge(error.into()))?;
        self.check_holder(&tls)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(tls)).await.map_err(|error| self.judge(error.into()))?;
        let mut task = JoinSet::new();
        task.spawn(connection);
        Ok(Connection { sender, _task: task })
    }

    async fn exchange(&self, connection: &mut Connection, question: &Question) -> Result<Answer, Fault> {
        let request = self.request(question).map_err(|why| Fault { why, left: false })?;
        let response = connection
            .sender
            .send_request(request)
            .await
            .map_err(|error| self.after_leaving(error.into()))?;
        let status = response.status();
        let of_puppet = response.headers().contains_key(PUPPET_VERSION);
        let body = bounded(response, question.most).await.map_err(|error| self.after_leaving(error))?;
        Ok(Answer { status, of_puppet, body })
    }

    fn request(&self, question: &Question) -> Result<Request<Full<Bytes>>, Why> {
        let port = self.address.rsplit_once(':').map_or("8140", |(_, port)| port);
        let mut request = Request::builder()
            .method(question.method.clone())
            .uri(&question.path)
            .header(header::HOST, format!("{}:{port}", self.name))
            .header(header::ACCEPT, question.accept)
            // Puppet Server translates its reasons.
            .header(header::ACCEPT_LANGUAGE, "en")
            .header(header::CONNECTION, "close");
        let (kind, body) = question.body.clone().unzip();
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        request.body(Full::new(body.unwrap_or_default())).map_err(|error| self.strange(error.into()))
    }

    /// The certname, not an alternative name: an alias that other servers carry too would let them pose as the CA.
    fn check_holder(&self, tls: &TlsStream<TcpStream>) -> Result<(), Why> {
        let shown = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let is_holder =
            shown.and_then(|shown| X509Certificate::from_der(shown).ok()).is_some_and(|(_, shown)| {
                let mut names = shown.subject().iter_common_name();
                let only = (names.next(), names.next());
                matches!(only, (Some(name), None) if name.as_str().is_ok_and(|name| name == self.name))
            });
        if is_holder {
            Ok(())
        } else {
            Err(Why::OtherHost { address: self.address.clone(), name: self.name.clone() })
        }
    }

    fn after_leaving(&self, error: Box<dyn Error + Send + Sync>) -> Fault {
        let why = self.judge(error);
        // A client certificate that is refused shows only when the answer is read (TLS 1.3), before Puppet Server's code
        // sees the request.
        let left = !matches!(why, Why::Untrusted { .. });
        Fault { why, left }
    }

    fn judge(&self, error: Box<dyn Error + Send + Sync>) -> Why {
        let address = self.address.clone();
        match Cause::of(error.as_ref()) {
            Cause::Untrusted(source) => Why::Untrusted { address, source },
            Cause::Garbled => self.strange(error),
            Cause::Broken => Why::Broken { address, source: error },
        }
    }

    fn strange(&self, source: Box<dyn Error + Send + Sync>) -> Why {
        Why::Strange { address: self.address.clone(), source }
    }
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// A set of one: the connection's task ends with this request, also when it is dropped.
    _task: JoinSet<hyper::Result<()>>,
}

async fn bounded(response: Response<Incoming>, most: usize) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
    Ok(Limited::new(response.into_body(), most).collect().await?.to_bytes())
}

impl Answer {
    /// The beginning of the body, for an error that a person reads.
    pub(crate) fn excerpt(&self) -> String {
        excerpt(&self.body, 500)
    }
}
