//! Judges the facts: one function a check, each pure, in the order in which a person would mend them.

use std::path::{Path, PathBuf};

use super::{
    Facts, Finding, Fix, Severity,
    auth::{self, Verdict},
    facts::{ConfigFile, EnvironmentFacts, Flush, Stands},
    fix::versioned_code,
    hocon::{self, Value},
    ini,
};
use crate::server::Status;

const WATCHER: &str =
    "puppetlabs.trapperkeeper.services.watcher.filesystem-watch-service/filesystem-watch-service";
const CA: &str = "puppetlabs.services.ca.certificate-authority-service/certificate-authority-service";

/// Certificates are dated back by five minutes: beyond that, a new one is not yet valid here.
const CLOCK_ERROR_MS: u64 = 300_000;
const CLOCK_WARNING_MS: u64 = 30_000;
const DAY: i64 = 86_400;
/// Time enough to renew by hand.
const EXPIRES_SOON: i64 = 30 * DAY;

/// Every check's findings, the ones that are well included.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        server_status(facts),
        same_settings(facts),
        versioned_environment_dirs(facts),
        environment_timeout(facts),
        flush_rule(facts),
        versioned_code_settings(facts),
        static_catalogs(facts),
        readable(facts),
        crl_path(facts),
        filesystem_watch(facts),
        infra_crl(facts),
        clock(facts),
        certificate(facts),
    ];
    for environment in &facts.environments {
        findings.push(environment_place(environment));
        findings.extend(environment_conf(environment));
    }
    findings
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, severity: Severity::Ok, found: found.into(), mend: String::new(), fix: None }
}

fn bad(
    check: &'static str,
    severity: Severity,
    found: impl Into<String>,
    mend: impl Into<String>,
) -> Finding {
    Finding { check, severity, found: found.into(), mend: mend.into(), fix: None }
}

impl Finding {
    fn fixed_by(mut self, fix: Fix) -> Self {
        self.fix = Some(fix);
        self
    }
}

fn server_status(facts: &Facts) -> Finding {
    let check = "puppet-server";
    match &facts.live.status {
        Status::Running => ok(check, "running"),
        Status::Starting => ok(check, "starting"),
        Status::Stopping => bad(check, Severity::Warning, "stopping", "look again when it has started"),
        Status::Ailing(why) => {
            bad(check, Severity::Error, why.as_str(), "look into Puppet Server's log, then restart it")
        }
        Status::Down(why) => bad(
            check,
            Severity::Warning,
            why.as_str(),
            "start it (`systemctl start puppetserver`); until then its files are judged, not what it does",
        ),
    }
}

/// Puppet Server takes some directories from its own file, and the `puppet` command does not know of that.
fn same_settings(facts: &Facts) -> Finding {
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
                let mend = format!("make the two equal: `{setting} = {own}` in [main] of puppet.conf");
                return bad(check, Severity::Error, found, mend);
            }
        }
    }
    ok(check, "puppet and Puppet Server use the same confdir and codedir")
}

fn versioned_environment_dirs(facts: &Facts) -> Finding {
    let check = "versioned-environment-dirs";
    let config = &facts.settings.config;
    match facts.settings.versioned_environment_dirs {
        Some(true) => ok(check, "on"),
        Some(false) => bad(
            check,
            Severity::Error,
            "off: a compile that runs during a deploy would mix old and new files",
            format!("{}, section [server]: versioned_environment_dirs = true", config.display()),
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

fn environment_timeout(facts: &Facts) -> Finding {
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
                    "reload Puppet Server, or remove environment_timeout from that environment.conf",
                ),
            };
        }
        "0" => "0: every compile reads all code again, which is slow; a flush has nothing to do".into(),
        other => {
            format!("{other}: interpreters forget code at different times, not only when it was deployed")
        }
    };
    let mut mend = format!("{}, section [server]: environment_timeout = unlimited", config.display());
    if !facts.others.is_empty() {
        mend += &format!(
            " (environments that Bunraku does not manage then show changes only after a flush: {})",
            facts.others.join(", ")
        );
    }
    bad(check, Severity::Warning, found, mend).fixed_by(setting(config, "environment_timeout", "unlimited"))
}

