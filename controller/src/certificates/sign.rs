//! Has Puppet's CA sign one compiler's request: the one that the node made, for the names that an operator declared.
//!
//! Can be cut at any point and begun again: each step asks the CA first how things stand. The certificate in service is
//! forgotten by the CA to make room, and never revoked: `clean`, and a revocation by name, would end the one that serves.

use std::collections::BTreeSet;

use bunraku_certificates::{AltName, SigningRequest, Wanted};
use bunraku_common::{Chain, NodeName, hint};
use bunraku_puppet_ca::{CaError, CertificateStatus, Issued, PuppetCa, State, Why};

/// What was signed.
#[derive(Debug)]
pub(crate) struct Signed {
    pub pem: String,
    /// SHA-256 of the DER, hex.
    pub fingerprint: String,
}

#[derive(Debug)]
pub(crate) enum SignError {
    /// It will not become better by itself.
    Final { reason: String, hint: String },
    /// It may.
    Trouble(String),
}

/// What an operator declared, as the judge takes it.
pub(crate) fn wanted(certname: &NodeName, declared: &BTreeSet<String>) -> Result<Wanted, SignError> {
    let names: Result<BTreeSet<AltName>, _> = declared.iter().map(|name| name.parse()).collect();
    match names {
        Ok(names) => Ok(Wanted::new(certname.clone(), names)),
        Err(error) => Err(fatal(error.to_string(), "bunraku cert request NODE --dns-alt-names …")),
    }
}

/// `known`: fingerprints of requests and certificates of this name that the CA may forget.
pub(crate) async fn sign(
    ca: &PuppetCa,
    wanted: &Wanted,
    request: &str,
    known: &BTreeSet<String>,
) -> Result<Signed, SignError> {
    let ours =
        SigningRequest::parse(request.as_bytes()).map_err(|error| fatal(Chain(&error).to_string(), ""))?;
    may_be_signed(ca, wanted)?;
    let name = &wanted.certname;
    let status = ca.status(name).await?;
    if let Some(issued) = make_room(ca, name, status, &ours, known).await? {
        return Ok(signed(&issued));
    }
    ca.submit(name, request).await?;
    let pending = ca.request(name).await?;
    let pending =
        pending.ok_or_else(|| SignError::Trouble("the request has vanished from Puppet's CA".to_owned()))?;
    if pending.fingerprint() != ours.fingerprint() {
        return Err(other_request(name));
    }
    pending.judge(wanted).map_err(|refusal| {
        fatal(format!("the request asks for something else than what was declared: {}", Chain(&refusal)), "")
    })?;
    ca.sign(name, None).await?;
    let issued = ca.certificate(name).await?;
    let issued = issued
        .ok_or_else(|| SignError::Trouble("Puppet's CA has not written the certificate yet".to_owned()))?;
    if !issued.certificate.has_key_of(&ours) {
        // Somebody replaced the request between the look at it and the signature.
        ca.revoke(name).await?;
        let reason = format!("what Puppet's CA signed for {name} has another key; it was revoked");
        return Err(fatal(
            reason,
            "set allow-duplicate-certs: false in ca.conf, and find out who asks in its name",
        ));
    }
    Ok(signed(&issued))
}

/// Asked before anything is tried: the CA would refuse, and say less.
pub(crate) fn may_be_signed(ca: &PuppetCa, wanted: &Wanted) -> Result<(), SignError> {
    let own = AltName::dns(&wanted.certname);
    if wanted.alt_names.iter().all(|name| *name == own) {
        return Ok(());
    }
    match ca.allows_subject_alt_names() {
        Ok(true) => Ok(()),
        Ok(false) => Err(fatal(
            "Puppet's CA signs no request with other names than the certname".to_owned(),
            "on the main server, in Puppet Server's conf.d/ca.conf: certificate-authority: { allow-subject-alt-names: true }, \
             then: systemctl restart puppetserver",
        )),
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "whether Puppet's CA signs other names is found out by asking it");
            Ok(())
        }
    }
}

/// Leaves the CA without anything of this name but our own request. `Some`: it has signed that already.
async fn make_room(
    ca: &PuppetCa,
    name: &NodeName,
    status: Option<CertificateStatus>,
    ours: &SigningRequest,
    known: &BTreeSet<String>,
) -> Result<Option<Issued>, SignError> {
    let Some(status) = status else { return Ok(None) };
    match status.state {
        State::Requested => {
            let Some(pending) = ca.request(name).await? else { return Ok(None) };
            let pending = pending.fingerprint();
            if pending == ours.fingerprint() {
                return Ok(None);
            }
            // What an attempt before this one left, when it failed: its key is gone.
            if !known.contains(&pending.hex()) {
                return Err(other_request(name));
            }
            ca.forget(name).await?;
            Ok(None)
        }
        State::Signed => {
            let Some(issued) = ca.certificate(name).await? else { return Ok(None) };
            if issued.certificate.has_key_of(ours) {
                return Ok(Some(issued));
            }
            if !known.contains(&issued.certificate.fingerprint().hex()) {
                let reason = format!("Puppet's CA has a certificate of {name} that {name} does not have");
                let hint = format!(
                    "find out whose it is; if {name} was installed anew: puppetserver ca clean --certname {name}"
                );
                return Err(fatal(reason, &hint));
            }
            ca.forget(name).await?;
            Ok(None)
        }
        State::Revoked => {
            let hint = format!("if {name} is to have another one: puppetserver ca clean --certname {name}");
            Err(fatal(format!("the certificate of {name} was revoked"), &hint))
        }
        State::Other => Err(fatal(
            format!("Puppet's CA says something unknown about {name}"),
            "puppetserver ca list --all",
        )),
    }
}

fn signed(issued: &Issued) -> Signed {
    Signed { pem: issued.pem.clone(), fingerprint: issued.certificate.fingerprint().hex() }
}

fn other_request(name: &NodeName) -> SignError {
    let reason = format!("a request of {name} that {name} did not make waits at Puppet's CA");
    fatal(reason, &format!("find out who made it, and remove {name}.pem from the CA's directory `requests`"))
}

fn fatal(reason: String, hint: &str) -> SignError {
    SignError::Final { reason, hint: hint.to_owned() }
}

impl From<CaError> for SignError {
    fn from(error: CaError) -> Self {
        let told = Chain(&error).to_string();
        match error.why() {
            Why::NotAllowed { .. } | Why::OtherKey { .. } | Why::Revoked { .. } => {
                let (reason, hint) = hint::split(&told);
                Self::Final { reason, hint }
            }
            Why::Identity(_)
            | Why::Unreachable { .. }
            | Why::Deadline { .. }
            | Why::Broken { .. }
            | Why::Untrusted { .. }
            | Why::OtherHost { .. }
            | Why::Strange { .. }
            | Why::NoCa { .. }
            | Why::MayNot { .. }
            | Why::NoRequest { .. }
            | Why::NoCertificate { .. }
            | Why::OtherName { .. }
            | Why::Request(_)
            | Why::Certificate(_)
            | Why::Json { .. }
            | Why::Answer { .. } => Self::Trouble(told),
        }
    }
}
