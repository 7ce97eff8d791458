//! Revocation, by Bunraku and by Puppet's CA: within two seconds the identity has no effect (I8).

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bunraku_tests::process::wait_for;

use crate::site::{C1, C2, Site, ensure_said, text};

const WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn node(site: &mut Site) -> Result<()> {
    site.ready()?;
    let refused = refusals(site)?;
    site.bunraku.tell(&["nodes", "revoke", C2, "--reason", "stolen", "--yes"])?;
    cut_since(site, Instant::now())?;
    ensure!(text(&site.node(C2)?["standing"]).contains("revoked: stolen"), "{}", site.node(C2)?);
    stays_out(site, refused)?;
    // The Puppet certificate is as good as before, and opens no door for a barred name.
    let refused = site.bunraku.agent_command("c2", &["enroll"], None)?;
    ensure_said(&refused, 1, &["bunraku nodes allow"])?;
    // Deploys do not wait for it.
    let new = site.push()?;
    site.deploy()?;
    ensure!(site.served_by(C1)? == new && site.served_by(C2)? < new, "c2 was reached");

    site.bunraku.tell(&["nodes", "allow", C2])?;
    ensure_said(&site.bunraku.agent_command("c2", &["enroll"], None)?, 0, &["enrolled"])?;
    site.bunraku.wait_for_nodes(&[C2.to_owned()])?;
    site.bunraku.wait_until_proven("production")?;
    site.ensure_served_everywhere(new)
}

/// `puppetserver ca revoke` on the main server is all that anybody does.
pub(crate) fn puppet_certificate(site: &mut Site) -> Result<()> {
    site.ready()?;
    let refused = refusals(site)?;
    let crl = site.stack.main.crl_file();
    let before = fs::metadata(&crl)?.modified()?;
    site.stack.main.revoke(C2)?;
    ensure!(fs::metadata(&crl)?.modified()? > before, "the CRL did not change");
    cut_since(site, Instant::now())?;
    let status = site.bunraku.tell(&["status"])?.out;
    let line = status.lines().find(|line| line.contains(C2) && line.contains("must enrol again"));
    ensure!(line.is_some(), "the status does not say it:\n{status}");
    stays_out(site, refused)?;
    let refused = site.bunraku.agent_command("c2", &["enroll"], None)?;
    ensure_said(&refused, 1, &[])?;

    // An operator who trusts the host all the same has a token for it.
    let token = site.bunraku.json(&["token", "create", C2, "--role", "compiler"])?;
    let arguments = ["enroll", "--controller", text(&token["controller"]), "--pin", text(&token["pin"])];
    let arguments = [&arguments[..], &["--token-file", "-"]].concat();
    ensure_said(
        &site.bunraku.agent_command("c2", &arguments, Some(text(&token["token"])))?,
        0,
        &["enrolled"],
    )?;
    site.bunraku.wait_for_nodes(&[C2.to_owned()])?;
    refused_by_its_own_server(site)
}

/// It is connected, and no compiler any more: with the CRL its own Puppet Server refuses it, as every Puppet agent does.
fn refused_by_its_own_server(site: &Site) -> Result<()> {
    let told = "refuses the canary, and does not let this host in";
    wait_for("the status to say that c2 cannot be proven", Duration::from_secs(60), || {
        Ok(site.bunraku.tell(&["status"])?.out.contains(told).then_some(()))
    })?;
    let row = site.row("production", C2)?;
    ensure!(row["proven"] == false, "its Puppet Server was flushed with a revoked certificate: {row}");
    Ok(())
}

fn cut_since(site: &Site, since: Instant) -> Result<()> {
    wait_for("c2 to be cut off", WITHIN, || Ok((!site.bunraku.is_connected(C2)?).then_some(())))?;
    site.progress.say(format_args!("c2 was cut off {} ms after the answer", since.elapsed().as_millis()));
    Ok(())
}

/// Its agent dials again in vain, and so does a new one with the same identity.
fn stays_out(site: &mut Site, before: usize) -> Result<()> {
    wait_for_refusals(site, before + 1)?;
    site.bunraku.stop_agent("c2")?;
    site.bunraku.start_agent("c2")?;
    wait_for_refusals(site, before + 2)
}

fn wait_for_refusals(site: &Site, number: usize) -> Result<()> {
    wait_for("c2's agent to be refused", Duration::from_secs(60), || {
        ensure!(!site.bunraku.is_connected(C2)?, "a revoked node is connected");
        Ok((refusals(site)? >= number).then_some(()))
    })
}

/// How often c2's agents have said that they were refused. Each says it once.
fn refusals(site: &Site) -> Result<usize> {
    let log = site.bunraku.agent_log("c2");
    let text = fs::read_to_string(Path::new(&log)).with_context(|| log.display().to_string())?;
    Ok(text.lines().filter(|line| line.contains("fatal alert")).count())
}
