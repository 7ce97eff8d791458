//! Waits until a compiler's new certificate is served. Ctrl-C ends only the waiting.

use std::time::Duration;

use bunraku_common::hint;
use bunraku_proto::v1::{CertificateInfo, ShowCertificateRequest};
use tonic::Status;

use super::shown::now_line;
use crate::cli::{
    Exit, Failure, Output,
    client::Control,
    waiting::{Look, Waiting, interruptible},
};

pub(super) async fn follow(
    client: Control,
    node: &str,
    timeout: Duration,
    output: Output,
) -> Result<CertificateInfo, Failure> {
    let again = format!("bunraku cert show {node}");
    let waiting = Waiting::new(client, node, again.clone(), timeout, output);
    let mut waiting = waiting.and_then("then this command ends, and the certificate goes on");
    interruptible(&format!("the certificate of {node} goes on"), &again, waiting.until(look)).await
}

/// How far the newest one has come.
pub(in crate::cli) async fn look(client: &mut Control, node: &str) -> Result<Look<CertificateInfo>, Status> {
    let request = ShowCertificateRequest { node: node.to_owned() };
    let info = client.show_certificate(request).await?.into_inner();
    Ok(match info.phase.as_str() {
        // What is shown below is what the node says.
        "done" if info.host.as_ref().is_none_or(|host| host.fingerprint != info.fingerprint) => {
            Look::Not(format!("its certificate: {node} has it in service, and says so in a moment"))
        }
        "done" => Look::Is(info),
        "failed" => {
            let told = format!("the certificate of {node} failed: {}", info.reason);
            Look::Never(Failure::new(Exit::Failed, hint::join(&told, &info.hint)))
        }
        _ => Look::Not(format!("its certificate: {}", now_line(&info))),
    })
}
