//! Puppet's settings, and what Puppet Server says of itself.

use std::path::Path;

use super::{Facts, Finding, Fix, RELOAD, Severity, bad, ini, ok, roots};
use crate::server::Status;

pub(super) fn server_status(facts: &Facts) -> Finding {
    let check = "puppet-server";
    match &facts.live.status {
        Status::Running => ok(check, "running"),
        Status::Starting => ok(check, "starting"),
        Status::Stopping => bad(check, Severity::Warning, "stopping", "look again when it has started"),
        Status::Ailing(why) => bad(
            check,
            Severity::Error,
            why.as_str(),
            "look into its log, then restart it:\njournalctl -u puppetserver\nsystemctl restart puppetserver",
        ),
        Status::Down(why) => bad(
            check,
            Severity::Warning,
            why.as_str(),
            "until it runs its files are judged, not what it does:\nsystemctl start puppetserver",
        ),
    }
}

/// Puppet Server takes some directories from its own file, and the `puppet` command does not know of that.
pub(super) fn same_settings(facts: &Facts) -> Finding {
    let check = "same-settings";
    let expected = [
        (["server-conf-dir", "master-conf-dir"], &facts.settings.confdir, "confdir"),
        (["server-code-dir", "master-code-dir"], &facts.settings.codedir, "codedir"),
    ];
    for (names, puppet, setting) in expected {
        for (file, root) in roots(facts) {
            let Some(jruby) = root.get("jruby-puppet") else { continue };
            let own = names.iter().find_map(|name| Some((name, jruby.get(name)?.text()?)));
            if let Some((name, own)) = own
                && !own.contains("${")
                && Path::new(own) != puppet
            {
                let found = format!(
                    "{} has jruby-puppet.{name} = {own}, but puppet's {setting} is {}",
                    file.display(),
                    puppet.display()
                );
                // What Puppet Server serves stays as it is; only puppet.conf's own place cannot be set in puppet.conf.
                let mend = if setting == "confdir" {
                    format!(
                        "{}, section jruby-puppet, then {RELOAD}:\n{name}: \"{}\"",
                        file.display(),
                        puppet.display()
                    )
                } else {
                    line(&facts.settings.config, "main", &format!("{setting} = {own}"))
                };
                return bad(check, Severity::Error, found, mend);
            }
        }
    }
    ok(check, "puppet and Puppet Server use the same confdir and codedir")
}

pub(super) fn versioned_environment_dirs(facts: &Facts) -> Finding {
    let check = "versioned-environment-dirs";
    let config = &facts.settings.config;
    match facts.settings.versioned_environment_dirs {
        Some(true) => ok(check, "on"),
        Some(false) => bad(
            check,
            Severity::Error,
            "off: a compile that runs during a deploy would mix old and new files",
            line(config, "server", "versioned_environment_dirs = true"),
        )
        .fixed_by(setting(config, "versioned_environment_dirs", "true")),
        None => bad(
            check,
            Severity::Error,
            "this Puppet does not know the setting, so a deploy cannot be atomic",
            "upgrade puppet to 7.1 or later",
        ),
    }
}

pub(super) fn environment_timeout(facts: &Facts) -> Finding {
    let check = "environment-timeout";
    let config = &facts.settings.config;
    let configured = ini::get(&facts.puppet_conf, &ini::SERVER, "environment_timeout").unwrap_or("0");
    let found = match configured {
        "unlimited" => {
            let differs = facts.live.environments.iter().flatten().find(|(name, live)| {
                live.environment_timeout != "unlimited"
                    && facts.environments.iter().any(|environment| environment.name.as_str() == *name)
            });
            return match differs {
                None => ok(check, "unlimited"),
                Some((name, live)) => bad(
                    check,
                    Severity::Warning,
                    format!("unlimited in puppet.conf, but {name} runs with {}", live.environment_timeout),
                    "remove environment_timeout from that environment.conf, or only:\nsystemctl reload puppetserver",
                ),
            };
        }
        "0" => "0: every compile reads all code again, which is slow; a flush has nothing to do".into(),
        other => {
            format!("{other}: interpreters forget code at different times, not only when it was deployed")
        }
    };
    let mut mend = line(config, "server", "environment_timeout = unlimited");
    if !facts.others.is_empty() {
        let others = facts.others.join(", ");
        mend = format!(
            "environments that Bunraku does not manage then show changes only after a flush: {others}\n{mend}"
        );
    }
    bad(check, Severity::Warning, found, mend).fixed_by(setting(config, "environment_timeout", "unlimited"))
}

pub(super) fn static_catalogs(facts: &Facts) -> Finding {
    let check = "static-catalogs";
    if facts.settings.static_catalogs {
        return ok(check, "on");
    }
    let config = &facts.settings.config;
    bad(
        check,
        Severity::Warning,
        "off: a run that begins on one compiler and ends on another can mix old and new files",
        line(config, "server", "static_catalogs = true"),
    )
    .fixed_by(setting(config, "static_catalogs", "true"))
}

/// File and section, and below it the line to paste.
fn line(file: &Path, section: &str, line: &str) -> String {
    format!("{}, section [{section}], then {RELOAD}:\n{line}", file.display())
}

fn setting(file: &Path, name: &'static str, value: &'static str) -> Fix {
    Fix::Setting { file: file.into(), name, value }
}
