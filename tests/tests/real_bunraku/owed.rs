//! Puppet Servers that do not answer at the commit: what is owed stays owed, is told, and is done by the agent alone.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{process::wait_for, progress::Progress};
use serde_json::Value;

use crate::site::{C1, C2, SERVER_STARTS_WITHIN, Site, list, text};

pub(crate) fn server_down(site: &mut Site) -> Result<()> {
    site.ready()?;
    set_commit_deadline(site, 5)?;
    let result = behind_and_then_proven(site);
    set_commit_deadline(site, 300)?;
    result
}

fn behind_and_then_proven(site: &mut Site) -> Result<()> {
    let old = site.served_by(C1)?;
    let new = site.push()?;
    site.stack.compiler("c2")?.kill()?;
    let said = site.bunraku.ask(&["deploy", "production"])?;
    let told = told_as_behind(site, said.code, new);
    let c2 = site.stack.compiler("c2")?;
    c2.start()?;
    c2.wait_until_ready(SERVER_STARTS_WITHIN, &Progress::default())?;
    told.with_context(|| format!("the deploy ended with {}:\n{}{}", said.code, said.out, said.err))?;
    ensure!(old < new, "nothing was pushed");

    site.bunraku.wait_until_proven("production")?;
    site.ensure_served_everywhere(new)?;
    wait_for("the alarm to be gone", Duration::from_secs(60), || {
        let status = site.bunraku.json(&["status"])?;
        let alarmed = list(&status["alarms"])?.iter().any(|alarm| text(alarm).contains(C2));
        Ok((!alarmed).then_some(()))
    })
}

fn told_as_behind(site: &Site, code: i32, new: u64) -> Result<()> {
    ensure!(code == 7, "exit code {code}");
    let served = site.served_by(C1)?;
    ensure!(served == new, "c1 serves v{served}");
    let listed = site.bunraku.json(&["deploys", "list", "production", "--limit", "1"])?;
    let id = listed["deploys"][0]["id"].as_u64().context("no deploy")?;
    let shown = site.bunraku.deploy_shown(id)?;
    let node = list(&shown["nodes"])?.iter().find(|n| n["node"] == C2).context("no c2")?;
    ensure!(node["state"] == "behind" && text(&node["note"]).contains("does not answer"), "{node}");

    let log = fs::read_to_string(site.bunraku.controller_log())?;
    let staged = log.lines().find(|line| line.contains("staged node=c2") && line.contains("not rehearsed"));
    ensure!(staged.is_some(), "the stage did not note that Puppet Server was down");

    let row = site.row("production", C2)?;
    ensure!(row["proven"] == false && text(&row["state"]).contains("behind"), "{row}");
    let status = site.bunraku.tell(&["status"])?.out;
    let alarm = status.lines().find(|line| line.contains('!') && line.contains(C2));
    ensure!(alarm.is_some_and(|line| line.contains("behind")), "no alarm in:\n{status}");
    let down = |node: &Value| text(&node["puppetserver"]).starts_with("down");
    wait_for("the status to say that Puppet Server is down", Duration::from_secs(20), || {
        Ok(down(&site.node(C2)?).then_some(()))
    })
}

/// The agent on c2 dies between the swap and the flush, the controller dies too. The compilers go on serving, c2 still
/// the old code (it is cached, and whole); the next agent settles the flush with nobody to tell it.
pub(crate) fn agent_alone(site: &mut Site) -> Result<()> {
    site.ready()?;
    let old = site.served_by(C2)?;
    let new = site.push()?;
    restart_agent(site, Some("commit-swapped"))?;
    let id = site.bunraku.begin_deploy("production")?;
    site.bunraku.wait_for_crash_of_agent("c2")?;
    site.bunraku.kill_controller()?;

    let (first, second) = (site.served_by(C1)?, site.served_by(C2)?);
    ensure!(second == old, "c2 serves v{second} without a flush");
    ensure!(first == old || first == new, "c1 serves v{first}");
    ensure!(owed(site)?, "c2's agent does not remember that it owes a flush");

    site.bunraku.start_agent("c2")?;
    wait_for("the agent to settle what it owes, alone", Duration::from_secs(60), || {
        Ok((!owed(site)?).then_some(()))
    })?;
    let served = site.served_by(C2)?;
    ensure!(served == new, "c2 serves v{served} after the flush");

    site.bunraku.start_controller()?;
    let ended = site.bunraku.wait_for_end(id)?;
    ensure!(ended["phase"] == "live", "the deploy ended {}", ended["phase"]);
    site.bunraku.wait_until_proven("production")?;
    site.ensure_served_everywhere(new)
}

/// Whether the memory of c2's agent says that production's flush and proof are owed.
fn owed(site: &Site) -> Result<bool> {
    let memory = fs::read(site.bunraku.data_dir("c2").join("memory.json"))?;
    let memory: Value = serde_json::from_slice(&memory)?;
    Ok(!memory["environments"]["production"]["owed"].is_null())
}

pub(crate) fn restart_agent(site: &mut Site, crash_at: Option<&str>) -> Result<()> {
    site.bunraku.stop_agent("c2")?;
    site.bunraku.start_agent_with("c2", crash_at)?;
    site.bunraku.wait_for_nodes(&[C1.to_owned(), C2.to_owned()])
}

fn set_commit_deadline(site: &mut Site, seconds: i64) -> Result<()> {
    site.bunraku.configure_controller("deploy", "commit_deadline_s", seconds)?;
    site.bunraku.stop_controller()?;
    site.bunraku.start_controller()?;
    site.bunraku.wait_for_nodes(&[C1.to_owned(), C2.to_owned()])
}
