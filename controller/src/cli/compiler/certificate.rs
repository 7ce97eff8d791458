//! Step 3: its Puppet certificate carries the names that agents dial. Puppet Server is started when it is put in place.

use bunraku_proto::v1::{AskCertificateRequest, CertificateInfo, ShowCertificateRequest};

use super::told::Step;
use crate::{
    cli::{Failure, cert::look, waiting::Waiting},
    clock::wall_s,
};

const STEP: &str = "certificate";

pub(super) fn left() -> Step {
    Step::skipped(STEP, "left as it is (--no-certificate)")
}

/// With whether Puppet Server was restarted for it.
pub(super) async fn certify(waiting: &mut Waiting, names: &[String]) -> Result<(Step, bool), Failure> {
    let node = waiting.node.clone();
    let request = ShowCertificateRequest { node: node.clone() };
    let known = waiting.client.show_certificate(request).await?.into_inner();
    if suits(&known, names) && !is_open(&known) {
        return Ok((Step::already(STEP, named(&known)), false));
    }
    let request = AskCertificateRequest { node: node.clone(), dns_alt_names: names.to_vec() };
    waiting.client.ask_certificate(request).await?;
    let done = waiting.until(look).await?;
    Ok((Step::done(STEP, named(&done)), true))
}

fn is_open(info: &CertificateInfo) -> bool {
    !matches!(info.phase.as_str(), "" | "done" | "failed")
}

/// Whether what the host has now holds, and carries every name that is wanted.
fn suits(info: &CertificateInfo, names: &[String]) -> bool {
    let Some(host) = info.host.as_ref().filter(|host| host.not_after > wall_s() && !info.host_revoked) else {
        return false;
    };
    let plain = |name: &String| name.trim_start_matches("DNS:").to_owned();
    let carried: Vec<String> = host.dns_alt_names.iter().map(plain).collect();
    let wanted = if names.is_empty() { &info.declared } else { names };
    wanted.iter().map(plain).all(|name| name == info.node || carried.contains(&name))
}

fn named(info: &CertificateInfo) -> String {
    let Some(host) = &info.host else { return "in service".to_owned() };
    let names: Vec<&str> = host.dns_alt_names.iter().map(|name| name.trim_start_matches("DNS:")).collect();
    match names.is_empty() {
        true => format!("serial {}, without other names", host.serial),
        false => format!("serial {}, for {}", host.serial, names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use bunraku_proto::v1::HostCertificate;

    use super::*;

    fn info(names: &[&str], declared: &[&str]) -> CertificateInfo {
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let host = HostCertificate {
            dns_alt_names: text(names),
            not_after: wall_s() + 1000,
            ..HostCertificate::default()
        };
        CertificateInfo {
            node: "c3".into(),
            declared: text(declared),
            host: Some(host),
            ..Default::default()
        }
    }

    #[test]
    fn a_certificate_suits_when_it_holds_and_carries_every_name() {
        let wanted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let known = info(&["DNS:puppet", "c3"], &["DNS:puppet"]);
        assert!(suits(&known, &[]) && suits(&known, &wanted(&["puppet", "c3"])));
        assert!(!suits(&known, &wanted(&["puppet", "puppet.example"])));
        assert!(!suits(&info(&[], &["DNS:puppet"]), &[]));
        assert!(!suits(&CertificateInfo { host: None, ..known.clone() }, &[]));
        assert!(!suits(&CertificateInfo { host_revoked: true, ..known.clone() }, &[]));
        let mut ended = known;
        ended.host.as_mut().unwrap().not_after = wall_s() - 1;
        assert!(!suits(&ended, &[]));
    }
}
