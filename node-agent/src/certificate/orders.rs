//! `RequestCertificate` and `StageCertificate`.

use std::sync::Arc;

use bunraku_common::{Chain, Fence, NodeName, hint};
use bunraku_host_certificate::{Order, World, alt_names};
use bunraku_proto::v1;
use tonic::Status;

use super::on_disk::{fleet, on_kept};
use crate::{
    commit::wall_ms,
    node::{Compiler, Node},
};

/// Of every order about the certificate.
pub(crate) const SUBJECT: &str = "certificate";

/// A key is made, once for an order, and a request for it.
pub(crate) async fn request(
    node: &Arc<Node>,
    compiler: &Compiler,
    names: &[String],
    fence: Fence,
) -> Result<v1::RequestCertificateReply, Status> {
    let refused = |why: &dyn std::fmt::Display| {
        let (refused, hint) = hint::split(&why.to_string());
        tracing::warn!(why = refused, "no certificate is asked for");
        v1::RequestCertificateReply { request: Vec::new(), refused, hint }
    };
    let names = match alt_names(names) {
        Ok(names) => names,
        Err(error) => return Ok(refused(&Chain(&error))),
    };
    let certname = match node.settings(compiler).await {
        Ok(settings) => settings.certname,
        Err(error) => return Ok(refused(&Chain(&error))),
    };
    let certname = match NodeName::parse(&certname) {
        Ok(certname) => certname,
        Err(error) => return Ok(refused(&format!("Puppet's certname: {error}"))),
    };
    let made = on_kept(node, move |node, kept| {
        is_newest(node, fence)?;
        Ok(kept.request(Order { fleet: fleet(node), fence }, &certname, names))
    });
    match made.await.unwrap_or_else(|| Err(ended_early()))? {
        Ok(request) => Ok(v1::RequestCertificateReply { request, ..v1::RequestCertificateReply::default() }),
        Err(error) => Ok(refused(&Chain(&error))),
    }
}

/// What was signed is judged, and lies beside.
pub(crate) async fn stage(
    node: &Arc<Node>,
    compiler: &Compiler,
    certificate: Vec<u8>,
    fence: Fence,
) -> Result<v1::StageCertificateReply, Status> {
    let refused = |why: &dyn std::fmt::Display| {
        let (refused, hint) = hint::split(&why.to_string());
        tracing::warn!(why = refused, "a certificate is refused");
        v1::StageCertificateReply { refused, hint }
    };
    let settings = match node.settings(compiler).await {
        Ok(settings) => settings,
        Err(error) => return Ok(refused(&Chain(&error))),
    };
    let staged = on_kept(node, move |node, kept| {
        is_newest(node, fence)?;
        let now_s = wall_ms() / 1000;
        let world = World { ca: &settings.localcacert, crl: &settings.hostcrl, now_s };
        Ok(kept.stage(Order { fleet: fleet(node), fence }, &certificate, &world))
    });
    match staged.await.unwrap_or_else(|| Err(ended_early()))? {
        Ok(()) => Ok(v1::StageCertificateReply::default()),
        Err(error) => Ok(refused(&Chain(&error))),
    }
}

/// It may have waited for another one.
fn is_newest(node: &Node, fence: Fence) -> Result<(), Status> {
    match node.memory().is_newest_about(SUBJECT, fence) {
        true => Ok(()),
        false => Err(Status::aborted("a newer order about the certificate came meanwhile")),
    }
}

fn ended_early() -> Status {
    Status::internal("the order ended early")
}
