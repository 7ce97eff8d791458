//! A handshake that failed because either end does not know the CA of the other: most often the mesh CA was rotated
//! while this host was off.

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError, Error as TlsError};

/// Whether that is why a connection did not come to be, or ended at its first read.
pub fn is_disowned(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<TlsError>());
        if inner.or_else(|| error.downcast_ref::<TlsError>()).is_some_and(is_about_the_authority) {
            return true;
        }
        next = error.source();
    }
    false
}

fn is_about_the_authority(error: &TlsError) -> bool {
    // And what rustls tells the other end in these two cases.
    matches!(
        error,
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)
            | TlsError::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_ca_counts_wherever_it_stands() {
        let wrapped = |error: TlsError| io::Error::new(io::ErrorKind::InvalidData, error);
        let unknown = TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(is_disowned(&unknown) && is_disowned(&wrapped(unknown)));
        assert!(is_disowned(&wrapped(TlsError::AlertReceived(AlertDescription::UnknownCA))));
        for other in [
            TlsError::AlertReceived(AlertDescription::CertificateRevoked),
            TlsError::InvalidCertificate(CertificateError::Revoked),
            TlsError::InvalidCertificate(CertificateError::Expired),
        ] {
            assert!(!is_disowned(&wrapped(other)));
        }
        assert!(!is_disowned(&io::Error::from(io::ErrorKind::ConnectionRefused)));
    }
}
