//! Waits until a compiler's new certificate is served. Ctrl-C ends only the waiting.

use std::time::{Duration, Instant};

use bunraku_common::hint;
use bunraku_proto::v1::{CertificateInfo, ShowCertificateRequest};

use super::{
    super::{
        Exit, Failure, Output,
        client::Control,
        output::hinted,
        progress::{ATTEMPTS, BETWEEN_ATTEMPTS, View},
    },
    shown::now_line,
};

pub(super) async fn follow(
    client: Control,
    decided: CertificateInfo,
    timeout: Duration,
    output: Output,
) -> Result<CertificateInfo, Failure> {
    let node = decided.node.clone();
    let mut view = View::new(output);
    let outcome = tokio::select! {
        outcome = watch(client, decided, timeout, &mut view) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
    };
    view.clear();
    if outcome.as_ref().is_err_and(|failure| failure.exit() == Exit::Interrupted) {
        let told = format!("no longer waiting; the certificate of {node} goes on");
        eprint!("\r{}", hinted("", &hint::join(&told, &format!("bunraku cert show {node}"))));
    }
    outcome
}

async fn watch(
    mut client: Control,
    mut now: CertificateInfo,
    timeout: Duration,
    view: &mut View,
) -> Result<CertificateInfo, Failure> {
    let node = now.node.clone();
    let again = format!("bunraku cert show {node}");
    let ends = Instant::now() + timeout;
    let mut lost = 0;
    loop {
        match now.phase.as_str() {
            "done" => return Ok(now),
            "failed" => {
                let told = format!("the certificate of {node} failed: {}", now.reason);
                return Err(Failure::new(Exit::Failed, hint::join(&told, &now.hint)));
            }
            _ => view.show(|| vec![now_line(&now)], || now_line(&now)),
        }
        if Instant::now() >= ends {
            let told =
                format!("after {timeout:?} the certificate of {node} is still {}: it goes on", now.phase);
            return Err(Failure::new(Exit::Unknown, told).hint(again));
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        match client.show_certificate(ShowCertificateRequest { node: node.clone() }).await {
            Ok(reply) => (now, lost) = (reply.into_inner(), 0),
            Err(status) => {
                lost += 1;
                if lost > ATTEMPTS {
                    return Err(Failure::from(status).hint(again));
                }
            }
        }
    }
}
