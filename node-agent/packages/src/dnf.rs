//! dnf and rpm, of Red Hat and its relatives.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Called, Plan,
    manager::{Change, Manager, Refusal, Simulated},
};

/// dnf on this host.
#[derive(Debug, Clone, Default)]
pub struct Dnf {
    /// Words before each command; none, but for tests.
    pub enter: Vec<String>,
}

/// How dnf ends when somebody else holds its lock.
const LOCKED: i32 = 200;

/// What dnf prints above each part of its table.
const PARTS: [(&str, Part); 7] = [
    ("Installing:", Part::New),
    ("Installing dependencies:", Part::New),
    ("Upgrading:", Part::Upgrade),
    ("Downgrading:", Part::Downgrade),
    ("Reinstalling:", Part::Upgrade),
    ("Removing:", Part::Removal),
    ("Removing dependent packages:", Part::Removal),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    New,
    Upgrade,
    Downgrade,
    Removal,
}

impl Dnf {
    fn words<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        self.enter.iter().cloned().chain(words.into_iter().map(str::to_owned)).collect()
    }

    /// dnf's own wait for its lock has no end: it is told to give up at once, before anything is changed.
    fn transaction(&self, verb: &str, files: Vec<String>) -> Vec<String> {
        let fixed = ["env", "LC_ALL=C.UTF-8", "dnf", "-y", "-q", "--setopt=install_weak_deps=False"];
        let mut words = self.words(fixed);
        words.extend(["--setopt=exit_on_lock=True", "--disablerepo=*", verb, "--"].map(str::to_owned));
        words.extend(files);
        words
    }
}

impl Manager for Dnf {
    fn is_package(&self, text: &str) -> bool {
        let fits = |c: char| c.is_ascii_alphanumeric() || "+._-".contains(c);
        (2..=200).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(fits)
    }

    /// `[EPOCH:]VERSION-RELEASE`.
    fn is_version(&self, text: &str) -> bool {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._+~^:-".contains(c);
        (1..=200).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(fits)
    }

    fn installed(&self, package: &str) -> Vec<String> {
        self.words(["rpm", "-q", "--qf", "%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n", "--", package])
    }

    fn read_installed(&self, called: &Called) -> Option<String> {
        called.is_success().then(|| called.stdout.lines().last().map(str::to_owned)).flatten()
    }

    fn audit(&self) -> Option<Vec<String>> {
        None
    }

    fn read_audit(&self, _: &Called) -> Result<(), Refusal> {
        Ok(())
    }

    fn finish(&self) -> Option<Vec<String>> {
        None
    }

    /// A version that is locked away is one that the simulation does not find.
    fn held(&self) -> Option<Vec<String>> {
        None
    }

    fn simulate(&self, package: &str, version: &str) -> Vec<String> {
        let spec = format!("{package}-{version}");
        let fixed = ["env", "LC_ALL=C.UTF-8", "dnf", "--assumeno", "--setopt=install_weak_deps=False"];
        self.words(fixed.into_iter().chain([
            "--setopt=exit_on_lock=True",
            "--allowerasing",
            "install",
            "--",
            &spec,
        ]))
    }

    /// dnf ends with 1 when it was told to assume a no.
    fn read_simulated(&self, package: &str, version: &str, called: &Called) -> Result<Simulated, Refusal> {
        let text = format!("{}{}", called.stdout, called.stderr);
        if text.contains("No match for argument") || text.contains("Unable to find a match") {
            return Err(Refusal::Missing { package: package.into(), version: version.into() });
        }
        if text.contains("Nothing to do") {
            return Ok(Simulated::default());
        }
        if !text.contains("Transaction Summary") {
            return Err(Refusal::Other(called.complaint()));
        }
        table(&called.stdout).ok_or_else(|| Refusal::Other("dnf prints an unknown table".into()))
    }

    fn download(&self, package: &str, version: &str, into: &Path) -> Vec<String> {
        let spec = format!("{package}-{version}");
        let into = format!("--destdir={}", into.display());
        self.words(["dnf", "-q", "download", &into, "--", &spec])
    }

