//! The way to the controller: its unix socket, or mTLS with the identity that `bunraku login` made.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bunraku_common::{Chain, limits};
use bunraku_proto::{
    Door, channel, dial,
    identity::{self, Identity, IdentityFiles},
    tls,
    v1::{self, control_client::ControlClient},
};
use tokio::io::AsyncReadExt;
use tonic::{Code, Status, transport::Channel};

use super::{Exit, Failure, Reach};

pub(super) type Control = ControlClient<Channel>;

/// Where the controller's address stands beside an operator's identity.
pub(super) const CONTROLLER_FILE: &str = "controller";

/// A controller that restarts meanwhile: it is worth asking on.
pub(super) fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
}

pub(super) async fn connect(reach: &Reach) -> Result<Control, Failure> {
    let identity_dir = identity_dir(reach);
    if reach.socket.exists() {
        somebody_listens(&reach.socket).await?;
        return Ok(limited(channel::unix_channel(reach.socket.clone())));
    }
    match identity_dir.filter(|dir| dir.join(CONTROLLER_FILE).exists()) {
        Some(dir) => with_identity(&dir).await,
        None => Err(Failure::new(
            Exit::NoAnswer,
            format!(
                "no controller answers at {} and there is no operator identity here",
                reach.socket.display()
            ),
        )
        .hint("on the controller's host: systemctl start bunraku; elsewhere: bunraku login")),
    }
}

/// The channel connects later, and would only say that the connection was refused.
async fn somebody_listens(socket: &Path) -> Result<(), Failure> {
    let Err(error) = tokio::net::UnixStream::connect(socket).await else { return Ok(()) };
    if error.kind() == io::ErrorKind::PermissionDenied {
        let why = format!("only root may use {}", socket.display());
        return Err(Failure::new(Exit::NotAllowed, why).hint("call it as root, with sudo"));
    }
    let why = format!("no controller answers at {}: {error}", socket.display());
    Err(Failure::new(Exit::NoAnswer, why).hint("systemctl status bunraku"))
}

/// `--identity`, else `BUNRAKU_IDENTITY`, else `~/.config/bunraku`.
pub(super) fn identity_dir(reach: &Reach) -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/bunraku"));
    let named = || std::env::var_os("BUNRAKU_IDENTITY").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    reach.identity.clone().or_else(named).or_else(home)
}

async fn with_identity(dir: &Path) -> Result<Control, Failure> {
    let unusable =
        |why: String| Failure::new(Exit::NotAllowed, why).hint("bunraku login makes a new identity");
    let files = IdentityFiles::new(dir);
    let identity = match files.load(SystemTime::now()) {
        Ok(Some(identity)) => identity,
        Ok(None) => return Err(unusable(format!("there is no operator identity in {}", dir.display()))),
        Err(error) => return Err(unusable(Chain(&error).to_string())),
    };
    let address = std::fs::read_to_string(dir.join(CONTROLLER_FILE)).map_err(|error| {
        unusable(format!("could not read {}: {error}", dir.join(CONTROLLER_FILE).display()))
    })?;
    let address = address.trim();
    let channel = dial(address, &identity).await?;
    let due = identity.renewal_due(SystemTime::now(), 0) || lacks_an_anchor(channel.clone(), &identity).await;
    if due
        && let Ok(renewed) = identity::renew(channel.clone(), &identity).await
        && files.save(&renewed).is_ok()
    {
        return dial(address, &renewed).await.map(limited);
    }
    Ok(limited(channel))
}

/// Whether the mesh CA is rotated and this identity has not heard of it: with a renewal it does.
async fn lacks_an_anchor(channel: Channel, identity: &Identity) -> bool {
    let (Ok(asked), Ok(own)) = (limited(channel).ca_status(v1::CaStatusRequest {}).await, identity.anchors())
    else {
        return false;
    };
    let own: Vec<String> = own.iter().map(ToString::to_string).collect();
    let anchors = asked.into_inner().anchors;
    !anchors.is_empty() && (anchors.first() != own.first() || anchors.len() != own.len())
}

/// TLS 1.3 judges a client's certificate when the client believes to be done: a refused operator's first call only finds
/// its connection gone. So when a call got no answer, TLS is asked why, on a connection of its own.
pub(super) async fn explained(reach: &Reach, failure: Failure) -> Failure {
    let unclear = matches!(failure.exit(), Exit::NoAnswer | Exit::Unknown | Exit::Failed);
    match identity_dir(reach).filter(|_| unclear && !reach.socket.exists()) {
        Some(dir) => refusal(&dir).await.unwrap_or(failure),
        None => failure,
    }
}

async fn refusal(dir: &Path) -> Option<Failure> {
    let identity = IdentityFiles::new(dir).load(SystemTime::now()).ok()??;
    let address = std::fs::read_to_string(dir.join(CONTROLLER_FILE)).ok()?;
    let tls = tls::mesh_client(identity.mesh(), Door::H2).ok()?;
    let mut stream = dial::dial(address.trim(), &tls, limits::HANDSHAKE).await.ok()?;
    let refused = tokio::time::timeout(limits::HANDSHAKE, stream.read_u8()).await.ok()?.err()?;
    let alert = refused.get_ref()?.downcast_ref::<rustls::Error>()?;
    let why = format!("the controller at {} does not accept your identity: {alert}", address.trim());
    matches!(alert, rustls::Error::AlertReceived(_)).then(|| {
        Failure::new(Exit::NotAllowed, why).hint("ask an admin: bunraku operator list; then bunraku login")
    })
}

pub(super) async fn dial(address: &str, identity: &Identity) -> Result<Channel, Failure> {
    let tls = tls::mesh_client(identity.mesh(), Door::H2)
        .map_err(|error| Failure::new(Exit::NotAllowed, Chain(&error)))?;
    channel::connect(address, tls).await.map_err(|error| match tls::is_disowned(&error) {
        true => Failure::new(Exit::NotAllowed, Chain(&error)).hint(
            "the mesh CA was rotated while this identity was not used: ask an admin for              bunraku operator revoke NAME, bunraku operator add NAME, then: bunraku login",
        ),
        false => Failure::new(Exit::NoAnswer, Chain(&error)),
    })
}

fn limited(channel: Channel) -> Control {
    ControlClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES)
}
