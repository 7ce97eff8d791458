//! Who is at fault, from what hyper, rustls and tokio say.

use std::{error::Error, io};

use http_body_util::LengthLimitError;
use rustls::AlertDescription as Alert;

/// Alerts by which a peer says that it does not accept a certificate.
const REFUSED: [Alert; 9] = [
    Alert::BadCertificate,
    Alert::UnsupportedCertificate,
    Alert::CertificateRevoked,
    Alert::CertificateExpired,
    Alert::CertificateUnknown,
    Alert::UnknownCA,
    Alert::AccessDenied,
    Alert::CertificateRequired,
    Alert::DecryptError,
];

/// Why a request to a server that could be connected to has no answer.
#[derive(Debug)]
pub enum Fault {
    /// One side does not accept the other's certificate.
    Untrusted(rustls::Error),
    /// What answers speaks no TLS or no HTTP, or answers without end.
    Garbled,
    /// The connection broke.
    Broken,
}

impl Fault {
    /// From the chain of causes: a client certificate that is refused shows only when the answer is read (TLS 1.3).
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(here) = cause {
            match here.downcast_ref::<rustls::Error>() {
                Some(tls) if is_about_trust(tls) => return Self::Untrusted(tls.clone()),
                Some(rustls::Error::InvalidMessage(_)) => return Self::Garbled,
                Some(_) | None => {}
            }
            let is_no_http = here.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
            if is_no_http || here.is::<LengthLimitError>() {
                return Self::Garbled;
            }
            // io::Error hides what it carries from source().
            let carried = here.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            cause = carried.map(|inner| inner as &(dyn Error + 'static)).or_else(|| here.source());
        }
        Self::Broken
    }
}

fn is_about_trust(error: &rustls::Error) -> bool {
    if let rustls::Error::AlertReceived(alert) = error {
        return REFUSED.contains(alert);
    }
    matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
}

/// The beginning of an answer's body, for an error that a person reads: no more than `most` characters, none of them a
/// terminal's command.
pub fn excerpt(body: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(body);
    let shown: String =
        text.trim().chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.is_empty() { "(no text)".into() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(error: rustls::Error) -> io::Error {
        io::Error::other(io::Error::other(error))
    }

    #[test]
    fn a_refused_certificate_is_found_at_the_bottom_of_the_chain() {
        for alert in REFUSED {
            let fault = Fault::of(&carried(rustls::Error::AlertReceived(alert)));
            assert!(matches!(fault, Fault::Untrusted(_)), "{alert:?}: {fault:?}");
        }
        let other = Fault::of(&carried(rustls::Error::AlertReceived(Alert::InternalError)));
        assert!(matches!(other, Fault::Broken), "{other:?}");
        let broken = Fault::of(&io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(matches!(broken, Fault::Broken), "{broken:?}");
    }

    #[test]
    fn what_speaks_no_tls_is_garbled() {
        let message = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let fault = Fault::of(&carried(message));
        assert!(matches!(fault, Fault::Garbled), "{fault:?}");
    }

    #[test]
    fn an_excerpt_is_short_and_commands_no_terminal() {
        assert_eq!(excerpt(b"  \x1b[2Jno\nroom ", 5), " [2Jn");
        assert_eq!(excerpt(b" \n", 5), "(no text)");
    }
}
