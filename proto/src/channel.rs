//! An ordinary tonic `Channel` to the controller, for every service that the controller serves.

use std::{path::PathBuf, time::Duration};

use bunraku_common::limits;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    dial::{DialError, dial},
    tls::ClientTls,
};

/// HTTP/2 wants scheme and authority; nothing looks at them.
const ORIGIN: &str = "http://controller";

/// How long one attempt to connect may take. Longer than the controller gives a handshake.
const CONNECT: Duration = limits::HANDSHAKE.saturating_add(Duration::from_secs(2));

/// A channel that dials at the first call, and again at the first call after it was lost.
pub fn channel(address: &str, tls: ClientTls) -> Channel {
    let address = address.to_owned();
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_| {
        let (address, tls) = (address.clone(), tls.clone());
        async move { dial(&address, &tls, CONNECT).await.map(TokioIo::new) }
    }))
}

/// A channel that is connected already, so that a wrong address or pin is told before the first call.
pub async fn connect(address: &str, tls: ClientTls) -> Result<Channel, DialError> {
    let mut first = Some(dial(address, &tls, CONNECT).await?);
    let address = address.to_owned();
    let channel = endpoint().connect_with_connector_lazy(tower::service_fn(move |_| {
        let (first, address, tls) = (first.take(), address.clone(), tls.clone());
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => dial(&address, &tls, CONNECT).await.map(TokioIo::new),
            }
        }
    }));
    Ok(channel)
}

/// A channel to the controller's unix socket on the same host.
pub fn unix_channel(path: PathBuf) -> Channel {
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}

fn endpoint() -> Endpoint {
    Endpoint::from_static(ORIGIN)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}
