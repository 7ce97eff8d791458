//! Rollback: a deploy of what is kept.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::site::{Site, ensure_said};

const WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn without_git(site: &mut Site) -> Result<()> {
    site.ready()?;
    let before = site.bunraku.proven_everywhere("production")?;
    let old = site.served_by(crate::site::C1)?;
    let new = site.push()?;
    site.deploy()?;
    site.ensure_served_everywhere(new)?;

    let repository = site.stack.repository.control.path().to_owned();
    let away = repository.with_extension("away");
    fs::rename(&repository, &away)?;
    let result = rolled_back(site, &before, old);
    fs::rename(&away, &repository)?;
    result?;

    let held = site.bunraku.ask(&["deploy", "production"])?;
    ensure_said(&held, 6, &["held", "bunraku release production"])?;
    site.bunraku.tell(&["release", "production"])?;
    site.deploy()?;
    site.ensure_served_everywhere(new)
}

fn rolled_back(site: &Site, before: &str, old: u64) -> Result<()> {
    let began = Instant::now();
    site.bunraku.tell(&["rollback", "production"])?;
    let took = began.elapsed();
    site.progress.say(format_args!("rolled back in {:.1} s, without git", took.as_secs_f64()));
    ensure!(took < WITHIN, "the rollback took {took:?}");
    let served = site.bunraku.proven_everywhere("production")?;
    ensure!(served == before, "{served} is served, not {before}");
    site.ensure_served_everywhere(old)?;
    // A build needs git, and says so.
    let refused = site.bunraku.ask(&["deploy", "testing"])?;
    ensure_said(&refused, 6, &["control repository could not be read"])
}
