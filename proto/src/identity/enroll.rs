//! Obtains an identity from the controller: with a one-time token, with a Puppet certificate, or with the identity
//! itself (renewal). What comes back is checked before it is believed: the own key, the asked name, the right CA.

use std::time::{Duration, SystemTime};

use bunraku_common::{Digest, Role, limits};
use tonic::{Request, Status, transport::Channel};

use super::{Identity, IdentityError, Key, KeyError, Secret};
use crate::{
    call::CallFailed,
    channel,
    dial::DialError,
    peer::{FleetName, Peer, PeerError},
    tls::{self, ClientTls, Credentials, PuppetAuthorities, TlsError},
    v1::{
        self, RenewRequest, WithPuppetCertificateRequest, WithTokenRequest, control_client::ControlClient,
        enrollment_client::EnrollmentClient,
    },
};

/// How long the controller may take to answer: it may have to wait for its disk.
const ANSWER: Duration = Duration::from_secs(30);

/// Enrols with a one-time token. The token is sent only after the controller has shown the CA with this pin.
///
/// `asked` is what the token was made for: a node or an operator of this name.
pub async fn with_token(
    address: &str,
    pin: Digest,
    token: &Secret,
    asked: &Peer,
) -> Result<Identity, EnrollError> {
    let key = Key::generate()?;
    let csr = key.csr()?;
    let mut client = enrollment(address, tls::pinned_client(pin)?).await?;
    let request = WithTokenRequest { token: token.to_string(), csr, name: name_of(asked) };
    let answer = client.with_token(limited(request)).await.map_err(refused)?.into_inner();
    accept(answer, key, asked, &[pin])
}

/// Enrols with this node's Puppet certificate. `main` is the certname of the main Puppet server.
pub async fn with_puppet_certificate(
    address: &str,
    own: &Credentials,
    puppet: &PuppetAuthorities,
    main: &str,
    asked: &Peer,
    roles: &[Role],
) -> Result<Identity, EnrollError> {
    let key = Key::generate()?;
    let csr = key.csr()?;
    let mut client = enrollment(address, tls::puppet_client(own, puppet, main)?).await?;
    let roles = roles.iter().map(Role::to_string).collect();
    let request = WithPuppetCertificateRequest { csr, roles };
    let answer = client.with_puppet_certificate(limited(request)).await.map_err(refused)?.into_inner();
    accept(answer, key, asked, &[])
}

/// Renews `current` over a channel to the door `h2` that was opened with it. The key stays, so that a revocation by
/// key holds for every certificate of it.
pub async fn renew(channel: Channel, current: &Identity) -> Result<Identity, EnrollError> {
    let mut client = ControlClient::new(channel)
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES);
    let request = RenewRequest { csr: current.key.csr()? };
    let answer = client.renew(limited(request)).await.map_err(refused)?.into_inner();
    accept(answer, current.key.clone(), current.peer(), &current.anchors()?)
}

#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the controller did not issue an identity")]
    Refused(#[source] CallFailed),
    #[error("the controller issued an identity that cannot be used")]
    Unusable(#[from] IdentityError),
    #[error("the controller issued an identity with a wrong name")]
    Name(#[from] PeerError),
    #[error("the controller issued an identity for {got}, asked was {asked}")]
    OtherName { got: Peer, asked: Peer },
    #[error("the controller issued an identity of another CA than the pinned one")]
    OtherCa,
}

fn refused(status: Status) -> EnrollError {
    EnrollError::Refused(status.into())
}

async fn enrollment(address: &str, tls: ClientTls) -> Result<EnrollmentClient<Channel>, EnrollError> {
    let channel = channel::connect(address, tls).await?;
    Ok(EnrollmentClient::new(channel)
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES))
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER);
    request
}

fn name_of(peer: &Peer) -> String {
    match peer {
        Peer::Node(name) => name.to_string(),
        Peer::Operator(name) => name.to_string(),
        Peer::Controller => "controller".to_owned(),
    }
}

/// The answer comes from a controller that has proven itself; a CA that was known before (`known`; none: Puppet's CA
/// vouches) must be among those that it names. That is how a new CA comes to those who trust the one before.
fn accept(answer: v1::Identity, key: Key, asked: &Peer, known: &[Digest]) -> Result<Identity, EnrollError> {
    let fleet = FleetName::parse(&answer.fleet)?;
    let identity = Identity::new(answer.certificate, answer.ca, fleet, key, SystemTime::now())?;
    if identity.peer() != asked {
        return Err(EnrollError::OtherName { got: identity.peer().clone(), asked: asked.clone() });
    }
    let anchors = identity.anchors()?;
    if !known.is_empty() && !anchors.iter().any(|pin| known.contains(pin)) {
        return Err(EnrollError::OtherCa);
    }
    Ok(identity)
}
