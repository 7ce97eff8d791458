//! Puppet's CA: what it knows, and what it can be asked to do.

use std::{path::PathBuf, time::Duration};

use bunraku_certificates::{AltName, Authorities, Certificate, SigningRequest};
use bunraku_common::NodeName;
use http::StatusCode;
use serde_json::json;

use crate::{
    CertificateStatus, Expirations, State,
    ca_conf::{self, ConfError},
    call::Call,
    door::{Answer, Door},
    error::{CaError, Why},
    expirations,
    identity::Identity,
    status,
};

/// All of a CA's names: 0.8 KiB each (measured, 7.9.5), so 80,000 fit.
const STATUSES_BYTES: usize = 64 << 20;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// Where Puppet's CA is, and as whom it is asked. The paths are what `puppet config print --section server` says.
#[derive(Debug, Clone)]
pub struct PuppetCaConfig {
    /// `HOST:PORT` to connect to.
    pub address: String,
    /// The main server's certname: the server must show it, and it goes into SNI and the Host header.
    pub name: NodeName,
    /// `hostcert` of the main server, with the extension `pp_cli_auth`.
    pub certificate: PathBuf,
    /// `hostprivkey` of the main server.
    pub key: PathBuf,
    /// `cacert`: the only authorities that are trusted.
    pub ca: PathBuf,
    /// `cacrl`: a main server whose certificate is revoked is not trusted.
    pub crl: PathBuf,
    /// Puppet Server's `conf.d/ca.conf`.
    pub ca_conf: PathBuf,
    pub deadlines: Deadlines,
}

/// How long calls may take, from connecting to the last byte.
///
/// The CA reads its whole CRL for each of them, and writes it for a revocation. Measured on 7.9.5 (384 MB of heap, two
/// cores): with a short CRL a status takes 6 ms, a signature 0.1 s and a revocation 0.06 s; with 100,000 entries 0.9 s,
/// 5 s and 6 s, at most 17 s. The defaults leave room for the third of a million that `bunraku-certificates` reads.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Calls that change nothing.
    pub read: Duration,
    /// Calls that change something: the CA signs and revokes one at a time.
    pub write: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { read: Duration::from_secs(30), write: Duration::from_secs(180) }
    }
}

/// The client. Each call has a connection of its own; the files are read again when they change.
#[derive(Debug)]
pub struct PuppetCa {
    door: Door,
    ca_conf: PathBuf,
    deadlines: Deadlines,
}

/// A certificate as the CA gives it.
#[derive(Debug, Clone)]
pub struct Issued {
    pub certificate: Certificate,
    /// The file that was judged.
    pub pem: String,
}

impl PuppetCa {
    /// Reads and connects to nothing yet.
    pub fn new(config: PuppetCaConfig) -> Self {
        let identity = Identity::new(config.certificate, config.key, config.ca, config.crl);
        let door = Door { address: config.address, name: config.name.as_str().to_owned(), identity };
        Self { door, ca_conf: config.ca_conf, deadlines: config.deadlines }
    }

    /// What the CA knows of a name; `None`: neither a request nor a certificate.
    pub async fn status(&self, name: &NodeName) -> Result<Option<CertificateStatus>, CaError> {
        let call =
            self.get(format!("ask for the status of {name}"), format!("certificate_status/{name}"), JSON);
        found(&call, &self.door, |answer| json_of(answer, status::one)).await
    }

    /// What the CA knows of all names, or of those in one state ([`State::Other`] is none that it knows: all). It reads
    /// every file of the CA.
    pub async fn statuses(&self, state: Option<State>) -> Result<Vec<CertificateStatus>, CaError> {
        let path = match state {
            Some(State::Other) | None => "certificate_statuses/any".to_owned(),
            Some(state) => format!("certificate_statuses/any?state={}", state.as_str()),
        };
        let call = self.get("ask for the status of all names".to_owned(), path, JSON).at_most(STATUSES_BYTES);
        let answer = call.ask(&self.door).await?;
        match answer.status {
            StatusCode::OK => json_of(&answer, status::many).map_err(|why| call.refused(why)),
            _ => Err(call.unexpected(&answer)),
        }
    }

