//! A compiler gets its Puppet certificate under load: asked for, compared, signed by the real CA, put in place drained,
//! and seen in a handshake. The one before is forgotten by the CA, and never revoked.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use bunraku_certificates::Crls;
use bunraku_tests::{load::under_load, stack::BALANCER_NAME};
use serde_json::Value;

use crate::{SLOW, Site, join};

const C1: &str = "c1.stack.test";
const ALIAS: &str = "c1-alias.stack.test";

/// Before anything is tried: Puppet's CA would refuse, and say less.
pub(crate) fn not_allowed(site: &mut Site) -> Result<()> {
    join(site)?;
    let conf = site.stack.main.conf_d().join("ca.conf");
    let before = fs::read_to_string(&conf)?;
    fs::write(&conf, "certificate-authority: { allow-subject-alt-names: false }\n")?;
    let refused = site.bunraku.ask(&["cert", "request", C1, "--dns-alt-names", ALIAS]);
    fs::write(&conf, before)?;
    let refused = refused?;
    ensure!(refused.code == 6, "{}{}", refused.out, refused.err);
    ensure!(refused.err.contains("allow-subject-alt-names: true"), "{}", refused.err);
    ensure!(refused.err.contains("systemctl restart puppetserver"), "{}", refused.err);
    ensure!(site.bunraku.json(&["cert", "show", C1])?["phase"] == "", "nothing was begun");
    Ok(())
}

pub(crate) fn requested(site: &mut Site) -> Result<()> {
    join(site)?;
    let old = host(site)?;
    let names = format!("{BALANCER_NAME},{ALIAS}");
    let words = ["cert", "request", C1, "--dns-alt-names", &names];
    let (counted, said) = under_load(&site.stack, SLOW, |load| {
        load.wait_until_all_are_busy()?;
        site.bunraku.tell(&words)
    })?;
    site.progress.say(said.out.trim());
    counted.report("a new certificate", &site.progress);
    ensure!(counted.failed.is_empty() && counted.runs > 0, "{:#?}", counted.failed);
    ensure!(counted.fewest >= 1, "I3: nobody was in service");
    let new = host(site)?;
    ensure!(old["serial"] != new["serial"], "it has the one before: {new}");
    let wanted = BTreeSet::from([C1, BALANCER_NAME, ALIAS]);
    ensure!(names_of(&new) == wanted, "{new}");

    let list = site.bunraku.json(&["cert", "list"])?;
    let served = line(&list, C1, "puppet server")?;
    ensure!(served["fingerprint"] == new["fingerprint"], "another is served: {served}");
    ensure!(names_of(served) == wanted, "{served}");
    for (of, what) in
        [("puppet ca", "authority"), ("main server", "host"), ("mesh ca", "authority"), (C1, "identity")]
    {
        ensure!(line(&list, of, what)?["not_after"].as_u64() > Some(0), "{of} {what}: {list}");
    }
    print!("{}", site.bunraku.tell(&["cert", "list"])?.out);

    let crls = Crls::parse(&fs::read(site.stack.main.crl_file())?)?;
    let serial = old["serial"].as_str().context("no serial")?;
    ensure!(!crls.revokes(serial), "the certificate before was revoked");
    let run = site.stack.agent("a2")?.run("production")?;
    ensure!(run.succeeded(), "an agent is not served: {}", run.output);
    Ok(())
}

/// The same names again, as a renewal asks.
pub(crate) fn renewed(site: &mut Site) -> Result<()> {
    join(site)?;
    let old = host(site)?;
    let said = site.bunraku.tell(&["cert", "request", C1])?;
    ensure!(said.out.contains("was seen in a handshake"), "{}", said.out);
    let new = host(site)?;
    ensure!(old["serial"] != new["serial"] && names_of(&old) == names_of(&new), "{old} {new}");
    let audit = site.bunraku.tell(&["audit", "list", "--limit", "100000"])?.out;
    ensure!(audit.contains("asked for a certificate of c1.stack.test"), "I12: {audit}");
    ensure!(site.bunraku.tell(&["audit", "verify"])?.succeeded(), "I12");
    site.bunraku.wait_until_in_service(&[C1, "c2.stack.test"])
}

fn host(site: &Site) -> Result<Value> {
    Ok(site.bunraku.json(&["cert", "show", C1])?["host"].clone())
}

fn names_of(certificate: &Value) -> BTreeSet<&str> {
    certificate["dns_alt_names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn line<'a>(list: &'a Value, of: &str, what: &str) -> Result<&'a Value> {
    let mut lines = list["certificates"].as_array().into_iter().flatten();
    let found = lines.find(|line| line["of"] == of && line["certificate"]["what"] == what);
    Ok(&found.with_context(|| format!("no {what} of {of} in {list}"))?["certificate"])
}
