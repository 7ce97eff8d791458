//! What is pushed: two environments at once, and commits that must change nothing anywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{installed::Bunraku, process::wait_for};

use crate::site::{Site, ensure_said, list, text};

pub(crate) fn side_by_side(site: &mut Site) -> Result<()> {
    site.ready()?;
    let mut commits = BTreeMap::new();
    for environment in ["production", "testing"] {
        commits.insert(environment, site.stack.repository.set_message(environment, "side by side")?);
    }
    let reply = site.bunraku.json(&["deploy", "production", "testing", "--no-wait"])?;
    let ids = list(&reply["deploys"])?.iter().filter_map(|deploy| deploy["id"].as_u64());
    let ids: Vec<u64> = ids.collect();
    ensure!(ids.len() == 2, "two deploys were asked for: {reply}");
    wait_for("both to be under way at once", Duration::from_secs(60), || {
        let status = site.bunraku.json(&["status"])?;
        let active = list(&status["active"])?.iter().filter(|deploy| deploy["phase"] != "queued");
        Ok((active.count() == 2).then_some(()))
    })?;
    for id in &ids {
        let ended = site.bunraku.wait_for_end(*id)?;
        ensure!(ended["phase"] == "live", "deploy {id} ended {}: {}", ended["phase"], ended["reason"]);
        let commit = commits.get(text(&ended["environment"])).context("another environment")?;
        ensure!(ended["commit"] == **commit, "another commit: {ended}");
    }
    let digests: BTreeSet<String> = ["production", "testing"]
        .into_iter()
        .map(|environment| site.bunraku.proven_everywhere(environment))
        .collect::<Result<_>>()?;
    ensure!(digests.len() == 2, "two branches have one digest");
    Ok(())
}

pub(crate) fn hostile_link(site: &mut Site) -> Result<()> {
    site.ready()?;
    let path = "site/evil/files/passwd";
    site.stack.repository.add_symlink("production", path, "/etc/passwd")?;
    let result = nothing_changes(site, &[path, "exclude"]);
    site.stack.repository.control.revert("production")?;
    result
}

pub(crate) fn broken_puppetfile(site: &mut Site) -> Result<()> {
    site.ready()?;
    let control = &site.stack.repository.control;
    control.push("production", "a Puppetfile that is no Ruby", |tree| {
        let path = tree.join("Puppetfile");
        let text = fs::read_to_string(&path)? + "mod 'unfinished', git: (\n";
        fs::write(&path, text).context("could not write the Puppetfile")
    })?;
    let result = nothing_changes(site, &["Puppetfile"]);
    site.stack.repository.control.revert("production")?;
    result?;

    site.stack.repository.break_puppetfile("production")?;
    let result = nothing_changes(site, &["r10k"]).and_then(|()| {
        // What r10k says at length is kept with the deploy.
        ensure_said(&site.bunraku.ask(&["deploys", "show", &newest(site)?])?, 0, &["missing.git"])
    });
    site.stack.repository.control.revert("production")?;
    result
}

/// A deploy now fails, says these words, and leaves every compiler as it is.
fn nothing_changes(site: &Site, words: &[&str]) -> Result<()> {
    let before = on_disk(site)?;
    let digest = site.bunraku.proven_everywhere("production")?;
    let said = site.bunraku.ask(&["deploy", "production"])?;
    let shown = said.out.lines().chain(said.err.lines()).find(|line| line.contains(words[0]));
    site.progress.say(shown.unwrap_or("it says nothing").chars().take(160).collect::<String>());
    ensure_said(&said, 1, words)?;
    ensure!(on_disk(site)? == before, "something changed on a compiler");
    let served = site.bunraku.proven_everywhere("production")?;
    ensure!(served == digest, "{served} is served, not {digest}");
    site.ensure_served_everywhere(site.version)
}

/// The number of the newest deploy of production.
fn newest(site: &Site) -> Result<String> {
    let listed = site.bunraku.json(&["deploys", "list", "production", "--limit", "1"])?;
    Ok(listed["deploys"][0]["id"].as_u64().context("no deploy")?.to_string())
}

/// The live links, and the versions that the compilers keep.
fn on_disk(site: &Site) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for compiler in &site.stack.compilers {
        found.insert(fs::read_link(compiler.environments().join("production"))?);
        let versions = Bunraku::versions_dir(compiler).join("versions/production");
        for entry in fs::read_dir(&versions).with_context(|| versions.display().to_string())? {
            found.insert(entry?.path());
        }
    }
    Ok(found)
}
