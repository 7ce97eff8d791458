//! TLS connections with a Puppet certificate, each a new one or kept open: who is let in, and who is refused.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

const PORT: u16 = 8140;
/// Puppet Server checks no right for it: only the certificate counts.
const PATH: &str = "/status/v1/simple";
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// The holder of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Visitor {
    config: Arc<ClientConfig>,
}

/// What became of a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knocked {
    LetIn,
    /// By the alert that the certificate is not accepted.
    Refused,
    /// It broke, or nobody listens: no word about the certificate.
    Unknown(String),
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Visit {
    host: String,
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl Visitor {
    /// With the certificate of `certname` from an ssldir of Puppet's layout.
    pub fn from_ssldir(ssldir: &Path, certname: &str) -> Result<Self> {
        let read = |below: String| {
            let path = ssldir.join(below);
            fs::read(&path).with_context(|| format!("could not read {}", path.display()))
        };
        Self::new(
            &read("certs/ca.pem".to_owned())?,
            &read(format!("certs/{certname}.pem"))?,
            &read(format!("private_keys/{certname}.pem"))?,
        )
    }

    /// All of them PEM.
    pub fn new(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(ca) {
            roots.add(authority?)?;
        }
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
        let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config) })
    }

    /// A new connection and one request.
    pub fn knock(&self, host: &str) -> Knocked {
        match self.visit(host) {
            Ok(_) => Knocked::LetIn,
            Err(error) if is_refusal(&error) => Knocked::Refused,
            Err(error) => Knocked::Unknown(format!("{error:#}")),
        }
    }

    /// A connection that stays, with one request answered on it.
    pub fn visit(&self, host: &str) -> Result<Visit> {
        let tcp = TcpStream::connect((host, PORT)).with_context(|| format!("could not connect to {host}"))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(ANSWERS_WITHIN))?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = StreamOwned::new(ClientConnection::new(self.config.clone(), name)?, tcp);
        let mut visit = Visit { host: host.to_owned(), stream };
        visit.ask()?;
        Ok(visit)
    }
}

impl Visit {
    /// One more request; anything but 200 is an error.
    pub fn ask(&mut self) -> Result<()> {
        let request = format!("GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        // A server that has refused may have closed already: its alert is still to be read.
        let sent = self.stream.write_all(request.as_bytes());
        let head = self.until(b"\r\n\r\n")?;
        sent?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{} answered {head}", self.host);
        self.body(&head.to_ascii_lowercase())
    }

    fn body(&mut self, head: &str) -> Result<()> {
        if head.contains("\r\ntransfer-encoding: chunked\r\n") {
            // A word, in one chunk.
            return self.until(b"\r\n0\r\n\r\n").map(drop).context("an answer without an end");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.context("an answer without a length")?];
        self.stream.read_exact(&mut body).context("an answer that is too short")
    }

    /// Waits until the server, or whoever is between, closes it.
    pub fn wait_for_end(mut self, within: Duration) -> Result<()> {
        self.stream.sock.set_read_timeout(Some(within))?;
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => bail!("{} said something that nobody asked for", self.host),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("{} did not close it", self.host)),
        }
    }

    fn until(&mut self, end: &[u8]) -> io::Result<String> {
        let (mut text, mut byte) = (Vec::new(), [0]);
        while !text.ends_with(end) {
            self.stream.read_exact(&mut byte)?;
            text.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Java says `certificate_unknown` whatever is wrong with a certificate, and nginx answers 400 to the first request.
fn is_refusal(error: &anyhow::Error) -> bool {
    if error.to_string().contains("answered HTTP/1.1 400 ") {
        return true;
    }
    use AlertDescription as Alert;
    let refusals = [Alert::CertificateUnknown, Alert::CertificateRevoked, Alert::BadCertificate];
    let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
    let told = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(told, Some(rustls::Error::AlertReceived(alert)) if refusals.contains(alert))
}
