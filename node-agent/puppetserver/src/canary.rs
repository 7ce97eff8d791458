//! Proof that Puppet Server has loaded a CRL: it refuses a certificate that this CRL revokes, and lets the host's own in.
//!
//! Refused means the TLS alert that a certificate is not accepted. A connection that breaks, or a server that refuses
//! everybody (as with an empty CRL), proves nothing.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bunraku_common::Chain;
use http::{Method, StatusCode};
use rustls::{AlertDescription, ClientConfig};
use tokio::time::{Instant, sleep};

use crate::{
    PuppetServer,
    identity::IdentityError,
    request::{Answer, Silence, Trouble},
};

/// Puppet Server checks no right for it, so that only the certificate counts.
const PATH: &str = "/status/v1/simple";
/// Puppet Server has loaded a file 0.3 s after it changed, mostly (measured): it is asked often at first.
const OFTEN: Duration = Duration::from_millis(50);
const OFTEN_FOR: Duration = Duration::from_secs(2);
const THEN: Duration = Duration::from_millis(250);
/// One question takes 20 ms, and a second on a loaded machine.
const QUESTION: Duration = Duration::from_secs(3);

/// A certificate that was revoked for this, with its key.
#[derive(Debug)]
pub struct Canary(Arc<ClientConfig>);

/// What was seen last when the time was over.
#[derive(Debug, thiserror::Error)]
pub enum NotRefused {
    #[error("Puppet Server at {address} lets the canary in: it has not loaded these CRLs")]
    LetIn { address: SocketAddr },
    #[error(
        "Puppet Server at {address} refuses the canary, and does not let this host in, which proves nothing: {why}"
    )]
    Everybody { address: SocketAddr, why: String },
    #[error("whether Puppet Server at {address} refuses the canary is not known: {why}")]
    Unknown { address: SocketAddr, why: String },
    #[error("the node's Puppet certificate cannot be used")]
    Identity(#[from] IdentityError),
}

impl NotRefused {
    /// A question that the limit cuts short says less than the one before; how short it was is no reason at all.
    fn unless_cut_short(self, left: Duration, before: Option<Self>) -> Self {
        match (&self, before) {
            (Self::Unknown { .. }, Some(before)) if left < QUESTION => before,
            (Self::Everybody { .. }, Some(before @ Self::Everybody { .. })) if left < QUESTION => before,
            (_, Some(_) | None) => self,
        }
    }
}

enum Knocked {
    Refused,
    LetIn,
    Unknown(String),
}

impl PuppetServer {
    pub fn canary(&self, certificate: &[u8], key: &[u8]) -> Result<Canary, IdentityError> {
        Ok(Canary(Arc::new(self.door.identity.as_canary(certificate, key)?)))
    }

    /// Asks until the canary is refused and this host let in, but not longer than `limit`. Answers when the refusal was
    /// first seen.
    pub async fn prove_refusal(&self, canary: &Canary, limit: Duration) -> Result<SystemTime, NotRefused> {
        let own = Arc::new(self.door.identity.fresh()?);
        let (began, address) = (Instant::now(), self.door.address);
        let (mut first, mut before) = (None, None);
        loop {
            let left = limit.saturating_sub(began.elapsed());
            let last = match self.knock(canary, left).await {
                Knocked::Refused => {
                    let first = *first.get_or_insert_with(SystemTime::now);
                    let left = limit.saturating_sub(began.elapsed());
                    match self.lets_in(&own, left).await {
                        Ok(()) => return Ok(first),
                        Err(why) => {
                            NotRefused::Everybody { address, why }.unless_cut_short(left, before.take())
                        }
                    }
                }
                Knocked::LetIn => {
                    first = None;
                    NotRefused::LetIn { address }
                }
                Knocked::Unknown(why) => {
                    NotRefused::Unknown { address, why }.unless_cut_short(left, before.take())
                }
            };
            let pause = if began.elapsed() < OFTEN_FOR { OFTEN } else { THEN };
            if began.elapsed() + pause >= limit {
                return Err(last);
            }
            before = Some(last);
            sleep(pause).await;
        }
    }

    async fn knock(&self, canary: &Canary, left: Duration) -> Knocked {
        match self.ask_anew(&canary.0, left).await {
            // Whatever it answers: the handshake is over.
            Ok(_) => Knocked::LetIn,
            Err(Trouble::Untrusted(error)) if is_refusal(&error) => Knocked::Refused,
            Err(trouble) => Knocked::Unknown(told(&trouble)),
        }
    }

    async fn lets_in(&self, own: &Arc<ClientConfig>, left: Duration) -> Result<(), String> {
        match self.ask_anew(own, left).await {
            Ok(answer) if answer.status == StatusCode::OK => Ok(()),
            Ok(answer) => Err(answer.to_string()),
            Err(trouble) => Err(told(&trouble)),
        }
    }

    async fn ask_anew(&self, config: &Arc<ClientConfig>, left: Duration) -> Result<Answer, Trouble> {
        let deadline = QUESTION.min(left);
        let asked = tokio::time::timeout(deadline, self.door.ask_as(config.clone(), Method::GET, PATH)).await;
        asked.unwrap_or(Err(Trouble::Silent(Silence::Deadline(deadline))))
    }
}

/// How servers say that a certificate is not accepted: Java for every reason `certificate_unknown`, others more exactly.
/// An expired one, or one of an unknown CA, would be refused without any CRL.
fn is_refusal(error: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    let refusals = [Alert::CertificateUnknown, Alert::CertificateRevoked, Alert::BadCertificate];
    matches!(error, rustls::Error::AlertReceived(alert) if refusals.contains(alert))
}

fn told(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Silent(error) => Chain(error).to_string(),
        Trouble::Untrusted(error) => Chain(error).to_string(),
        Trouble::Garbled(error) => error.to_string(),
        Trouble::Identity(error) => Chain(error).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everybody(why: &str) -> NotRefused {
        NotRefused::Everybody { address: ([127, 0, 0, 1], 8140).into(), why: why.to_owned() }
    }

    fn told(left: Duration, now: NotRefused, before: NotRefused) -> String {
        now.unless_cut_short(left, Some(before)).to_string()
    }

    /// Regression: how short the last question was became the reason, a new one in the controller's journal each time.
    #[test]
    fn a_question_that_was_cut_short_does_not_replace_the_reason_before() {
        let (cut, whole) = (Duration::from_millis(40), QUESTION);
        let (before, now) = (|| everybody("refused"), || everybody("no answer within 40ms"));
        assert_eq!(told(cut, now(), before()), before().to_string());
        assert_eq!(told(whole, now(), before()), now().to_string());
        // What is seen now counts: it was let in before.
        let let_in = NotRefused::LetIn { address: ([127, 0, 0, 1], 8140).into() };
        assert_eq!(told(cut, now(), let_in), now().to_string());
    }
}
