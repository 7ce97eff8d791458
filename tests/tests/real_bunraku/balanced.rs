//! I1 under load: catalogs are fetched from both compilers and through the balancer all the while, and the history of
//! what was served must be explained by one register for each compiler: never an error, never a mixture, never back.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use bunraku_common::Chain;
use bunraku_tests::stack::{Agent, BALANCER_NAME};

use crate::{
    catalog::{self, Catalog},
    site::{C1, C2, Site},
};

const PUSHES: usize = 5;

/// First to last swap, in milliseconds, on a machine that compiles all the while.
const SKEW_MS: u64 = 2000;

/// One answer to one request.
struct Seen {
    began: Instant,
    ended: Instant,
    catalog: Catalog,
    /// The file that the other compiler serves under the catalog's code id.
    fetched: String,
}

/// One deploy, as its operator saw it.
struct Deployed {
    version: u64,
    asked: Instant,
    acknowledged: Instant,
    skew_ms: u64,
}

pub(crate) fn pushes(site: &mut Site) -> Result<()> {
    site.ready()?;
    let agent = site.stack.agent("a1")?;
    // So that the first catalogs, too, name one number everywhere.
    let first = site.push()?;
    site.deploy()?;
    let (seen, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let deployed = thread::scope(|scope| {
        let load: Vec<_> = [C1, C2, BALANCER_NAME]
            .map(|host| scope.spawn(|| compile_until(&agent, host, &stop, &seen)))
            .into();
        let deployed = deploy_pushes(site);
        stop.store(true, Ordering::Relaxed);
        for thread in load {
            thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        deployed
    })?;
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    for seen in &seen {
        ensure_whole(seen, &deployed)?;
    }
    let unpinned = unpinned(&seen);
    ensure!(
        unpinned <= 2 * PUSHES,
        "{unpinned} catalogs: more than two interpreters can compile at five swaps"
    );
    ensure_history(first, &seen, &deployed)?;
    ensure!(deployed.iter().all(|d| d.skew_ms < SKEW_MS), "the compilers followed far apart");
    report(site, &seen, &deployed);
    site.ensure_served_everywhere(site.version)
}

fn deploy_pushes(site: &mut Site) -> Result<Vec<Deployed>> {
    let mut deployed = Vec::new();
    for _ in 0..PUSHES {
        let version = site.push()?;
        let asked = Instant::now();
        let deploy = site.deploy()?;
        let skew_ms = deploy["skew_ms"].as_u64().context("no skew")?;
        deployed.push(Deployed { version, asked, acknowledged: Instant::now(), skew_ms });
    }
    Ok(deployed)
}

/// A Puppet agent's requests, without pause; the file comes from the compiler that did not compile.
fn compile_until(agent: &Agent, host: &str, stop: &AtomicBool, seen: &Mutex<Vec<Seen>>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let catalog = catalog::fetch(agent, host, "production")?;
        let ended = Instant::now();
        let other = if catalog.compiler == C1 { C2 } else { C1 };
        let (status, fetched) = catalog::banner_of(agent, other, &catalog.code_id)?;
        ensure!(status == 200, "{other} answered {status} for a file of {}: {fetched}", catalog.code_id);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(Seen { began, ended, catalog, fetched });
    }
    Ok(())
}

/// Puppet pins a file in a catalog only when it lies below the live link, which it reads again at the end of the
/// compile: one that runs at the swap pins none (documented), any other pins its own version's.
fn ensure_whole(seen: &Seen, deployed: &[Deployed]) -> Result<()> {
    let catalog = &seen.catalog;
    let banner = format!("banner v{}\n", catalog.version);
    ensure!(seen.fetched == banner, "{catalog:?} is completed with the file {:?}", seen.fetched);
    match &catalog.banner {
        Some(sum) => ensure!(*sum == sha256(&banner)?, "{catalog:?} promises another version's file"),
        None => ensure!(
            deployed.iter().any(|d| seen.began < d.acknowledged && d.asked < seen.ended),
            "{catalog:?} promises no file, and nothing was deployed while it was compiled"
        ),
    }
    Ok(())
}

/// How many promise no file.
fn unpinned(seen: &[Seen]) -> usize {
    seen.iter().filter(|seen| seen.catalog.banner.is_none()).count()
}

/// Once a deploy was acknowledged no request that began later gets older code, and no compiler goes back.
fn ensure_history(first: u64, seen: &[Seen], deployed: &[Deployed]) -> Result<()> {
    for seen in seen {
        let version = seen.catalog.version;
        let least = deployed.iter().filter(|d| d.acknowledged < seen.began).map(|d| d.version).max();
        let most = deployed.iter().filter(|d| d.asked < seen.ended).map(|d| d.version).max();
        let (least, most) = (least.unwrap_or(first), most.unwrap_or(first));
        ensure!((least..=most).contains(&version), "v{version} was served, not v{least} to v{most}");
    }
    for compiler in [C1, C2] {
        let mut own: Vec<_> = seen.iter().filter(|seen| seen.catalog.compiler == compiler).collect();
        ensure!(own.len() > 5, "{compiler} compiled only {} catalogs", own.len());
        own.sort_by_key(|seen| seen.began);
        for (at, later) in own.iter().enumerate() {
            let before = own[..at].iter().filter(|earlier| earlier.ended < later.began);
            let newest = before.map(|earlier| earlier.catalog.version).max().unwrap_or(first);
            ensure!(later.catalog.version >= newest, "{compiler} went back to v{}", later.catalog.version);
        }
    }
    Ok(())
}

/// Hiera's data is read through the live name: a compile that runs at the swap may mix it (documented, so counted).
fn report(site: &Site, seen: &[Seen], deployed: &[Deployed]) {
    let mixed = seen.iter().filter(|s| s.catalog.message != format!("v{}", s.catalog.version)).count();
    let skews: Vec<u64> = deployed.iter().map(|d| d.skew_ms).collect();
    let unpinned = unpinned(seen);
    site.progress.say(format_args!(
        "{} catalogs during {PUSHES} deploys, none failed; compiled across a swap: {mixed} with the next Hiera data, {unpinned} without a pinned file; skews {skews:?} ms",
        seen.len()
    ));
}

/// In hexadecimal, as catalogs have it.
fn sha256(text: &str) -> Result<String> {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    sum.stdin.take().context("sha256sum reads")?.write_all(text.as_bytes())?;
    let told = sum.wait_with_output()?;
    let told = String::from_utf8(told.stdout).map_err(|error| anyhow::anyhow!("{}", Chain(&error)))?;
    Ok(told.split_whitespace().next().unwrap_or_default().to_owned())
}
