//! The certificate that a server on this host shows, found out by a handshake that trusts nobody and sends nothing.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// What was seen of a server.
#[derive(Debug)]
pub struct Shown {
    /// The first certificate that it sent, in DER.
    pub certificate: Vec<u8>,
    /// Why the handshake did not end, though the certificate came: most often it wants one of ours, too. Only one that
    /// ended shows that the server has the key.
    pub broken: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum NotShown {
    #[error("{address} did not answer within {deadline:?}")]
    Deadline { address: SocketAddr, deadline: Duration },
    #[error("{address} shows no certificate")]
    Handshake {
        address: SocketAddr,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// `name`: which certificate is asked for, where the server has several; without it the one that it shows to everybody.
pub async fn shown(address: SocketAddr, name: Option<&str>, deadline: Duration) -> Result<Shown, NotShown> {
    let seen = Arc::new(Eyes::default());
    let looked = timeout(deadline, look(address, name, seen.clone())).await;
    let certificate = seen.certificate.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (certificate, looked) {
        (Some(certificate), Ok(Ok(()))) => Ok(Shown { certificate, broken: None }),
        (Some(certificate), Ok(Err(error))) => Ok(Shown { certificate, broken: Some(error.to_string()) }),
        (Some(certificate), Err(_)) => {
            Ok(Shown { certificate, broken: Some(format!("it did not go on within {deadline:?}")) })
        }
        (None, Ok(Ok(()))) => Err(NotShown::Handshake { address, source: "the handshake had none".into() }),
        (None, Ok(Err(source))) => Err(NotShown::Handshake { address, source }),
        (None, Err(_)) => Err(NotShown::Deadline { address, deadline }),
    }
}

async fn look(
    address: SocketAddr,
    name: Option<&str>,
    eyes: Arc<Eyes>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(eyes)
        .with_no_client_auth();
    let name = match name {
        Some(name) => ServerName::try_from(name.to_owned())?,
        None => {
            config.enable_sni = false;
            ServerName::from(address.ip())
        }
    };
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    Ok(())
}

/// Takes every certificate, so that nothing may ever be sent over such a connection; that the server has the key is
/// checked.
#[derive(Debug, Default)]
struct Eyes {
    certificate: Mutex<Option<Vec<u8>>>,
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

impl ServerCertVerifier for Eyes {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