    /// The request of a name that waits for its signature.
    pub async fn request(&self, name: &NodeName) -> Result<Option<SigningRequest>, CaError> {
        let call =
            self.get(format!("get the request of {name}"), format!("certificate_request/{name}"), TEXT);
        found(&call, &self.door, |answer| SigningRequest::parse(&answer.body).map_err(Why::Request)).await
    }

    /// The certificate of a name, revoked or not.
    pub async fn certificate(&self, name: &NodeName) -> Result<Option<Issued>, CaError> {
        let call = self.get(format!("get the certificate of {name}"), format!("certificate/{name}"), TEXT);
        found(&call, &self.door, |answer| {
            let certificate = Certificate::parse(&answer.body).map_err(Why::Certificate)?;
            // The name `ca` gives the CA's own.
            if certificate.common_name() != Some(name.as_str()) {
                return Err(Why::NoCertificate { name: name.clone() });
            }
            Ok(Issued { certificate, pem: String::from_utf8_lossy(&answer.body).into_owned() })
        })
        .await
    }

    /// Hands in a request (PEM). One with the same key that is there already, or was signed, is as good.
    ///
    /// Where `autosign` says so, the CA signs it at once. Where `allow-duplicate-certs` is on, anybody may replace a
    /// request that waits: whoever signs compares the certificate's key afterwards.
    pub async fn submit(&self, name: &NodeName, csr_pem: &str) -> Result<(), CaError> {
        let call = Call::put(
            format!("hand in the request of {name}"),
            format!("certificate_request/{name}"),
            (TEXT, csr_pem.to_owned()),
            self.deadlines.write,
        );
        let ours =
            SigningRequest::parse(csr_pem.as_bytes()).map_err(|why| call.refused(Why::Request(why)))?;
        if ours.common_name() != Some(name.as_str()) {
            return Err(call.refused(Why::OtherName { name: name.clone() }));
        }
        if self.has_taken(&call, name, &ours).await? {
            return Ok(());
        }
        let answer = call.ask(&self.door).await?;
        match answer.status.as_u16() {
            200..=299 => Ok(()),
            // Somebody was faster, or the CA refuses it. With `autosign` it keeps what it refuses to sign.
            400 if self.has_taken(&call, name, &ours).await? => Ok(()),
            _ => Err(call.unexpected(&answer)),
        }
    }

    /// Signs the request of a name as it waits there, for `ttl` (whole seconds) or as long as Puppet's `ca_ttl` says.
    /// Judge the request first.
    pub async fn sign(&self, name: &NodeName, ttl: Option<Duration>) -> Result<(), CaError> {
        let mut body = json!({ "desired_state": "signed" });
        if let Some(ttl) = ttl {
            body["cert_ttl"] = ttl.as_secs().into();
        }
        let call = self.put_status(format!("sign the request of {name}"), name, &body);
        let answer = call.ask(&self.door).await?;
        match answer.status.as_u16() {
            200..=299 => Ok(()),
            404 => Err(call.refused(Why::NoRequest { name: name.clone() })),
            // The text may be in any language: whether there is a request tells what it is about.
            409 => match self.request(name).await? {
                Some(request) => Err(call.refused(not_allowed(name, &request, &answer))),
                None => Err(call.refused(Why::NoRequest { name: name.clone() })),
            },
            _ => Err(call.unexpected(&answer)),
        }
    }

    /// Puts the certificate of a name on the CA's CRL; one that is there already stays. The CRL file is written before
    /// the CA answers.
    pub async fn revoke(&self, name: &NodeName) -> Result<(), CaError> {
        let body = json!({ "desired_state": "revoked" });
        let call = self.put_status(format!("revoke the certificate of {name}"), name, &body);
        let answer = call.ask(&self.door).await?;
        match answer.status.as_u16() {
            200..=299 => Ok(()),
            404 | 409 => Err(call.refused(Why::NoCertificate { name: name.clone() })),
            _ => Err(call.unexpected(&answer)),
        }
    }

