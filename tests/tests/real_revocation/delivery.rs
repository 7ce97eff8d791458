//! Delivery without proof: where it is switched off, and where no CA answers.

use std::fs;

use anyhow::{Result, ensure};
use bunraku_puppet_ca::PREFIX;
use bunraku_tests::{process::wait_for, visitor::Knocked};

use crate::site::{COMPILERS, SERVER_STARTS_WITHIN, Site, WITHIN, wait};

pub(crate) fn without_proof(site: &mut Site) -> Result<()> {
    let (name, visitor) = site.visitor()?;
    site.revoke(&name)?;
    let (number, ..) = site.stack.main.crl()?;
    for host in COMPILERS {
        wait_for("the refusal", WITHIN, || Ok((visitor.knock(host) == Knocked::Refused).then_some(())))?;
        site.until(host, "delivered, not proven")?;
    }
    let shown = site.bunraku.tell(&["crl", "status"])?.out;
    print!("{shown}");
    ensure!(shown.contains("proof is switched off ([crl] proof = false)"), "{shown}");
    ensure!(site.stack.main.crl()?.0 == number, "the CA wrote once more");
    let at_ca = wait(async { Ok(site.ca().statuses(None).await?) })?;
    let canaries: Vec<_> = at_ca.iter().filter(|known| known.name.starts_with(PREFIX)).collect();
    ensure!(canaries.is_empty(), "{canaries:?}");
    Ok(())
}

/// The newer file is made while nobody looks, and put in place when the CA is down.
pub(crate) fn without_ca(site: &mut Site) -> Result<()> {
    site.ready()?;
    let (name, visitor) = site.visitor()?;
    let file = site.stack.main.crl_file();
    let (older, beside) = (file.with_extension("older"), file.with_extension("newer"));
    site.bunraku.stop_controller()?;
    fs::copy(&file, &older)?;
    site.revoke(&name)?;
    site.stack.main.stop()?;
    fs::rename(&file, &beside)?;
    fs::rename(&older, &file)?;
    site.bunraku.start_controller()?;
    let result = without_main(
        site,
        || Ok(fs::rename(&beside, &file)?),
        || COMPILERS.iter().all(|host| visitor.knock(host) == Knocked::Refused),
    );
    if beside.exists() {
        fs::rename(&beside, &file)?;
    }
    site.stack.main.start()?;
    site.stack.main.wait_until_ready(SERVER_STARTS_WITHIN, &site.progress)?;
    result?;
    site.until_quiet()?;
    ensure!(!site.alarms()?.contains("canary"), "{}", site.alarms()?);
    Ok(())
}

fn without_main(site: &Site, place: impl Fn() -> Result<()>, refused: impl Fn() -> bool) -> Result<()> {
    for host in COMPILERS {
        site.bunraku.wait_for_nodes(&[host.to_owned()])?;
        site.until(host, "proven")?;
    }
    place()?;
    wait_for("the refusal everywhere", WITHIN, || Ok(refused().then_some(())))?;
    for host in COMPILERS {
        let row = site.until(host, "delivered, not proven")?;
        // Regression: they were those of the change before.
        let times = ["enforcement_ms", "proof_ms"].map(|key| row[key].as_u64());
        ensure!(times == [Some(0); 2], "proven of an earlier change only, and shown {times:?}");
    }
    site.until_alarm("no canary for Puppet's CRL: ")?;
    let shown = site.bunraku.tell(&["crl", "status"])?.out;
    print!("{shown}");
    ensure!(shown.contains("! no canary can be made or revoked: "), "{shown}");
    site.progress.say(site.alarms()?);
    Ok(())
}
