//! The host's certificate as its file has it, read again only when the file has changed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, PoisonError},
};

use bunraku_certificates::{AltName, Certificate, DOCUMENT_BYTES};
use bunraku_proto::v1;

use super::kept::{Seen, Stamp};
use crate::node::{Compiler, Node};

/// `None`: there is none, or it cannot be read.
pub(crate) async fn seen(node: &Arc<Node>, compiler: &Compiler) -> Option<v1::HostCertificate> {
    let path = node.settings(compiler).await.ok()?.hostcert;
    let node = node.clone();
    let read = tokio::task::spawn_blocking(move || {
        let stamp = stamp(&path)?;
        let mut seen = node.certificate.as_ref()?.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some(known) if known.stamp == stamp => known.certificate.clone(),
            Some(_) | None => {
                let certificate = read(&path);
                *seen = Some(Seen { stamp, certificate: certificate.clone() });
                certificate
            }
        }
    });
    read.await.ok().flatten()
}

fn read(path: &Path) -> Option<v1::HostCertificate> {
    let certificate = Certificate::parse(&bunraku_files::read(path, DOCUMENT_BYTES).ok()?).ok()?;
    Some(v1::HostCertificate {
        fingerprint: certificate.fingerprint().hex(),
        serial: certificate.serial().to_owned(),
        dns_alt_names: names(&certificate),
        not_before: certificate.not_before_s(),
        not_after: certificate.not_after_s(),
    })
}

/// DNS names as they are; others with their kind, so that none of them is taken for one.
pub(super) fn names(certificate: &Certificate) -> Vec<String> {
    let name = |name: &AltName| match name {
        AltName::Dns(name) => name.clone(),
        AltName::Ip(_) | AltName::Other(_) => name.to_string(),
    };
    certificate.alt_names().iter().map(name).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()))
}