fn flush_rule(facts: &Facts) -> Finding {
    let check = "flush-rule";
    let certname = &facts.settings.certname;
    let legacy = roots(facts).find(|(_, root)| {
        root.get("puppet-admin").is_some_and(|admin| admin.get("client-whitelist").is_some())
    });
    let default = facts.places.conf_d.join("auth.conf");
    let (path, verdict) = roots(facts).find(|(_, root)| root.get("authorization").is_some()).map_or(
        (default, Verdict::NoRule),
        |(path, root)| {
            let verdict = auth::verdict(&root, certname);
            (path, verdict)
        },
    );
    let add = format!("{}, first in the list rules:\n{}", path.display(), auth::rule(certname));
    let fix = Fix::AuthRule { file: path.clone(), certname: certname.clone() };
    let reload = "reload Puppet Server (`systemctl reload puppetserver`)";
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
            format!("add \"{certname}\" to client-whitelist, or remove it and use auth.conf; then {reload}"),
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

fn versioned_code_settings(facts: &Facts) -> Finding {
    let check = "versioned-code";
    let file = facts.places.conf_d.join("versioned-code.conf");
    let text = versioned_code(&facts.code_id, &facts.code_content);
    let mend = format!("{}: {}", file.display(), text.trim());
    let found: Vec<(PathBuf, Value)> =
        roots(facts).filter_map(|(path, root)| Some((path, root.get("versioned-code")?.clone()))).collect();
    let value = |name: &str| {
        found.iter().find_map(|(_, section)| section.get(name)?.text()).filter(|text| !text.is_empty())
    };
    let is = |text: Option<&str>, helper: &Path| text.is_some_and(|text| Path::new(text) == helper);
    match (value("code-id-command"), value("code-content-command")) {
        (None, None) => bad(
            check,
            Severity::Warning,
            "not set: agents get no static catalogs, so a run during a deploy can mix old and new files",
            mend,
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
            mend,
        ),
        (id, content) if is(id, &facts.code_id) && is(content, &facts.code_content) => {
            ok(check, "set to Bunraku's helpers")
        }
        (Some(id), Some(_)) => bad(
            check,
            Severity::Error,
            format!("set to another program: {id}"),
            format!("replace it by {mend}"),
        ),
    }
}

fn static_catalogs(facts: &Facts) -> Finding {
    let check = "static-catalogs";
    if facts.settings.static_catalogs {
        return ok(check, "on");
    }
    let config = &facts.settings.config;
    bad(
        check,
        Severity::Warning,
        "off: a run that begins on one compiler and ends on another can mix old and new files",
        format!("{}, section [server]: static_catalogs = true", config.display()),
    )
    .fixed_by(setting(config, "static_catalogs", "true"))
}

fn readable(facts: &Facts) -> Finding {
    let check = "permissions";
    let user = &facts.settings.user;
    match &facts.blocked {
        Err(why) => {
            bad(check, Severity::Warning, why.as_str(), "name Puppet Server's user in puppet.conf (user)")
        }
        Ok(blocked) if blocked.is_empty() => {
            ok(check, format!("user {user} can read versions and run the helpers"))
        }
        Ok(blocked) => {
            let found: Vec<String> =
                blocked.iter().map(|it| format!("{}: {}", it.path.display(), it.reason)).collect();
            bad(
                check,
                Severity::Error,
                found.join("; "),
                format!(
                    "give user {user} (or its group) `x` on the directories and `r` or `x` on what is named"
                ),
            )
        }
    }
}

/// Without any ssl-* setting, Puppet Server takes all of them from puppet.conf; with one, it takes none.
fn crl_path(facts: &Facts) -> Finding {
    let check = "ssl-crl-path";
    for (path, root) in roots(facts) {
        let Some(webserver) = root.get("webserver") else { continue };
        let several = match webserver {
            Value::Object { fields, .. } => fields.iter().map(|(_, value)| value).collect(),
            Value::Text(_) | Value::List { .. } => Vec::new(),
        };
        for one in std::iter::once(webserver).chain(several) {
            let own = ["ssl-cert", "ssl-key", "ssl-ca-cert"].into_iter().find(|name| one.get(name).is_some());
            if let Some(own) = own
                && one.get("ssl-crl-path").is_none()
            {
                return bad(
                    check,
                    Severity::Error,
                    format!(
                        "{} sets {own} but no ssl-crl-path: revoked certificates are accepted",
                        path.display()
                    ),
                    format!(
                        "{}, section webserver: ssl-crl-path: {}",
                        path.display(),
                        facts.settings.hostcrl.display()
                    ),
                );
            }
        }
    }
    ok(check, "revocations are checked")
}

fn filesystem_watch(facts: &Facts) -> Finding {
    let check = "filesystem-watch";
    if has_service(facts, WATCHER) {
        return ok(check, "a new CRL is read without a reload");
    }
    let file = facts.places.services_d.join("ca.cfg");
    bad(
        check,
        Severity::Error,
        "the filesystem-watch-service is off: a new CRL has no effect until a restart",
        format!("{}, as a line of its own: {WATCHER}; then restart Puppet Server", file.display()),
    )
}

fn infra_crl(facts: &Facts) -> Finding {
    let check = "infra-crl";
    let on = roots(facts).find(|(_, root)| {
        root.get("certificate-authority")
            .and_then(|ca| ca.get("enable-infra-crl"))
            .is_some_and(Value::is_true)
    });
    match on {
        Some((path, _)) if has_service(facts, CA) => bad(
            check,
            Severity::Warning,
            format!(
                "enable-infra-crl is on in {}: compilers that fetch the CRL from this CA miss revoked agents",
                path.display()
            ),
            format!("{}, section certificate-authority: enable-infra-crl: false", path.display()),
        ),
        Some(_) | None => ok(check, "no separate CRL for infrastructure"),
    }
}

fn clock(facts: &Facts) -> Finding {
    let check = "clock";
    let Some(ahead) = facts.clock_ahead_ms else { return ok(check, "not compared: no controller") };
    let off = ahead.unsigned_abs();
    let direction = if ahead < 0 { "behind" } else { "ahead of" };
    let found = format!("{} s {direction} the controller's", off / 1000);
    let mend = "keep the clock right (chrony or systemd-timesyncd)";
    if off > CLOCK_ERROR_MS {
        bad(check, Severity::Error, format!("{found}: fresh certificates are refused"), mend)
    } else if off > CLOCK_WARNING_MS {
        bad(check, Severity::Warning, found, mend)
    } else {
        ok(check, found)
    }
}

fn certificate(facts: &Facts) -> Finding {
    let check = "certificate";
    let mend =
        "renew it before the day: `puppet ssl clean` and `puppet ssl bootstrap`, then reload Puppet Server";
    match &facts.certificate_left {
        Err(why) => {
            bad(check, Severity::Error, why.as_str(), "`puppet ssl bootstrap` gets one from Puppet's CA")
        }
        Ok(left) if *left <= 0 => {
            bad(check, Severity::Error, format!("expired {} days ago", -left / DAY), mend)
        }
        Ok(left) if *left < EXPIRES_SOON => {
            bad(check, Severity::Warning, format!("expires in {} days", left / DAY), mend)
        }
        Ok(left) => ok(check, format!("valid for {} days", left / DAY)),
    }
}

fn environment_place(environment: &EnvironmentFacts) -> Finding {
    let check = "environment-place";
    let name = &environment.name;
    let path = environment.path.display();
    match &environment.stands {
        Stands::Nothing => ok(check, format!("{name}: not deployed yet")),
        Stands::Managed => ok(check, format!("{name}: a link to a version")),
        Stands::Directory => bad(
            check,
            Severity::Warning,
            format!("{path} is a directory that Bunraku did not make"),
            format!(
                "the first deploy of {name} puts a link in its place and keeps the directory; stop what writes to it"
            ),
        ),
        Stands::ForeignLink(target) => bad(
            check,
            Severity::Warning,
            format!("{path} is a link to {}", target.display()),
            format!(
                "the first deploy of {name} replaces the link and leaves its target; stop what writes it"
            ),
        ),
        Stands::Other => bad(
            check,
            Severity::Error,
            format!("{path} is neither a link nor a directory"),
            format!("move {path} away"),
        ),
    }
}

fn environment_conf(environment: &EnvironmentFacts) -> Vec<Finding> {
    let Some(conf) = environment.conf.as_deref() else { return Vec::new() };
    let (name, mut findings) = (&environment.name, Vec::new());
    let place = format!("environment.conf in the control repository, branch of {name}");
    if let Some(timeout) = ini::get_plain(conf, "environment_timeout").filter(|it| *it != "unlimited") {
        findings.push(bad(
            "environment-timeout",
            Severity::Warning,
            format!("{name}: its environment.conf has environment_timeout = {timeout}"),
            format!("{place}: remove environment_timeout"),
        ));
    }
    if let Some(command) = ini::get_plain(conf, "config_version") {
        let script = environment.config_version_script.as_deref().unwrap_or_default();
        if [command, script].iter().any(|text| mentions_git(text)) {
            findings.push(bad(
                "config-version",
                Severity::Warning,
                format!("{name}: config_version = {command} asks git, and a deployed version has no .git"),
                format!("{place}: remove config_version (the code id names the version), or read .r10k-deploy.json"),
            ));
        }
    }
    findings
}

/// `git` as a word of its own, or libgit's Ruby binding.
fn mentions_git(text: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "git" || word == "rugged")
}

fn setting(file: &Path, name: &'static str, value: &'static str) -> Fix {
    Fix::Setting { file: file.into(), name, value }
}

/// The files of conf.d that can be read, with what they say.
fn roots(facts: &Facts) -> impl Iterator<Item = (PathBuf, Value)> + '_ {
    facts.conf_d.iter().filter_map(|ConfigFile { path, text }| Some((path.clone(), hocon::parse(text).ok()?)))
}

fn has_service(facts: &Facts, service: &str) -> bool {
    facts.services.iter().any(|file| file.text.lines().any(|line| line.trim() == service))
}