    fn rebuild(&self, _: &str, _: &Path) -> Option<Vec<String>> {
        None
    }

    fn cache(&self) -> PathBuf {
        "/var/cache/dnf".into()
    }

    /// The epoch is not part of a file's name.
    fn file_prefix(&self, package: &str, version: &str) -> String {
        let version = version.split_once(':').map_or(version, |(_, version)| version);
        format!("{package}-{version}.")
    }

    /// With `exit_on_lock` (dnf.conf(5)).
    fn is_locked(&self, code: i32) -> bool {
        code == LOCKED
    }

    fn act(&self, plan: &Plan, _: Duration) -> Vec<String> {
        let files = plan.changes.iter().filter_map(|change| Some(change.new.as_ref()?.display().to_string()));
        self.transaction(if plan.downgrades { "downgrade" } else { "install" }, files.collect())
    }

    /// What came new stays: it served nobody before, and is in nobody's way.
    fn revert(&self, plan: &Plan, _: Duration) -> Vec<String> {
        let files = plan.changes.iter().filter_map(|change| Some(change.old.as_ref()?.display().to_string()));
        self.transaction(if plan.downgrades { "install" } else { "downgrade" }, files.collect())
    }
}

/// ` NAME ARCH VERSION REPOSITORY SIZE UNIT` below the heading of its part; a long name has a line for itself.
fn table(printed: &str) -> Option<Simulated> {
    let mut found = Simulated::default();
    let mut part = None;
    let mut row: Vec<&str> = Vec::new();
    for line in printed.lines() {
        if line.starts_with("Transaction Summary") {
            break;
        }
        if let Some((_, of)) = PARTS.iter().find(|(heading, _)| line.trim_end() == *heading) {
            part = Some(*of);
            continue;
        }
        let Some(part) = part.filter(|_| line.starts_with(' ')) else { continue };
        row.extend(line.split_whitespace());
        if row.len() < 5 {
            continue;
        }
        let (package, version) = (row.first()?.to_string(), row.get(2)?.to_string());
        row.clear();
        found.downgrades |= part == Part::Downgrade;
        found.changes.push(match part {
            // The present version is asked for apart.
            Part::New | Part::Upgrade | Part::Downgrade => Change { package, from: None, to: Some(version) },
            Part::Removal => Change { package, from: Some(version), to: None },
        });
    }
    (!found.changes.is_empty() && row.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
Dependencies resolved.
================================================================================
 Package               Arch        Version              Repository         Size
================================================================================
Upgrading:
 puppetserver          noarch      8.7.0-1.el9          puppet             90 M
 a-package-with-a-very-long-name-indeed
                       x86_64      1:2.0-1              puppet            1.0 k
Installing dependencies:
 java                  x86_64      17-1                 base               10 M

Transaction Summary
================================================================================
Install  1 Package
Upgrade  2 Packages

Operation aborted.
";

    #[test]
    fn the_table_is_read_with_names_that_have_a_line_for_themselves() {
        let called = Called { code: Some(1), stdout: PRINTED.into(), stderr: String::new() };
        let read = Dnf::default().read_simulated("puppetserver", "8.7.0-1.el9", &called).unwrap();
        let found: Vec<_> =
            read.changes.iter().map(|change| (change.package.as_str(), change.to.as_deref())).collect();
        let expected = [
            ("puppetserver", Some("8.7.0-1.el9")),
            ("a-package-with-a-very-long-name-indeed", Some("1:2.0-1")),
            ("java", Some("17-1")),
        ];
        assert_eq!(found, expected);
        assert!(!read.downgrades);
    }

    #[test]
    fn a_version_that_no_repository_has_is_named() {
        let stderr = "No match for argument: a-1\nError: Unable to find a match: a-1\n".into();
        let called = Called { code: Some(1), stdout: String::new(), stderr };
        let read = Dnf::default().read_simulated("a", "1", &called);
        assert_eq!(read, Err(Refusal::Missing { package: "a".into(), version: "1".into() }));
    }
}
