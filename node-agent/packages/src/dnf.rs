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
    /// Where its files lie as we see them; `/`, but for tests.
    pub root: PathBuf,
}

/// How dnf ends when somebody else holds its lock.
const LOCKED: i32 = 200;

/// What dnf prints above each part of its table.
const PARTS: [(&str, Part); 9] = [
    ("Installing:", Part::New),
    ("Installing dependencies:", Part::New),
    ("Installing weak dependencies:", Part::New),
    ("Upgrading:", Part::Upgrade),
    ("Downgrading:", Part::Downgrade),
    ("Reinstalling:", Part::Upgrade),
    ("Removing:", Part::Removal),
    ("Removing dependent packages:", Part::Removal),
    ("Removing unused dependencies:", Part::Removal),
];

/// What `dnf install` cannot do beside its files: the packages of `$1` go. rpm takes these alone, or refuses; dnf would
/// take along what needs them. Whoever is cut short may do it again.
const WITHOUT: &str = r#"
came=$1
shift
[ $# -eq 0 ] || "$@" || exit
there=
for package in $came; do
    ! rpm -q --quiet -- "$package" || there="$there $package"
done
[ -z "$there" ] || exec rpm -e -- $there
"#;

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
    /// A file that is older than what is installed is a downgrade. `erasing`: of what stands in the way of the files.
    fn transaction(erasing: bool, files: &[String]) -> Vec<String> {
        let fixed = ["env", "LC_ALL=C.UTF-8", "dnf", "-y", "-q", "--setopt=install_weak_deps=False"];
        let alone = ["--setopt=exit_on_lock=True", "--disablerepo=*"];
        let erasing = erasing.then_some("--allowerasing");
        let words = fixed.into_iter().chain(alone).chain(erasing).chain(["install", "--"]);
        words.map(str::to_owned).chain(files.iter().cloned()).collect()
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

    fn locate(&self, package: &str, version: &str) -> Vec<String> {
        let spec = format!("{package}-{version}");
        self.words(["dnf", "-q", "download", "--url", "--", &spec])
    }

    fn rebuild(&self, _: &str, _: &Path) -> Option<Vec<String>> {
        None
    }

    fn rebuilds(&self) -> Option<Vec<String>> {
        None
    }

    fn cache(&self) -> PathBuf {
        Path::new("/").join(&self.root).join("var/cache/dnf")
    }

    /// `REPOSITORY-HASH/packages/FILE`
    fn cache_depth(&self) -> usize {
        2
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
        let files: Vec<String> = files(plan.changes.iter().map(|change| &change.new));
        let erasing = plan.changes.iter().any(|change| change.to.is_none());
        self.enter.iter().cloned().chain(Self::transaction(erasing, &files)).collect()
    }

    fn revert(&self, plan: &Plan, _: Duration) -> Vec<String> {
        let files: Vec<String> = files(plan.changes.iter().map(|change| &change.old));
        let came = plan.changes.iter().filter(|change| change.from.is_none());
        let came: Vec<&str> = came.map(|change| change.package.as_str()).collect();
        if came.is_empty() {
            return self.enter.iter().cloned().chain(Self::transaction(false, &files)).collect();
        }
        let mut words = self.words(["sh", "-c", WITHOUT, "sh", &came.join(" ")]);
        if !files.is_empty() {
            // What came newly may be what took the place of what went.
            words.extend(Self::transaction(true, &files));
        }
        words
    }
}

fn files<'a>(files: impl Iterator<Item = &'a Option<PathBuf>>) -> Vec<String> {
    files.flatten().map(|file| file.display().to_string()).collect()
}

/// ` NAME ARCH VERSION REPOSITORY SIZE UNIT` below the heading of its part; a long name has a line for itself. Below a
/// package stands what it takes the place of: `     replacing  NAME.ARCH VERSION`.
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
        // A part that we do not know.
        if part.is_some() && !line.starts_with(' ') && line.trim_end().ends_with(':') {
            return None;
        }
        let Some(part) = part.filter(|_| line.starts_with(' ')) else { continue };
        row.extend(line.split_whitespace());
        if let ["replacing", replaced, version] = row[..] {
            let package = replaced.rsplit_once('.').map_or(replaced, |(name, _)| name).to_owned();
            found.changes.push(Change { package, from: Some(version.to_owned()), to: None });
            row.clear();
            continue;
        }
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
    fn what_a_package_takes_the_place_of_goes_and_an_unknown_part_is_no_plan() {
        let printed = "Installing:\n openvox-server   noarch   8.7.0-1   openvox   90 M\n     replacing  puppetserver.noarch 7.9.5-1\n\n\
            Transaction Summary\n";
        let found = table(printed).unwrap().changes;
        let gone = Change { package: "puppetserver".into(), from: Some("7.9.5-1".into()), to: None };
        assert_eq!(found[1..], [gone]);
        let unknown = printed.replace("\n\n", "\nEnabling module streams:\n java  17\n\n");
        assert_eq!(table(&unknown), None);
    }

    #[test]
    fn a_version_that_no_repository_has_is_named() {
        let stderr = "No match for argument: a-1\nError: Unable to find a match: a-1\n".into();
        let called = Called { code: Some(1), stdout: String::new(), stderr };
        let read = Dnf::default().read_simulated("a", "1", &called);
        assert_eq!(read, Err(Refusal::Missing { package: "a".into(), version: "1".into() }));
    }
}
