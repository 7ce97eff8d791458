//! Judges the facts: one function a check, each pure, in the order in which a person would mend them.

mod access;
pub(super) mod certificates;
mod environments;
mod settings;
#[cfg(test)]
pub(super) mod tests;

use std::path::PathBuf;

use super::{
    Facts, Finding, Fix, Severity,
    facts::ConfigFile,
    hocon::{self, Value},
    ini,
};
use access::{flush_rule, pool_rule, readable, versioned_code_settings};
use certificates::{certificate, clock, crl, crl_path, filesystem_watch, infra_crl};
use environments::{environment_conf, environment_place};
use settings::{
    environment_timeout, same_settings, server_status, static_catalogs, versioned_environment_dirs,
};

/// What is due after a change of puppet.conf or conf.d. A mend ends with what is to be pasted, on lines of its own.
const RELOAD: &str = "`systemctl reload puppetserver`";

/// Every check's findings, the ones that are well included.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        server_status(facts),
        understood(facts),
        same_settings(facts),
        versioned_environment_dirs(facts),
        environment_timeout(facts),
        flush_rule(facts),
        versioned_code_settings(facts),
        static_catalogs(facts),
        readable(facts),
        crl_path(facts),
        crl(facts),
        filesystem_watch(facts),
        infra_crl(facts),
        clock(facts),
        certificate(facts),
    ];
    findings.extend(pool_rule(facts));
    for environment in &facts.environments {
        findings.push(environment_place(environment));
        findings.extend(environment_conf(environment));
    }
    findings
}

/// What the doctor cannot read, it cannot judge: no other check may pass in silence because of it.
fn understood(facts: &Facts) -> Finding {
    let check = "configuration";
    let strange = facts.conf_d.iter().find_map(|file| Some((file, hocon::parse(&file.text).err()?)));
    match strange {
        None => ok(check, format!("{} files are understood", facts.conf_d.len())),
        Some((file, error)) => bad(
            check,
            Severity::Warning,
            format!("{} {error}: what this file says is not judged", file.path.display()),
            "look at it by hand, or write it without includes",
        ),
    }
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

/// The files of conf.d that can be read, with what they say.
fn roots(facts: &Facts) -> impl Iterator<Item = (PathBuf, Value)> + '_ {
    facts.conf_d.iter().filter_map(|ConfigFile { path, text }| Some((path.clone(), hocon::parse(text).ok()?)))
}
