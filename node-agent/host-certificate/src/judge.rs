//! What speaks against a certificate before it may lie beside: it must be exactly what was asked for.

use std::{collections::BTreeSet, fs, io, path::Path};

use bunraku_certificates::{AltName, Authorities, BUNDLE_BYTES, Certificate, Crls, SigningRequest};
use bunraku_common::Chain;

use crate::{Refused, kept::Asked};

/// What it is judged by.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// Puppet's `localcacert`.
    pub ca: &'a Path,
    /// Puppet's `hostcrl`; where there is none, nobody is revoked.
    pub crl: &'a Path,
    pub now_s: u64,
}

pub(crate) fn judge(
    certificate: &Certificate,
    request: &SigningRequest,
    asked: &Asked,
    world: &World<'_>,
) -> Result<(), Refused> {
    if certificate.is_authority() {
        return Err(Refused::Authority);
    }
    if !certificate.has_key_of(request) {
        return Err(Refused::OtherKey);
    }
    if certificate.common_name() != Some(asked.certname.as_str()) {
        let (found, wanted) = (certificate.subject().to_owned(), asked.certname.clone());
        return Err(Refused::Subject { found, wanted });
    }
    if *certificate.alt_names() != asked.alt_names {
        let (found, wanted) = (certificate.alt_names(), &asked.alt_names);
        let names = |names: BTreeSet<&AltName>| names.into_iter().cloned().collect();
        return Err(Refused::AltNames {
            missing: names(wanted.difference(found).collect()),
            foreign: names(found.difference(wanted).collect()),
        });
    }
    if !certificate.is_issued_by(&authorities(world.ca)?) {
        return Err(Refused::OtherAuthority { ca: world.ca.into() });
    }
    if world.now_s < certificate.not_before_s() {
        return Err(Refused::NotYet { in_s: certificate.not_before_s() - world.now_s });
    }
    if world.now_s > certificate.not_after_s() {
        return Err(Refused::Ended { since_s: world.now_s - certificate.not_after_s() });
    }
    is_not_revoked(certificate, world.crl)
}

fn authorities(ca: &Path) -> Result<Authorities, Refused> {
    let unusable = |why: String| Refused::NothingToJudgeBy { path: ca.into(), why };
    let bytes = bunraku_files::read(ca, BUNDLE_BYTES).map_err(|error| unusable(error.to_string()))?;
    Authorities::parse(&bytes).map_err(|error| unusable(Chain(&error).to_string()))
}

fn is_not_revoked(certificate: &Certificate, crl: &Path) -> Result<(), Refused> {
    let unusable = |why: String| Refused::NothingToJudgeBy { path: crl.into(), why };
    let bytes = match bunraku_files::read(crl, BUNDLE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(crl).is_err() => {
            return Ok(());
        }
        Err(error) => return Err(unusable(error.to_string())),
    };
    let crls = Crls::parse(&bytes).map_err(|error| unusable(Chain(&error).to_string()))?;
    match crls.revokes_certificate(certificate) {
        true => Err(Refused::Revoked { crl: crl.into() }),
        false => Ok(()),
    }
}
