//! Canaries: how many there are, and who has their keys.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bunraku_puppet_ca::PREFIX;
use bunraku_tests::watch::watched;

use crate::site::{Site, after, wait};

/// Longer than a canary's round, should one begin.
const QUIET: Duration = Duration::from_secs(4);

pub(crate) fn shared(site: &mut Site) -> Result<()> {
    site.ready()?;
    let ((one, _), (other, _)) = (site.visitor()?, site.visitor()?);
    let chosen = site.count("canary-chosen")?;
    let (number, revoked, _) = site.stack.main.crl()?;
    let watched = watched(&site.stack.main.crl_file(), &[], || {
        site.revoke(&one)?;
        site.revoke(&other)?;
        site.until_quiet()?;
        let (now, over) = (site.stack.main.crl()?, Instant::now() + QUIET);
        while Instant::now() < over {
            ensure!(site.stack.main.crl()? == now, "a canary's revocation started a round");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(now)
    })?;
    let (writes, apart) =
        (&watched.writes, |n: usize| Some(after(*watched.writes.get(n)?, watched.writes[0])));
    site.progress.say(format_args!(
        "the CA wrote {} times; {:?} ms, {:?} ms apart",
        writes.len(),
        apart(1),
        apart(2)
    ));
    ensure!(apart(1).is_some_and(|ms| ms < 1000), "the machine was too slow for this test");
    ensure!(writes.len() == 3, "{} writes of the CA", writes.len());
    ensure!(
        watched.done.0 == number + 3 && watched.done.1 == revoked + 3,
        "{:?} after {number}",
        watched.done
    );
    ensure!(site.count("canary-chosen")? == chosen + 1, "not one canary for both");
    Ok(())
}

/// What of a canary is where, after everything that the tests before did.
pub(crate) fn keys(site: &mut Site) -> Result<()> {
    site.ready()?;
    let dir = site.bunraku.directory().join("controller/canaries");
    ensure!(mode(&dir)? == 0o700, "{:o}", mode(&dir)?);
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir)? {
        let canary = entry?.path();
        ensure!(mode(&canary)? == 0o700 && mode(&canary.join("key.pem"))? == 0o600, "{}", canary.display());
        names.push(canary.file_name().context("a name")?.to_string_lossy().into_owned());
    }
    // Two that are ready, and the newest that was spent; the CA knows no other.
    ensure!(names.len() == 3, "{names:?}");
    let at_ca = wait(async { Ok(site.ca().statuses(None).await?) })?;
    let mut at_ca: Vec<_> =
        at_ca.into_iter().map(|status| status.name).filter(|name| name.starts_with(PREFIX)).collect();
    names.sort();
    at_ca.sort();
    ensure!(at_ca == names, "the CA has {at_ca:?}, the stock {names:?}");
    ensure_order(&site.kinds()?)?;
    let logs = ["c1", "c2", "lb"].map(|node| site.bunraku.agent_log(node));
    for log in logs.into_iter().chain([site.bunraku.controller_log()]) {
        ensure!(!fs::read_to_string(&log)?.contains("PRIVATE KEY"), "{} holds a key", log.display());
    }
    Ok(())
}

/// Each is chosen before its CRL is wanted, and that before a proof: a key leaves with an order to prove.
fn ensure_order(kinds: &[String]) -> Result<()> {
    let (mut chosen, mut revoked) = (0, 0);
    for kind in kinds {
        match kind.as_str() {
            "canary-chosen" => chosen += 1,
            "crl-wanted" if chosen > revoked => revoked = chosen,
            "crl-proven" | "crl-unproven" => ensure!(revoked > 0, "a proof before any canary was revoked"),
            _ => {}
        }
    }
    ensure!(revoked > 0 && chosen == revoked, "{chosen} were chosen");
    Ok(())
}

fn mode(path: &PathBuf) -> Result<u32> {
    Ok(fs::metadata(path).with_context(|| path.display().to_string())?.permissions().mode() & 0o777)
}
