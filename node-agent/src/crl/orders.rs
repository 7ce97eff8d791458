//! `InstallCrl` and `ProveCrl`.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bunraku_certificates::Certificate;
use bunraku_common::{Chain, Fence, hint, limits};
use bunraku_crl::{InstallError, Offer, authorities};
use bunraku_proto::v1;
use bunraku_puppetserver::{Canary, PuppetServer, Settings, server::IdentityError};
use tonic::Status;

use super::{kept::Crl, on_disk::on_keeper};
use crate::{
    commit::wall_ms,
    node::{Compiler, Node},
};

/// Of every order about CRLs.
pub(crate) const SUBJECT: &str = "crl";

pub(crate) fn no_crl() -> Status {
    Status::failed_precondition(
        "this node's configuration grants no file of CRLs (hint: add a [code] table or [[crl.files]] to agent.toml)",
    )
}

/// Judges, remembers and places what came. It goes on when the call is dropped.
pub(crate) async fn install(
    node: Arc<Node>,
    crls: Vec<u8>,
    fence: Fence,
    number_reset: bool,
) -> Result<v1::InstallCrlReply, Status> {
    let crl = node.crl.as_ref().ok_or_else(no_crl)?;
    let places = match crl.known_places(&node).await {
        Ok(places) => places,
        Err(why) => return Ok(refused(crl, &why)),
    };
    let installed = on_keeper(&node, move |node, keeper| {
        // It may have waited for another one.
        if !node.memory().is_newest_about(SUBJECT, fence) {
            return Err(Status::aborted("a newer order about CRLs came meanwhile"));
        }
        keeper.keep(places);
        Ok(keeper.install(&Offer { crls: &crls, fence, number_reset }, wall_ms()))
    });
    let installed = installed.await.unwrap_or_else(|| Err(Status::internal("the order ended early")))?;
    crl.debts.changed();
    match installed {
        Ok(()) => {
            let files = crl.told().0.owed.clone();
            Ok(refused(crl, &files))
        }
        Err(error @ InstallError::Refused(_)) => {
            let why = Chain(&error).to_string();
            tracing::warn!(why, "CRLs refused");
            Ok(refused(crl, &why))
        }
        Err(error @ InstallError::Copy(_)) => Ok(refused(crl, &Chain(&error).to_string())),
    }
}

/// How it is afterwards; `why` empty: all of them are in place.
fn refused(crl: &Crl, why: &str) -> v1::InstallCrlReply {
    let (refused, hint) = hint::split(why);
    v1::InstallCrlReply { crl: Some(crl.seen()), refused, hint }
}

/// Whether Puppet Server refuses the canary.
pub(crate) async fn prove(
    node: &Arc<Node>,
    compiler: &Compiler,
    certificate: &[u8],
    key: &[u8],
) -> Result<v1::ProveCrlReply, Status> {
    let crl = node.crl.as_ref().ok_or_else(no_crl)?;
    let canary = Certificate::parse(certificate)
        .map_err(|error| Status::invalid_argument(format!("the canary: {}", Chain(&error))))?;
    let _one_at_a_time = crl.proving.lock().await;
    let settings = match node.settings(compiler).await {
        Ok(settings) => settings,
        Err(error) => return Ok(owed(Chain(&error))),
    };
    if let Err(why) = is_revoked_here(node, &settings, canary).await {
        return Ok(owed(why));
    }
    let server = match node.server(&settings) {
        Ok(server) => server,
        Err(why) => return Ok(owed(why)),
    };
    let canary = match server.canary(certificate, key) {
        Ok(canary) => canary,
        Err(error @ (IdentityError::Canary(_) | IdentityError::CanaryUnusable(_))) => {
            return Err(Status::invalid_argument(Chain(&error).to_string()));
        }
        Err(
            error @ (IdentityError::Read { .. }
            | IdentityError::Pem { .. }
            | IdentityError::Unusable { .. }
            | IdentityError::NoAuthority { .. }),
        ) => return Ok(owed(Chain(&error))),
    };
    Ok(asked(&server, &canary, limits::CRL_PROOF).await)
}

async fn asked(server: &PuppetServer, canary: &Canary, limit: Duration) -> v1::ProveCrlReply {
    match server.prove_refusal(canary, limit).await {
        Ok(seen) => {
            let refused_ms = seen.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
            v1::ProveCrlReply { refused: true, refused_ms, owed: String::new() }
        }
        Err(error) => owed(Chain(&error)),
    }
}

/// A canary that would be refused for another reason, or that nothing revokes, would prove nothing.
async fn is_revoked_here(node: &Arc<Node>, settings: &Settings, canary: Certificate) -> Result<(), String> {
    let (path, ca) = (settings.hostcrl.clone(), settings.localcacert.clone());
    let judged = on_keeper(node, move |_, keeper| {
        is_good(&canary, &ca, wall_ms() / 1000)?;
        match keeper.in_place(&path)?.revokes_certificate(&canary) {
            true => Ok(()),
            false => Err(format!("the CRLs in {} do not revoke the canary", path.display())),
        }
    });
    judged.await.unwrap_or_else(|| Err("the canary could not be judged".to_owned()))
}

fn is_good(canary: &Certificate, ca: &Path, now_s: u64) -> Result<(), String> {
    let authorities = authorities(ca).map_err(|error| Chain(&error).to_string())?;
    if !canary.is_issued_by(&authorities) {
        return Err(format!("the canary is not of an authority in {}", ca.display()));
    }
    if now_s < canary.not_before_s() || now_s > canary.not_after_s() {
        return Err("the canary is not valid by this node's clock".to_owned());
    }
    Ok(())
}

fn owed(why: impl std::fmt::Display) -> v1::ProveCrlReply {
    v1::ProveCrlReply { refused: false, refused_ms: 0, owed: why.to_string() }
}
