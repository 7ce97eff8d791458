//! The first deploy: a real directory becomes a link, without a gap for those who read it and without losing a file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bunraku_tests::installed::Bunraku;

use crate::site::{COMPILERS, Site, list, text};

/// A real gap (a removal and a rename) lasts longer.
const PAUSE: Duration = Duration::from_micros(50);

/// In no commit: somebody put it on one compiler by hand.
const BY_HAND: &str = "site/by_hand/notes.txt";

/// Brings both environments under management.
pub(crate) fn adopt(site: &mut Site) -> Result<()> {
    site.bunraku.tell(&["deploy", "--all"])?;
    site.adopted = true;
    Ok(())
}

pub(crate) fn adopted(site: &mut Site) -> Result<()> {
    if !site.mended {
        crate::doctor::mend(site)?;
    }
    ensure!(!site.adopted, "this test must be the first to deploy");
    let places: Vec<PathBuf> =
        site.stack.compilers.iter().map(|c| c.environments().join("production")).collect();
    let note = places[0].join(BY_HAND);
    fs::create_dir_all(note.parent().context("a note has a directory")?)?;
    fs::write(&note, "only here\n")?;

    let stop = AtomicBool::new(false);
    let reads = thread::scope(|scope| {
        let readers: Vec<_> = places.iter().map(|place| scope.spawn(|| read_until(place, &stop))).collect();
        let deployed = adopt(site);
        stop.store(true, Ordering::Relaxed);
        let reads = readers
            .into_iter()
            .map(|reader| reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?);
        deployed.and(reads.collect::<Result<Vec<_>>>())
    })?;
    site.progress.say(format_args!("the environments were read {reads:?} times while they were adopted"));
    ensure!(reads.iter().all(|reads| *reads > 1000), "hardly read: {reads:?}");

    for (place, node) in places.iter().zip(COMPILERS) {
        let target = fs::read_link(place).with_context(|| format!("no link on {node}"))?;
        let digest = site.bunraku.proven_everywhere("production")?;
        ensure!(target.is_absolute() && target.to_string_lossy().ends_with(&digest), "{node}: {target:?}");
    }
    kept_and_named(site)
}

fn kept_and_named(site: &Site) -> Result<()> {
    let adopted = Bunraku::versions_dir(&site.stack.compilers[0]).join("adopted/production-1");
    let kept = fs::read_to_string(adopted.join(BY_HAND)).context("the file by hand is gone")?;
    ensure!(kept == "only here\n", "the file by hand was changed: {kept}");

    let listed = site.bunraku.json(&["deploys", "list", "production"])?;
    let id = listed["deploys"][0]["id"].as_u64().context("no deploy")?;
    let shown = site.bunraku.deploy_shown(id)?;
    let note = |node: &str| -> Result<String> {
        let found = list(&shown["nodes"])?.iter().find(|n| n["node"] == node);
        Ok(text(&found.context("the node is not shown")?["note"]).to_owned())
    };
    // A directory of which git has nothing is named as a whole.
    let [c1, c2] = [note(COMPILERS[0])?, note(COMPILERS[1])?];
    ensure!(c1.contains("not in git: site/"), "c1: {c1}");
    ensure!(c2.contains("nothing that is not in git"), "c2: {c2}");
    Ok(())
}

/// Looks at an environment again and again; what is missing or not whole is an error.
fn read_until(place: &Path, stop: &AtomicBool) -> Result<u64> {
    let conf = place.join("environment.conf");
    let whole = fs::read(&conf)?;
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        let found = fs::metadata(place).with_context(|| format!("read {reads}: missing"))?;
        ensure!(found.is_dir(), "read {reads}: not a directory");
        let read = fs::read(&conf).with_context(|| format!("read {reads}: no environment.conf"))?;
        ensure!(read == whole, "read {reads}: {} bytes of environment.conf", read.len());
        let manifest = fs::metadata(place.join("modules/motd/manifests/init.pp"));
        manifest.with_context(|| format!("read {reads}: no module"))?;
        reads += 1;
        // The deploy must get its share of the processors.
        thread::sleep(PAUSE);
    }
    Ok(reads)
}
