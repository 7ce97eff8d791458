//! Operators: what a right covers, from a host that is not the controller's.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::site::{Site, ensure_said, text};

/// Documented in docs/exit-codes.md.
const NOT_ALLOWED: i32 = 4;

pub(crate) fn rights(site: &mut Site) -> Result<()> {
    site.ready()?;
    let alice = logged_in(site, "alice", "viewer")?;
    let bob = logged_in(site, "bob", "deployer:test*")?;
    let expected: &[(&PathBuf, i32, &[&str])] = &[
        (&alice, 0, &["status"]),
        (&alice, 0, &["deploys", "list"]),
        (&alice, NOT_ALLOWED, &["deploy", "testing"]),
        (&alice, NOT_ALLOWED, &["rollback", "testing"]),
        (&alice, NOT_ALLOWED, &["nodes", "hold", "c1.stack.test", "--reason", "none"]),
        (&bob, 0, &["deploy", "testing"]),
        (&bob, 0, &["environments", "list"]),
        (&bob, NOT_ALLOWED, &["deploy", "production"]),
        (&bob, NOT_ALLOWED, &["rollback", "production"]),
        (&bob, NOT_ALLOWED, &["release", "production"]),
        (&bob, NOT_ALLOWED, &["token", "create", "x.stack.test", "--role", "compiler"]),
        (&bob, NOT_ALLOWED, &["operator", "add", "eve", "--right", "admin"]),
    ];
    for (home, code, arguments) in expected {
        let said = site.bunraku.ask_as(home, arguments, None)?;
        ensure_said(&said, *code, &[]).with_context(|| format!("{}: {arguments:?}", home.display()))?;
    }
    let all = site.bunraku.ask_as(&bob, &["deploy", "--all"], None)?;
    ensure_said(&all, 0, &["testing"])?;
    ensure!(!all.out.contains("production"), "bob deployed production:\n{}", all.out);

    site.bunraku.tell(&["operator", "revoke", "bob"])?;
    let said = site.bunraku.ask_as(&bob, &["status"], None)?;
    ensure_said(&said, NOT_ALLOWED, &[])
}

/// `operator add` on the controller's host, `login` on another one; a token works once.
fn logged_in(site: &Site, name: &str, right: &str) -> Result<PathBuf> {
    let home = site.stack.directory().join("operators").join(name);
    fs::create_dir_all(&home)?;
    let token = site.bunraku.json(&["operator", "add", name, "--right", right])?;
    let secret = token["token"].as_str().context("no token")?;
    let arguments = ["login", "--controller", text(&token["controller"]), "--pin", text(&token["pin"])];
    let arguments = [&arguments[..], &["--name", name, "--token-file", "-"]].concat();
    ensure_said(&site.bunraku.ask_as(&home, &arguments, Some(secret))?, 0, &["logged in"])?;
    let again = site.bunraku.ask_as(&home.join("again"), &arguments, Some(secret))?;
    ensure_said(&again, NOT_ALLOWED, &["token"])?;
    Ok(home)
}

pub(crate) fn audit(site: &mut Site) -> Result<()> {
    let said = site.bunraku.tell(&["audit", "verify"])?;
    site.progress.say(said.out.trim());
    Ok(())
}
