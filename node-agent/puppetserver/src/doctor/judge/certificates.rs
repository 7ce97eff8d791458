//! Whether revocations are enforced, and how long certificates hold.

use super::{Facts, Finding, RELOAD, Severity, Value, bad, ok, roots};
use crate::doctor::facts::Revocations;

pub(in crate::doctor) const WATCHER: &str =
    "puppetlabs.trapperkeeper.services.watcher.filesystem-watch-service/filesystem-watch-service";
pub(in crate::doctor) const CA: &str =
    "puppetlabs.services.ca.certificate-authority-service/certificate-authority-service";

/// Certificates are dated back by five minutes: beyond that, a new one is not yet valid here.
const CLOCK_ERROR_MS: u64 = 300_000;
const CLOCK_WARNING_MS: u64 = 30_000;
pub(super) const DAY: i64 = 86_400;
/// Time enough to renew by hand.
const EXPIRES_SOON: i64 = 30 * DAY;

/// Without any ssl-* setting, Puppet Server takes all of them from puppet.conf; with one, it takes none.
pub(super) fn crl_path(facts: &Facts) -> Finding {
    let check = "ssl-crl-path";
    for (path, root) in roots(facts) {
        let Some(webserver) = root.get("webserver") else { continue };
        let several = match webserver {
            Value::Object { fields, .. } => fields.iter().map(|(_, value)| value).collect(),
            Value::Text(_) | Value::List { .. } => Vec::new(),
        };
        for one in std::iter::once(webserver).chain(several) {
            let own = ["ssl-cert", "ssl-key", "ssl-ca-cert"].into_iter().find(|name| one.get(name).is_some());
            if let Some(own) = own
                && one.get("ssl-crl-path").is_none()
            {
                return bad(
                    check,
                    Severity::Error,
                    format!(
                        "{} sets {own} but no ssl-crl-path: revoked certificates are accepted",
                        path.display()
                    ),
                    format!(
                        "{}, beside {own}, then {RELOAD}:\nssl-crl-path: \"{}\"",
                        path.display(),
                        facts.settings.hostcrl.display()
                    ),
                );
            }
        }
    }
    ok(check, "revocations are checked")
}

/// An empty CRL file refuses every client, and one that has ended refuses every client of its CA.
pub(super) fn crl(facts: &Facts) -> Finding {
    let check = "crl";
    let path = facts.settings.hostcrl.display();
    let mend =
        format!("the CA's own, which the next run fetches:\nmv {path} {path}.bad && puppet agent --test");
    match &facts.crl {
        Err(why) => bad(check, Severity::Error, why.as_str(), mend),
        Ok(Revocations { left, .. }) if *left < EXPIRES_SOON.unsigned_abs() => bad(
            check,
            Severity::Warning,
            format!("ends in {} days: then no Puppet agent is let in", left / DAY.unsigned_abs()),
            "on the CA, any revocation writes a new one; the root's is made anew with the CA:\n\
             puppetserver ca generate --certname throwaway && puppetserver ca revoke --certname throwaway",
        ),
        Ok(Revocations { left, revoked }) => {
            ok(check, format!("complete, {revoked} revoked, valid for {} days", left / DAY.unsigned_abs()))
        }
    }
}

pub(super) fn filesystem_watch(facts: &Facts) -> Finding {
    let check = "filesystem-watch";
    if has_service(facts, WATCHER) {
        return ok(check, "a new CRL is read without a reload");
    }
    let file = facts.places.services_d.join("ca.cfg");
    bad(
        check,
        Severity::Error,
        "the filesystem-watch-service is off: a new CRL has no effect until a restart",
        format!(
            "{}, as a line of its own, then `systemctl restart puppetserver`:\n{WATCHER}",
            file.display()
        ),
    )
}

pub(super) fn infra_crl(facts: &Facts) -> Finding {
    let check = "infra-crl";
    let on = roots(facts).find(|(_, root)| {
        root.get("certificate-authority")
            .and_then(|ca| ca.get("enable-infra-crl"))
            .is_some_and(Value::is_true)
    });
    match on {
        Some((path, _)) if has_service(facts, CA) => bad(
            check,
            Severity::Warning,
            format!(
                "enable-infra-crl is on in {}: compilers that fetch the CRL from this CA miss revoked agents",
                path.display()
            ),
            format!(
                "{}, section certificate-authority, then {RELOAD}:\nenable-infra-crl: false",
                path.display()
            ),
        ),
        Some(_) | None => ok(check, "no separate CRL for infrastructure"),
    }
}

pub(super) fn clock(facts: &Facts) -> Finding {
    let check = "clock";
    let Some(ahead) = facts.clock_ahead_ms else { return ok(check, "not compared: no controller") };
    let off = ahead.unsigned_abs();
    let direction = if ahead < 0 { "behind" } else { "ahead of" };
    let found = format!("{} s {direction} the controller's", off / 1000);
    let mend = "keep the clock right (chrony does it, too):\ntimedatectl set-ntp true";
    if off > CLOCK_ERROR_MS {
        bad(check, Severity::Error, format!("{found}: fresh certificates are refused"), mend)
    } else if off > CLOCK_WARNING_MS {
        bad(check, Severity::Warning, found, mend)
    } else {
        ok(check, found)
    }
}

pub(super) fn certificate(facts: &Facts) -> Finding {
    let check = "certificate";
    let certname = &facts.settings.certname;
    let in_time = format!(
        "a new one, while this one serves, on the main server: bunraku cert request {certname} --dns-alt-names …"
    );
    let mend = format!(
        "a new one: first on the CA `puppetserver ca clean --certname {certname}`, then here:\n\
         puppet ssl clean && puppet ssl bootstrap && systemctl restart puppetserver"
    );
    match &facts.certificate_left {
        Err(why) => bad(check, Severity::Error, why.as_str(), "puppet ssl bootstrap"),
        Ok(left) if *left <= 0 => {
            bad(check, Severity::Error, format!("expired {} days ago", -left / DAY), mend)
        }
        Ok(left) if *left < EXPIRES_SOON => {
            bad(check, Severity::Warning, format!("expires in {} days", left / DAY), in_time)
        }
        Ok(left) => ok(check, format!("valid for {} days", left / DAY)),
    }
}

fn has_service(facts: &Facts, service: &str) -> bool {
    facts.services.iter().any(|file| file.text.lines().any(|line| line.trim() == service))
}
