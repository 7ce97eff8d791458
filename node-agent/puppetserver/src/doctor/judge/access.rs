//! What the node agent and Puppet Server must be allowed of each other.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{Facts, Finding, Fix, RELOAD, Severity, Value, bad, ok, roots};
use crate::doctor::{
    auth::{self, Verdict},
    facts::{Blocked, Flush},
    fix::versioned_code,
};

pub(super) fn flush_rule(facts: &Facts) -> Finding {
    let check = "flush-rule";
    let certname = &facts.settings.certname;
    let legacy = roots(facts).find(|(_, root)| {
        root.get("puppet-admin").is_some_and(|admin| admin.get("client-whitelist").is_some())
    });
    let (path, verdict) = rule_for(facts, auth::CACHE);
    let (add, fix) = our_rule(&path, certname);
    let reload = "systemctl reload puppetserver";
    match (&facts.live.flush, verdict) {
        (Flush::Accepted, _) => ok(check, format!("Puppet Server accepts a flush by {certname}")),
        (Flush::Forbidden, Verdict::Allowed { rule }) => bad(
            check,
            Severity::Error,
            format!("rule \"{rule}\" in {} is not in force yet", path.display()),
            reload,
        ),
        (Flush::NotAnswered | Flush::Failed(_), Verdict::Allowed { rule }) => {
            ok(check, format!("rule \"{rule}\" in {}", path.display()))
        }
        (Flush::Failed(why), Verdict::Denied { .. } | Verdict::Unclear { .. } | Verdict::NoRule) => {
            bad(check, Severity::Error, why.as_str(), add).fixed_by(fix)
        }
        (Flush::Forbidden | Flush::NotAnswered, _) if legacy.is_some() => bad(
            check,
            Severity::Error,
            "puppet-admin.client-whitelist is set, and goes before auth.conf",
            format!("in client-whitelist (or remove it, and use auth.conf), then {RELOAD}:\n\"{certname}\""),
        ),
        (Flush::NotAnswered, Verdict::Unclear { rule }) => bad(
            check,
            Severity::Warning,
            format!("rule \"{rule}\" in {} could not be judged", path.display()),
            "start Puppet Server and look again",
        ),
        (Flush::Forbidden | Flush::NotAnswered, _) => {
            bad(check, Severity::Error, format!("{certname} may not flush the environment cache"), add)
                .fixed_by(fix)
        }
    }
}

/// Only rollouts need it, and trying would throw all interpreters away: judged by auth.conf alone. `None`: what
/// `flush-rule` says is for both.
pub(super) fn pool_rule(facts: &Facts) -> Option<Finding> {
    let check = "pool-rule";
    let certname = &facts.settings.certname;
    let (path, verdict) = rule_for(facts, auth::POOL);
    match (rule_for(facts, auth::CACHE).1, verdict) {
        (_, Verdict::Allowed { rule }) => Some(ok(check, format!("rule \"{rule}\" in {}", path.display()))),
        (Verdict::Allowed { .. }, Verdict::Unclear { rule }) => Some(bad(
            check,
            Severity::Warning,
            format!("rule \"{rule}\" in {} could not be judged", path.display()),
            "bunraku rollout start flush-pool shows whether it lets this compiler in",
        )),
        (Verdict::Allowed { .. }, Verdict::Denied { .. } | Verdict::NoRule) => {
            let found = format!("{certname} may not flush the JRuby pool, so no rollout of flush-pool can");
            let (add, fix) = our_rule(&path, certname);
            Some(bad(check, Severity::Warning, found, add).fixed_by(fix))
        }
        (Verdict::Denied { .. } | Verdict::Unclear { .. } | Verdict::NoRule, _) => None,
    }
}

/// The file that holds the rules, and what they say to a DELETE of this path.
fn rule_for(facts: &Facts, path: &str) -> (PathBuf, Verdict) {
    let default = facts.places.conf_d.join("auth.conf");
    let known = roots(facts).find(|(_, root)| root.get("authorization").is_some());
    known.map_or((default, Verdict::NoRule), |(file, root)| {
        let verdict = auth::verdict(&root, &facts.settings.certname, path);
        (file, verdict)
    })
}

fn our_rule(file: &Path, certname: &str) -> (String, Fix) {
    let add =
        format!("{}, first in the list rules, then {RELOAD}:\n{}", file.display(), auth::rule(certname));
    (add, Fix::AuthRule { file: file.into(), certname: certname.to_owned() })
}

pub(super) fn versioned_code_settings(facts: &Facts) -> Finding {
    let check = "versioned-code";
    let file = facts.places.conf_d.join("versioned-code.conf");
    let text = versioned_code(&facts.code_id, &facts.code_content);
    let section = |at: &Path, how: &str| format!("{}, {how}, then {RELOAD}:\n{}", at.display(), text.trim());
    let found: Vec<(PathBuf, Value)> =
        roots(facts).filter_map(|(path, root)| Some((path, root.get("versioned-code")?.clone()))).collect();
    let value = |name: &str| {
        found.iter().find_map(|(_, section)| section.get(name)?.text()).filter(|text| !text.is_empty())
    };
    let is = |text: Option<&str>, helper: &Path| text.is_some_and(|text| Path::new(text) == helper);
    let at = found.first().map_or(&file, |(path, _)| path).clone();
    let at = at.as_path();
    match (value("code-id-command"), value("code-content-command")) {
        (None, None) => bad(
            check,
            Severity::Warning,
            "not set: agents get no static catalogs, so a run during a deploy can mix old and new files",
            section(&file, "as a new file"),
        )
        .fixed_by(Fix::VersionedCode {
            file,
            code_id: facts.code_id.clone(),
            code_content: facts.code_content.clone(),
        }),
        (Some(_), None) | (None, Some(_)) => bad(
            check,
            Severity::Error,
            "only one of code-id-command and code-content-command is set: Puppet Server does not start so",
            section(at, "in place of versioned-code"),
        ),
        (id, content) if is(id, &facts.code_id) && is(content, &facts.code_content) => {
            ok(check, "set to Bunraku's helpers")
        }
        (Some(id), Some(_)) => bad(
            check,
            Severity::Error,
            format!("set to another program: {id}"),
            section(at, "in place of versioned-code"),
        ),
    }
}

pub(super) fn readable(facts: &Facts) -> Finding {
    let check = "permissions";
    let user = &facts.settings.user;
    match &facts.blocked {
        Err(why) => bad(
            check,
            Severity::Warning,
            why.as_str(),
            format!(
                "{}, section [main], Puppet Server's user:\nuser = puppet",
                facts.settings.config.display()
            ),
        ),
        Ok(blocked) if blocked.is_empty() => {
            ok(check, format!("user {user} can read versions and run the helpers"))
        }
        Ok(blocked) => {
            let found: Vec<String> =
                blocked.iter().map(|it| format!("{}: {}", it.path.display(), it.reason)).collect();
            bad(check, Severity::Error, found.join("; "), passable(blocked))
        }
    }
}

/// One command for each place that cannot be passed: on the way there it opens the way through, not what lies there.
fn passable(blocked: &[Blocked]) -> String {
    let commands: BTreeSet<String> = blocked
        .iter()
        .filter_map(|Blocked { path, at, .. }| {
            let at = at.as_deref()?;
            Some(format!("chmod {} {}", if at == path { "o+rx" } else { "o+x" }, at.display()))
        })
        .collect();
    if commands.is_empty() {
        return "systemctl restart bunraku-agent".to_owned();
    }
    commands.into_iter().collect::<Vec<_>>().join("\n")
}
