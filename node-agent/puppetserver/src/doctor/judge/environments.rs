//! One environment: what stands in the way of its link, and what its environment.conf asks for.

use super::{Finding, Severity, bad, ini, ok};
use crate::doctor::facts::{EnvironmentFacts, Stands};

pub(super) fn environment_place(environment: &EnvironmentFacts) -> Finding {
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
        Stands::RelativeLink { target, version } => bad(
            check,
            Severity::Error,
            format!(
                "{path} is a relative link to {}, which Puppet Server looks up from its own working directory: it serves empty catalogs",
                target.display()
            ),
            format!("ln -sfn {} {path}", version.display()),
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
            format!("mv {path} {path}.old"),
        ),
    }
}

pub(super) fn environment_conf(environment: &EnvironmentFacts) -> Vec<Finding> {
    let Some(conf) = environment.conf.as_deref() else { return Vec::new() };
    let (name, mut findings) = (&environment.name, Vec::new());
    let place = format!("in the control repository, branch of {name}, environment.conf");
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
