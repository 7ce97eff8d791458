//! What people read of certificates.

use bunraku_proto::v1::{CertificateInfo, CertificateOf, ListCertificatesReply};

use super::super::output::{ago, hinted, or_dash, span, table};
use crate::{cli::tokens::clock_time, clock::wall_s};

/// One that ends within this is marked, in seconds.
const SOON_S: u64 = 30 * 86_400;
pub(crate) fn list_text(reply: &ListCertificatesReply) -> String {
    let heads = ["OF", "WHAT", "ENDS IN", "SERIAL", "NAMES", "WHERE"];
    let mut out = table(&heads, reply.certificates.iter().map(row), "no certificates");
    if !reply.attempts.is_empty() {
        out.push_str("\nnew ones\n");
        for attempt in &reply.attempts {
            out.push_str(&format!("  {}\n", now_line(attempt)));
        }
    }
    out
}

fn row(line: &CertificateOf) -> Vec<String> {
    let certificate = line.certificate.clone().unwrap_or_default();
    let serial = certificate.serial.get(..16).map_or(certificate.serial.clone(), |start| format!("{start}…"));
    let place = match certificate.trouble.as_str() {
        "" => or_dash(&certificate.r#where).to_owned(),
        trouble if certificate.r#where.is_empty() => trouble.to_owned(),
        trouble => format!("{}: {trouble}", certificate.r#where),
    };
    vec![
        line.of.clone(),
        certificate.what.clone(),
        ends(certificate.not_after),
        or_dash(&serial).to_owned(),
        or_dash(&certificate.dns_alt_names.join(", ")).to_owned(),
        place,
    ]
}

fn ends(at_s: u64) -> String {
    let left = at_s.saturating_sub(wall_s());
    match (at_s, left) {
        (0, _) => or_dash("").to_owned(),
        (_, 0) => "ended !".to_owned(),
        // Identities live for hours, and renew themselves.
        (_, 172_800..SOON_S) => format!("{} !", span(left)),
        _ => span(left),
    }
}

pub(crate) fn show_text(info: &CertificateInfo) -> String {
    let mut out = match &info.host {
        None => format!("{} has not said that it has a Puppet certificate\n", info.node),
        Some(host) => format!(
            "{} has certificate {}\n  for    {}\n  until  {} ({})\n",
            info.node,
            host.serial,
            or_dash(&host.dns_alt_names.join(", ")),
            clock_time(host.not_after),
            span(host.not_after.saturating_sub(wall_s()))
        ),
    };
    match info.phase.as_str() {
        "" => out.push_str(&format!("no other was asked for\nhint: bunraku cert request {}\n", info.node)),
        "done" => out.push_str(&format!(
            "the one that {} asked for {} is in service, and was seen in a handshake\n",
            info.who,
            ago(info.asked_ms)
        )),
        _ => out.push_str(&format!("{}\n", now_line(info))),
    }
    if !info.hint.is_empty() {
        out.push_str(&format!("hint: {}\n", info.hint));
    }
    out
}

/// How far the newest one has come.
pub(super) fn now_line(info: &CertificateInfo) -> String {
    let node = &info.node;
    let told = match info.phase.as_str() {
        "requesting" => format!("{node} makes a key and a request"),
        "signing" => format!("Puppet's CA signs the request of {node}"),
        "staging" => format!("the new certificate is brought to {node}"),
        "ready" => format!("the new certificate lies on {node} and waits for its rollout"),
        "installing" => {
            format!("{node} is drained and gets its new certificate (bunraku rollout show {})", info.rollout)
        }
        "failed" => format!("the certificate of {node} failed: {}", info.reason),
        "done" => format!("{node} shows its new certificate"),
        other => format!("the certificate of {node} is {other}"),
    };
    if info.trouble.is_empty() { told } else { format!("{told}: {}", hinted("  ", &info.trouble).trim_end()) }
}
