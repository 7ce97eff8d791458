//! A certificate that is not good at this time: most often no fault of the certificate, but of a clock.

use rustls::{CertificateError, Error};

/// Told to people in place of rustls's Unix seconds.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} {state} by this host's clock \
     (hint: compare `date -u` here and on the controller, and set both clocks by NTP)"
)]
pub struct WrongTime {
    what: &'static str,
    state: String,
}

impl WrongTime {
    /// Nothing when the error is about something else than time.
    pub(crate) fn of(what: &'static str, error: &Error) -> Option<Self> {
        let state = if let Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) =
            error
        {
            format!("ended {} ago", span(time.as_secs().saturating_sub(not_after.as_secs())))
        } else if let Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) =
            error
        {
            format!("begins {} from now", span(not_before.as_secs().saturating_sub(time.as_secs())))
        } else {
            return None;
        };
        Some(Self { what, state })
    }
}

/// Coarse, so that the same trouble is told once and not at each attempt.
fn span(seconds: u64) -> String {
    match seconds {
        0..7200 => format!("{} min", seconds.div_ceil(60)),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::UnixTime;

    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn told(reason: CertificateError) -> Option<String> {
        WrongTime::of("it", &Error::InvalidCertificate(reason)).map(|wrong| wrong.to_string())
    }

    #[test]
    fn f11_a_certificate_that_is_not_good_now_is_told_in_days_and_with_a_hint() {
        let early =
            told(CertificateError::NotValidYetContext { time: at(1000), not_before: at(1061) }).unwrap();
        assert!(early.starts_with("it begins 2 min from now by this host's clock (hint: "), "{early}");
        let late = told(CertificateError::ExpiredContext { time: at(31_536_000), not_after: at(0) }).unwrap();
        assert!(late.starts_with("it ended 365 days ago by this host's clock (hint: "), "{late}");
        assert_eq!(told(CertificateError::Revoked), None);
    }
}
