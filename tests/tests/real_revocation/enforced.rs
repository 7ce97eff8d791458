//! From a revocation to its refusal everywhere (I8), and what becomes of connections that were open before.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{
    load::under_load,
    process::wait_for,
    stack::BALANCER_NAME,
    visitor::{Knocked, Visit, Visitor},
    watch::{Door, Watched, watched},
};
use serde_json::Value;

use crate::site::{C1, C2, COMPILERS, DOORS, Site, WITHIN, after};

/// Goals are a second until refused and three until proven, on a quiet machine; a test is no benchmark.
const REFUSED_WITHIN_MS: u128 = 20_000;
const PROVEN_WITHIN_MS: u64 = 40_000;
/// Puppet Server closes an idle connection after 30 s.
const IDLE_ENDS_WITHIN: Duration = Duration::from_secs(60);

/// A certificate made by Puppet's own tools, and revoked by them.
pub(crate) fn agent(site: &mut Site) -> Result<()> {
    site.ready()?;
    let agent = site.stack.agent("a3")?;
    let certname = agent.certname();
    let visitor = Visitor::from_ssldir(&agent.ssldir(), &certname)?;
    ensure!(agent.run("production")?.succeeded(), "the agent is no agent");
    let visits = DOORS.map(|host| (host, &visitor));
    let (counted, watched) = under_load(&site.stack, 0, |_| {
        watched(&site.stack.main.crl_file(), &visits, || {
            let began = Instant::now();
            site.stack.main.revoke(&certname)?;
            site.progress.say(format_args!("`puppetserver ca revoke` took {:.1?}", began.elapsed()));
            site.until_proven()
        })
    })?;
    let written = report(site, &watched)?;
    let changed = watched.done["changed_ms"].as_u64().map(u128::from);
    ensure!(changed == Some(after(written, std::time::UNIX_EPOCH)), "another write: {}", watched.done);
    counted.report("meanwhile", &site.progress);
    ensure!(counted.failed.is_empty() && !counted.answered.is_empty(), "{:#?}", counted.failed);
    let run = agent.run("production")?;
    ensure!(run.exit == 1, "a revoked agent ended with {}: {}", run.exit, run.output);
    Ok(())
}

/// Prints the times, and bounds them; when the CA wrote the revocation.
fn report(site: &Site, watched: &Watched<Value>) -> Result<std::time::SystemTime> {
    let written = *watched.writes.first().context("the CA wrote nothing")?;
    let closed = |door: &Door| Ok::<_, anyhow::Error>(after(door.closed_at()?, written));
    let mut last = written;
    for door in &watched.doors {
        let refused = closed(door)?;
        site.progress.say(format_args!("{}: refused {refused} ms after the CA wrote it", door.host));
        ensure!(refused < REFUSED_WITHIN_MS, "{} took {refused} ms", door.host);
        last = last.max(door.closed_at()?);
    }
    for door in &watched.doors {
        // The balancer is as closed as the last compiler.
        let since = if door.host == BALANCER_NAME { last } else { door.closed_at()? };
        door.ensure_open_until_closed(since)?;
    }
    for row in watched.done["nodes"].as_array().into_iter().flatten() {
        let ms = |key: &str| row[key].as_u64().unwrap_or_default();
        let [delivered, enforced, proven] = ["delivery_ms", "enforcement_ms", "proof_ms"].map(ms);
        site.progress.say(format_args!(
            "{}: canary refused {enforced} ms, proven {proven} ms after it; its CRL came {delivered} ms after",
            row["node"]
        ));
        ensure!((1..PROVEN_WITHIN_MS).contains(&proven) && enforced <= proven, "{row}");
    }
    print!("{}", site.bunraku.tell(&["crl", "status"])?.out);
    Ok(written)
}

pub(crate) fn open_before(site: &mut Site) -> Result<()> {
    site.ready()?;
    let (name, visitor) = site.visitor()?;
    let mut open = DOORS.map(|host| (host, visitor.visit(host)));
    let mut cut = visitor.visit(C1)?;
    site.revoke(&name)?;
    for host in COMPILERS {
        wait_for("the refusal", WITHIN, || Ok((visitor.knock(host) == Knocked::Refused).then_some(())))?;
    }
    site.until_proven()?;
    for (host, visit) in &mut open {
        let visit = visit.as_mut().map_err(|error| anyhow::anyhow!("{host}: {error:#}"))?;
        visit.ask().with_context(|| format!("{host} ended what was open"))?;
    }
    cut.ask()?;
    let servers = site.stack.balancer.servers()?;
    let sessions: u64 = servers.iter().map(|server| server.current_sessions).sum();
    ensure!(sessions >= 1, "HAProxy cut the session: {servers:?}");
    site.progress.say("proven, and open connections are answered still");
    for (host, visit) in open {
        let visit = visit?;
        site.open.push((host.to_owned(), thread::spawn(move || ends(visit))));
    }
    Ok(())
}

fn ends(visit: Visit) -> Result<Duration> {
    let answered = Instant::now();
    visit.wait_for_end(IDLE_ENDS_WITHIN)?;
    Ok(answered.elapsed())
}

pub(crate) fn idle(site: &mut Site) -> Result<()> {
    if site.open.is_empty() {
        open_before(site)?;
    }
    for (host, thread) in site.open.drain(..) {
        let idle = thread.join().map_err(|_| anyhow::anyhow!("waiting panicked"))??;
        site.progress.say(format_args!("{host}: an idle connection ended after {:.0} s", idle.as_secs_f64()));
    }
    // What a person does who cannot wait: it ends at the balancer.
    let (_, visitor) = site.visitor()?;
    let through = visitor.visit(BALANCER_NAME)?;
    for compiler in ["c1", "c2"] {
        site.stack.balancer.command(&format!("shutdown sessions server compilers/{compiler}"))?;
    }
    through.wait_for_end(Duration::from_secs(10)).context("closed at HAProxy")?;
    ensure!(visitor.knock(C2) == Knocked::LetIn, "nobody revoked it");
    Ok(())
}
