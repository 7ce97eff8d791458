//! Opens a connection to the controller: TCP, TLS, and the door it asked for. Nodes and operators dial; nobody is
//! dialled by the controller.

use std::{io, time::Duration};

use rustls::CertificateError;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    alpn::Door,
    tls::{ClientTls, WrongTime},
};

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("could not connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("the TLS handshake with {address} failed")]
    Handshake {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} does not speak {door}")]
    Protocol { address: String, door: Door },
    #[error("no connection to {address} within {} s", limit.as_secs_f32())]
    Late { address: String, limit: Duration },
}

/// Dials `address` (`host:port`; every address of the name is tried) and shakes hands, all within `limit`.
///
/// With TLS 1.3 the own certificate is judged after this side is done: a refused peer gets `Ok` here and the refusal
/// at its first read.
pub async fn dial(
    address: &str,
    tls: &ClientTls,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, DialError> {
    timeout(limit, connect(address, tls))
        .await
        .unwrap_or_else(|_| Err(DialError::Late { address: address.into(), limit }))
}

async fn connect(address: &str, tls: &ClientTls) -> Result<TlsStream<TcpStream>, DialError> {
    let tcp = TcpStream::connect(address)
        .await
        .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
        .map_err(|source| DialError::Connect { address: address.into(), source })?;
    let stream = TlsConnector::from(tls.config.clone())
        .connect(tls.name.clone(), tcp)
        .await
        .map_err(|source| DialError::Handshake { address: address.into(), source: readable(source) })?;
    if stream.get_ref().1.alpn_protocol() == Some(tls.door.alpn().as_bytes()) {
        Ok(stream)
    } else {
        Err(DialError::Protocol { address: address.into(), door: tls.door })
    }
}

/// rustls prints a verifier's own reason as `Other(OtherError(..))`; people get the reason.
fn readable(error: io::Error) -> io::Error {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return error;
    };
    if let Some(wrong) = WrongTime::of("the controller's certificate", tls) {
        return io::Error::new(error.kind(), wrong);
    }
    if let rustls::Error::InvalidCertificate(CertificateError::Other(reason)) = tls {
        return io::Error::new(error.kind(), reason.0.clone());
    }
    error
}
