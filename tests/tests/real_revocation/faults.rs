//! F21: cut in the middle, damaged, or nobody there to load it.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use bunraku_tests::{
    process::wait_for,
    progress::Progress,
    stack::BALANCER_NAME,
    visitor::{Knocked, Visitor},
    watch::watched,
};

use crate::site::{C1, C2, COMPILERS, SERVER_STARTS_WITHIN, Site, WITHIN, after};

/// Puppet Server tries a broken file for 2.6 s.
const GIVES_UP: Duration = Duration::from_secs(4);
/// Decided and nobody told; between the nodes; chosen and not revoked; revoked and proven by one, not noted.
const PLACES: [&str; 4] =
    ["after:crl-wanted", "after:crl-on-node", "after:canary-chosen", "before:crl-proven"];

/// One round, and a kill in each step of it.
pub(crate) fn controller_killed(site: &mut Site) -> Result<()> {
    site.ready()?;
    let (name, visitor) = site.visitor()?;
    let (chosen, (number, ..)) = (site.count("canary-chosen")?, site.stack.main.crl()?);
    site.bunraku.stop_controller()?;
    site.revoke(&name)?;
    for place in PLACES {
        let again = Instant::now();
        site.bunraku.start_controller_with(Some(place))?;
        site.bunraku.wait_for_crash_of_controller()?;
        site.progress.say(format_args!("killed {place}, {:.1?} after its start", again.elapsed()));
    }
    let again = Instant::now();
    site.bunraku.start_controller()?;
    site.until_quiet()?;
    site.progress.say(format_args!("all proven {:.1?} after the last start", again.elapsed()));
    for host in COMPILERS {
        ensure!(visitor.knock(host) == Knocked::Refused, "{host} lets a revoked agent in");
    }
    ensure!(site.count("canary-chosen")? == chosen + 1, "more than one canary for one change");
    let now = site.stack.main.crl()?.0;
    ensure!(now == number + 2, "the CRL went from {number} to {now}");
    Ok(())
}

pub(crate) fn agent_away(site: &mut Site) -> Result<()> {
    site.ready()?;
    let (name, visitor) = site.visitor()?;
    site.bunraku.stop_agent("c2")?;
    site.revoke(&name)?;
    site.until(C1, "proven")?;
    let behind = site.until(C2, "behind")?;
    ensure!(visitor.knock(C2) == Knocked::LetIn, "c2 has it: the test shows nothing");
    wait_for("c2 to be drained", WITHIN, || {
        Ok((site.stack.balancer.server("c2")?.status.starts_with("DRAIN")).then_some(()))
    })?;
    ensure!(behind["number"] != site.row(C1)?["number"], "{behind}");
    for _ in 0..4 {
        ensure!(visitor.knock(BALANCER_NAME) == Knocked::Refused, "the balancer leads to c2");
    }
    site.until_alarm("c2.stack.test lacks what Puppet's CA revoked")?;
    let drained = site.kinds()?.len();
    site.bunraku.start_agent("c2")?;
    site.bunraku.wait_until_in_service(&COMPILERS)?;
    ensure!(visitor.knock(C2) == Knocked::Refused, "in service, and lets a revoked agent in");
    let since = site.kinds()?.split_off(drained);
    let place = |kind: &str| since.iter().position(|known| known == kind);
    let (proven, enabled) = (place("crl-proven"), place("balance-wanted"));
    ensure!(proven.is_some() && proven < enabled, "enabled before the proof: {since:?}");
    site.until_quiet()
}

/// While agents ask without a pause. Of a file that cannot be read Puppet Server keeps what it has loaded; an empty one
/// lets nobody in until it is whole again, which is the shorter the better.
pub(crate) fn damaged(site: &mut Site) -> Result<()> {
    site.ready()?;
    let (name, revoked) = site.visitor()?;
    let (_, good) = site.visitor()?;
    site.revoke(&name)?;
    site.until_quiet()?;
    let file = site.stack.compiler("c2")?.ssldir().join("crl.pem");
    let whole = fs::read_to_string(&file)?;
    let visits: [(&str, &Visitor); 2] = [(C2, &good), (C2, &revoked)];
    for (what, damage) in
        [("garbage", "garbage\n"), ("half of it", &whole[..whole.len() / 2]), ("nothing", "")]
    {
        let watched = watched(&site.stack.main.crl_file(), &visits, || restored(&file, &whole, damage))?;
        let [good, revoked] = &watched.doors[..] else { bail!("two knock") };
        let closed = good.seen.iter().filter(|seen| seen.knocked != Knocked::LetIn);
        let closed: Vec<_> = closed.map(|seen| after(seen.ended, watched.done.0)).collect();
        site.progress.say(format_args!(
            "{what} on c2: restored after {} ms; {} of {} good connections refused, {:?} to {:?} ms after the damage",
            watched.done.1.as_millis(),
            closed.len(),
            good.seen.len(),
            closed.first(),
            closed.last()
        ));
        if !damage.is_empty() {
            good.ensure_always_open().with_context(|| what.to_owned())?;
        }
        ensure!(
            good.seen.last().is_some_and(|last| last.knocked == Knocked::LetIn),
            "{what}: it stays closed"
        );
        let entered = revoked.seen.iter().any(|seen| seen.knocked == Knocked::LetIn);
        ensure!(!entered, "{what}: a revoked agent was let in");
    }
    Ok(())
}

/// When it was damaged, and for how long; it is watched until Puppet Server has given up on what it may have met.
fn restored(file: &Path, whole: &str, damage: &str) -> Result<(SystemTime, Duration)> {
    let (at, damaged) = (SystemTime::now(), Instant::now());
    fs::write(file, damage)?;
    wait_for("c2's file to be restored", WITHIN, || {
        Ok((fs::read_to_string(file).is_ok_and(|text| text == whole)).then_some(()))
    })?;
    let restored = damaged.elapsed();
    while damaged.elapsed() < GIVES_UP {
        ensure!(fs::read_to_string(file)? == whole, "it changed once more");
        thread::sleep(Duration::from_millis(20));
    }
    Ok((at, restored))
}

pub(crate) fn server_down(site: &mut Site) -> Result<()> {
    site.ready()?;
    let (name, visitor) = site.visitor()?;
    site.stack.compiler("c2")?.kill()?;
    site.revoke(&name)?;
    let told = down(site);
    let c2 = site.stack.compiler("c2")?;
    c2.start()?;
    c2.wait_until_ready(SERVER_STARTS_WITHIN, &Progress::default())?;
    told?;
    let up = Instant::now();
    site.until(C2, "proven")?;
    site.progress.say(format_args!("c2 is proven {:.1?} after its Puppet Server runs", up.elapsed()));
    ensure!(visitor.knock(C2) == Knocked::Refused, "c2 lets a revoked agent in");
    ensure!(!site.alarms()?.contains("it is not proven"), "{}", site.alarms()?);
    site.stack.balancer.wait_until_all_up(WITHIN)
}

fn down(site: &Site) -> Result<()> {
    site.until(C1, "proven")?;
    let row = wait_for("the reason", WITHIN, || {
        let row = site.row(C2)?;
        Ok((row["note"] != "").then_some(row))
    })?;
    site.progress.say(&row["note"]);
    ensure!(row["state"] == "delivered, not proven", "{row}");
    site.until_alarm("it is not proven that c2.stack.test refuses what Puppet's CA revokes: ")
}