    /// Deletes request and certificate of a name from the CA's directories, if there are any. It revokes nothing, and
    /// Puppet Server 7 cannot revoke that certificate afterwards: it knows certificates by these files (8 also by its
    /// inventory).
    pub async fn forget(&self, name: &NodeName) -> Result<(), CaError> {
        let call = Call::delete(
            format!("delete {name}"),
            format!("certificate_status/{name}"),
            self.deadlines.write,
        );
        let answer = call.ask(&self.door).await?;
        match answer.status.as_u16() {
            200..=299 | 404 => Ok(()),
            _ => Err(call.unexpected(&answer)),
        }
    }

    /// When the CA's certificates and CRLs end; `None`: this CA cannot say (before 6.13).
    pub async fn expirations(&self) -> Result<Option<Expirations>, CaError> {
        let call = self.get("ask when the CA's own ends".to_owned(), "expirations".to_owned(), JSON);
        found(&call, &self.door, |answer| json_of(answer, expirations::read)).await
    }

    /// Whether ca.conf lets the CA sign requests with alternative names. A Puppet Server that was not restarted since
    /// the file was changed still does what it said before, and other files of conf.d could say it too: a refusal is
    /// told by [`Self::sign`].
    pub fn allows_subject_alt_names(&self) -> Result<bool, ConfError> {
        ca_conf::allows_subject_alt_names(&self.ca_conf)
    }

    /// The CA bundle on this host, to judge what the CA has issued.
    pub fn authorities(&self) -> Result<Authorities, CaError> {
        self.door.identity.authorities().map_err(|source| CaError {
            what: "read the CA bundle".to_owned(),
            unknown: false,
            why: Box::new(Why::Identity(Box::new(source))),
        })
    }

    /// Whether the CA has this request, or a certificate for its key. Somebody else's of the same name is an error.
    async fn has_taken(&self, call: &Call, name: &NodeName, ours: &SigningRequest) -> Result<bool, CaError> {
        let Some(CertificateStatus { state, .. }) = self.status(name).await? else { return Ok(false) };
        let key = match state {
            State::Revoked => return Err(call.refused(Why::Revoked { name: name.clone() })),
            State::Requested => self.request(name).await?.map(|theirs| theirs.key()),
            State::Signed | State::Other => self.certificate(name).await?.map(|it| it.certificate.key()),
        };
        match key {
            Some(key) if key == ours.key() => Ok(true),
            Some(_) => Err(call.refused(Why::OtherKey { name: name.clone(), state })),
            // It was signed or deleted meanwhile.
            None => Ok(false),
        }
    }

    fn get(&self, what: String, path: String, accept: &'static str) -> Call {
        Call::get(what, path, accept, self.deadlines.read)
    }

    fn put_status(&self, what: String, name: &NodeName, body: &serde_json::Value) -> Call {
        let path = format!("certificate_status/{name}");
        Call::put(what, path, (JSON, body.to_string()), self.deadlines.write)
    }
}

/// The content of a 200; `None` for a 404.
async fn found<T>(
    call: &Call,
    door: &Door,
    read: impl FnOnce(&Answer) -> Result<T, Why>,
) -> Result<Option<T>, CaError> {
    let answer = call.ask(door).await?;
    match answer.status {
        StatusCode::OK => read(&answer).map(Some).map_err(|why| call.refused(why)),
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(call.unexpected(&answer)),
    }
}

fn json_of<T>(answer: &Answer, read: impl FnOnce(&[u8]) -> Result<T, serde_json::Error>) -> Result<T, Why> {
    read(&answer.body).map_err(|source| Why::Json { text: answer.excerpt(), source })
}

fn not_allowed(name: &NodeName, request: &SigningRequest, answer: &Answer) -> Why {
    let own = AltName::dns(name);
    let why = answer.excerpt();
    let hint = if request.alt_names().iter().any(|alt_name| *alt_name != own) {
        "in Puppet Server's conf.d/ca.conf set certificate-authority.allow-subject-alt-names: true, and: systemctl \
         restart puppetserver"
    } else if why.contains("allow-authorization-extensions") {
        "it asks for rights in Puppet's CA: ask who made it; ca.conf has certificate-authority.allow-authorization-extensions"
    } else {
        "puppetserver ca list --all shows it"
    };
    Why::NotAllowed { why, hint }
}

#[cfg(test)]
#[path = "ca_test.rs"]
mod tests;
