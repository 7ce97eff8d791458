//! What can go wrong with Puppet's CA: the thing, the reason, and what to do next.

use std::{error::Error, io, time::Duration};

use bunraku_certificates::{CertificateError, RequestError};
use bunraku_common::{NodeName, hint};

use crate::{State, identity::IdentityError};

/// A call to Puppet's CA that brought nothing, or nothing that can be used.
#[derive(Debug, thiserror::Error)]
#[error("could not {what}")]
pub struct CaError {
    /// What was asked for: `sign the certificate of c3.example.com`.
    pub(crate) what: String,
    pub(crate) unknown: bool,
    #[source]
    pub(crate) why: Box<Why>,
}

impl CaError {
    /// Whether the CA may have done what was asked for, although it did not say so: ask for the status before anything
    /// else. Otherwise it surely did nothing. Never for calls that change nothing.
    pub const fn outcome_is_unknown(&self) -> bool {
        self.unknown
    }

    /// The reason.
    pub fn why(&self) -> &Why {
        &self.why
    }

    /// The reason, to keep.
    pub fn into_why(self) -> Why {
        *self.why
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// Puppet's files on this host.
    #[error("the main server's Puppet certificate cannot be used")]
    Identity(#[source] Box<IdentityError>),
    /// Refused or no route.
    #[error(
        "Puppet Server does not answer at {address}\nhint: on the main server: systemctl status puppetserver"
    )]
    Unreachable {
        address: String,
        #[source]
        source: io::Error,
    },
    /// Too slow, or stuck.
    #[error(
        "no answer from Puppet Server at {address} within {within:?}\nhint: on the main server: journalctl -u puppetserver"
    )]
    Deadline { address: String, within: Duration },
    /// Before the whole answer was there.
    #[error("the connection to Puppet Server at {address} broke")]
    Broken {
        address: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// One side does not accept the other's certificate.
    #[error(
        "the main server's certificate and Puppet Server at {address} do not accept each other\nhint: compare with: \
         puppet config print --section server hostcert cacert cacrl"
    )]
    Untrusted {
        address: String,
        #[source]
        source: rustls::Error,
    },
    /// The certificate is of Puppet's CA, and another host's.
    #[error(
        "who answers at {address} is not {name}\nhint: the address must be the main server's, with its certname"
    )]
    OtherHost { address: String, name: String },
    /// No HTTP, or an answer without end.
    #[error("what answers at {address} does not speak like Puppet Server")]
    Strange {
        address: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// There is no CA API: a compiler, or something else than Puppet Server.
    #[error(
        "Puppet Server at {address} has no CA\nhint: the address must be the main server's; its services.d/ca.cfg \
         turns the CA on"
    )]
    NoCa { address: String },
    /// 403.
    #[error(
        "the main server's certificate may not use Puppet's CA API: {text}\nhint: the certificate needs the extension \
         pp_cli_auth (puppetserver ca setup gives it), and Puppet Server's conf.d/auth.conf the rules that allow it: \
         grep -B12 pp_cli_auth auth.conf"
    )]
    MayNot { text: String },
    /// Puppet's CA has looked at the request and signs nothing like it.
    #[error("{}", hint::join(.why, .hint))]
    NotAllowed { why: String, hint: &'static str },
    /// There is nothing to sign.
    #[error("Puppet's CA has no request of {name}\nhint: puppetserver ca list --all")]
    NoRequest { name: NodeName },
    /// There is nothing to revoke.
    #[error("Puppet's CA has no certificate of {name}\nhint: puppetserver ca list --all")]
    NoCertificate { name: NodeName },
    /// A request, or a certificate, of the same name.
    #[error(
        "Puppet's CA has one of {name} already ({state}), with another key\nhint: if {name} was made anew: \
         puppetserver ca clean --certname {name}"
    )]
    OtherKey { name: NodeName, state: State },
    /// A certificate of the same name that was revoked.
    #[error(
        "the certificate of {name} was revoked\nhint: puppetserver ca clean --certname {name} makes room"
    )]
    Revoked { name: NodeName },
    /// Not one request, or of another name.
    #[error("the signing request is not one of {name}")]
    OtherName { name: NodeName },
    /// What was given, or what the CA gave.
    #[error("the signing request cannot be read")]
    Request(#[source] RequestError),
    /// What the CA gave.
    #[error("the certificate cannot be read")]
    Certificate(#[source] CertificateError),
    /// What the CA gave is no JSON, or means something else.
    #[error("the answer cannot be read: {text}")]
    Json {
        text: String,
        #[source]
        source: serde_json::Error,
    },
    /// Any other answer.
    #[error("Puppet Server answers {status}: {text}\nhint: on the main server: journalctl -u puppetserver")]
    Answer { status: u16, text: String },
}
