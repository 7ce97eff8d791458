//! kill -9 of either program, once in each phase of a deploy; every step is tried on a stand-in of Puppet Server
//! elsewhere. (An agent that is killed between swap and flush: see `owed`.)

use std::time::Duration;

use anyhow::{Result, ensure};
use bunraku_tests::process::wait_for;

use crate::site::{C1, C2, Site};

pub(crate) fn controller_building(site: &mut Site) -> Result<()> {
    site.ready()?;
    let new = site.push()?;
    let id = site.bunraku.begin_deploy("production")?;
    wait_for("the build", Duration::from_secs(60), || {
        Ok((site.bunraku.deploy_shown(id)?["phase"] == "building").then_some(()))
    })?;
    site.bunraku.kill_controller()?;
    goes_on(site, id, new)
}

pub(crate) fn controller_staging(site: &mut Site) -> Result<()> {
    controller_at(site, "after:staging-started")
}

pub(crate) fn controller_committing(site: &mut Site) -> Result<()> {
    controller_at(site, "after:commit-decided")
}

fn controller_at(site: &mut Site, place: &str) -> Result<()> {
    site.ready()?;
    let new = site.push()?;
    site.bunraku.stop_controller()?;
    site.bunraku.start_controller_with(Some(place))?;
    site.bunraku.wait_for_nodes(&[C1.to_owned(), C2.to_owned()])?;
    let id = site.bunraku.begin_deploy("production")?;
    site.bunraku.wait_for_crash_of_controller()?;
    goes_on(site, id, new)
}

/// The compilers serve what they had, all of it; a new controller ends the deploy.
fn goes_on(site: &mut Site, id: u64, new: u64) -> Result<()> {
    for host in [C1, C2] {
        let served = site.served_by(host)?;
        ensure!(served < new, "{host} serves v{served}: it was not killed in time");
    }
    site.bunraku.start_controller()?;
    ends_live(site, id, new)
}

pub(crate) fn agent_staging(site: &mut Site) -> Result<()> {
    agent_at(site, "stage-fetched")
}

pub(crate) fn agent_committing(site: &mut Site) -> Result<()> {
    agent_at(site, "commit-flushed")
}

fn agent_at(site: &mut Site, place: &str) -> Result<()> {
    site.ready()?;
    let new = site.push()?;
    crate::owed::restart_agent(site, Some(place))?;
    let id = site.bunraku.begin_deploy("production")?;
    site.bunraku.wait_for_crash_of_agent("c2")?;
    site.bunraku.start_agent("c2")?;
    ends_live(site, id, new)
}

fn ends_live(site: &Site, id: u64, new: u64) -> Result<()> {
    let ended = site.bunraku.wait_for_end(id)?;
    ensure!(ended["phase"] == "live", "the deploy ended {}: {}", ended["phase"], ended["reason"]);
    site.bunraku.wait_until_proven("production")?;
    site.ensure_served_everywhere(new)
}
