//! The doctor: what a compiler lacks is named with the exact line that mends it.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use bunraku_tests::process::wait_for;
use serde_json::Value;

use crate::site::{C1, C2, Site, ensure_said, list, text};

/// Adds what the compilers lack, and reloads them as the doctor asks.
pub(crate) fn mend(site: &mut Site) -> Result<()> {
    for compiler in ["c1", "c2"] {
        let said = site.bunraku.agent_command(compiler, &["doctor", "--fix"], None)?;
        ensure_said(&said, 0, &[])?;
    }
    site.reload_compilers()?;
    site.mended = true;
    Ok(())
}

/// c2 is mended by hand with the very lines that the doctor prints, c1 by `--fix`; then both are right.
pub(crate) fn mended(site: &mut Site) -> Result<()> {
    ensure!(!site.mended, "this test must be the first");
    let said = site.bunraku.ask(&["doctor"])?;
    ensure_said(&said, 1, &["NODE", "CHECK", C1, C2, "versioned-environment-dirs", "flush-rule"])?;

    let reply: Value = serde_json::from_str(&site.bunraku.ask(&["doctor", "-o", "json"])?.out)?;
    let found = list(&reply["nodes"])?.iter().find(|node| node["node"] == C2).context("no c2")?;
    let findings = list(&found["findings"])?;
    let mend_of = |check: &str| -> Result<String> {
        let finding = findings.iter().find(|f| f["check"] == check && !text(&f["mend"]).is_empty());
        Ok(text(&finding.with_context(|| format!("no finding {check}"))?["mend"]).to_owned())
    };
    for check in ["versioned-environment-dirs", "environment-timeout"] {
        paste_setting(&mend_of(check)?)?;
    }
    paste_rule(&mend_of("flush-rule")?)?;
    paste_file(&mend_of("versioned-code")?)?;
    let left = site.bunraku.agent_command("c2", &["doctor", "-o", "json"], None)?;
    let not_in_force = "is not in force yet";
    ensure_said(&left, 1, &[not_in_force])?;

    let fixed = site.bunraku.agent_command("c1", &["doctor", "--fix"], None)?;
    ensure_said(&fixed, 0, &["copy: ", "+versioned_environment_dirs = true", "due: "])?;
    site.reload_compilers()?;
    site.mended = true;
    let said = site.bunraku.ask(&["doctor"])?;
    ensure!(said.succeeded(), "after the mending:\n{}{}", said.out, said.err);
    Ok(())
}

/// `FILE, section [server], then …:`, and the setting; there may be a remark before.
fn paste_setting(mend: &str) -> Result<()> {
    let (place, setting) = mend.rsplit_once(":\n").with_context(|| mend.to_owned())?;
    let place = place.lines().last().unwrap_or_default();
    let (file, _) = place.split_once(", section [server], then ").with_context(|| mend.to_owned())?;
    insert_after(Path::new(file), "[server]\n", &format!("{setting}\n"))
}

/// `FILE, first in the list rules, then …:`, and the rule.
fn paste_rule(mend: &str) -> Result<()> {
    let (place, rule) = mend.split_once(":\n").with_context(|| mend.to_owned())?;
    let (file, _) = place.split_once(", first in the list rules, then ").with_context(|| mend.to_owned())?;
    insert_after(Path::new(file), "rules: [\n", &format!("{rule}\n"))
}

/// `FILE, as a new file, then …:`, and its content.
fn paste_file(mend: &str) -> Result<()> {
    let (place, content) = mend.split_once(":\n").with_context(|| mend.to_owned())?;
    let (file, _) = place.split_once(", as a new file, then ").with_context(|| mend.to_owned())?;
    fs::write(file, content).with_context(|| file.to_owned())
}

fn insert_after(path: &Path, place: &str, text: &str) -> Result<()> {
    let before = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let after = before.replacen(place, &format!("{place}{text}"), 1);
    ensure!(after != before, "{} has no {place}", path.display());
    fs::write(path, after).with_context(|| path.display().to_string())
}

/// A link with a relative target makes Puppet Server serve empty catalogs, without an error (measured).
pub(crate) fn relative_link(site: &mut Site) -> Result<()> {
    site.ready()?;
    let link = site.stack.compilers[1].environments().join("production");
    let target = fs::read_link(&link)?;
    let relative = Path::new("../../..").join(target.strip_prefix(site.stack.directory())?);
    ensure!(link.parent().context("a link has a parent")?.join(&relative).is_dir(), "{relative:?}");
    let temporary = link.with_file_name(".relative");
    symlink(&relative, &temporary)?;
    fs::rename(&temporary, &link)?;

    let said = site.bunraku.ask(&["doctor", C2])?;
    let named = format!("{} is a relative link to {}", link.display(), relative.display());
    let mend = format!("ln -sfn {} {}", target.display(), link.display());
    let result = ensure_said(&said, 1, &["environment-place", &named, &mend]);
    ensure_said(&site.bunraku.ask(&["heal", C2])?, 0, &[&link.display().to_string()])?;
    wait_for("the link to be absolute again", Duration::from_secs(60), || {
        Ok((fs::read_link(&link)? == target).then_some(()))
    })?;
    site.bunraku.wait_until_proven("production")?;
    result?;
    site.ensure_served_everywhere(site.version)
}
