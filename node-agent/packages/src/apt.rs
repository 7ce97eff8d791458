//! apt and dpkg, of Debian and Ubuntu.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Called, Plan,
    manager::{Change, Manager, Refusal, Simulated},
};

/// apt on this host.
#[derive(Debug, Clone, Default)]
pub struct Apt {
    /// Words before each command; none, but for tests in a root of their own.
    pub enter: Vec<String>,
    /// Where its files lie as we see them; `/`, but for tests.
    pub root: PathBuf,
}

/// Nobody is asked, no configuration file of the site's is replaced, and nothing that is only recommended is added.
const ENVIRONMENT: [&str; 6] = [
    "env",
    "LC_ALL=C.UTF-8",
    "DEBIAN_FRONTEND=noninteractive",
    "APT_LISTCHANGES_FRONTEND=none",
    "NEEDRESTART_SUSPEND=1",
    "DEBIAN_PRIORITY=critical",
];
const FIXED: [&str; 5] =
    ["-y", "-q", "--no-install-recommends", "-oAPT::Sandbox::User=root", "-oDpkg::Use-Pty=0"];

/// Without repositories, and without spoiling apt's cache of them.
const ALONE: [&str; 4] = [
    "-oDir::Etc::sourcelist=/dev/null",
    "-oDir::Etc::sourceparts=/dev/null",
    "-oDir::Cache::pkgcache=",
    "-oDir::Cache::srcpkgcache=",
];

impl Apt {
    fn words<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        self.enter.iter().cloned().chain(words.into_iter().map(str::to_owned)).collect()
    }

    fn transaction(&self, specs: Vec<String>, downgrades: bool, lock: Duration) -> Vec<String> {
        let mut words = self.words(ENVIRONMENT.into_iter().chain(["apt-get"]).chain(FIXED));
        words
            .extend(["-oDpkg::Options::=--force-confdef".into(), "-oDpkg::Options::=--force-confold".into()]);
        words.push(format!("-oDPkg::Lock::Timeout={}", lock.as_secs()));
        // What was planned is what is done: apt knows no repository (`--no-download` refuses files by path).
        words.extend(ALONE.map(str::to_owned));
        if downgrades {
            words.push("--allow-downgrades".into());
        }
        words.extend(["install".into(), "--".into()]);
        words.extend(specs);
        words
    }
}

impl Manager for Apt {
    fn is_package(&self, text: &str) -> bool {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-".contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        (2..=200).contains(&text.len()) && begins && text.chars().all(fits)
    }

    fn is_version(&self, text: &str) -> bool {
        let fits = |c: char| c.is_ascii_alphanumeric() || ".+~:-".contains(c);
        (1..=200).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(fits)
    }

    fn installed(&self, package: &str) -> Vec<String> {
        self.words(["dpkg-query", "-W", "-f", "${db:Status-Status}\t${Version}\n", "--", package])
    }

    fn read_installed(&self, called: &Called) -> Option<String> {
        let states = called.stdout.lines().filter_map(|line| line.split_once('\t'));
        let mut installed =
            states.filter(|(state, _)| *state == "installed").map(|(_, version)| version.to_owned());
        installed.next_back()
    }

    fn audit(&self) -> Option<Vec<String>> {
        Some(self.words(["dpkg", "--audit"]))
    }

    /// dpkg prints packages below explanations, each as ` NAME  DESCRIPTION`.
    fn read_audit(&self, called: &Called) -> Result<(), Refusal> {
        let lines = called.stdout.lines().filter_map(|line| line.strip_prefix(' '));
        let broken: Vec<&str> = lines.filter_map(|line| line.split_whitespace().next()).collect();
        match broken.is_empty() {
            true => Ok(()),
            false => Err(Refusal::HalfConfigured(broken.join(", "))),
        }
    }

    fn finish(&self) -> Option<Vec<String>> {
        let words = ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"];
        Some(self.words(ENVIRONMENT.into_iter().chain(words)))
    }

    fn held(&self) -> Option<Vec<String>> {
        Some(self.words(["apt-mark", "showhold"]))
    }

    /// Held packages and downgrades are judged by us, with their names.
    fn simulate(&self, package: &str, version: &str) -> Vec<String> {
        let mut words = self.words(ENVIRONMENT.into_iter().chain(["apt-get", "-s"]).chain(FIXED));
        words.extend(
            ["--allow-downgrades", "--allow-change-held-packages", "install", "--"].map(str::to_owned),
        );
        words.push(format!("{package}={version}"));
        words
    }

    fn read_simulated(&self, package: &str, version: &str, called: &Called) -> Result<Simulated, Refusal> {
        if !called.is_success() {
            let text = &called.stderr;
            if text.contains("was not found") || text.contains("Unable to locate package") {
                return Err(Refusal::Missing { package: package.into(), version: version.into() });
            }
            return Err(Refusal::Other(called.complaint()));
        }
        let changes: Option<Vec<Change>> = called
            .stdout
            .lines()
            .filter(|line| {
                line.starts_with("Inst ") || line.starts_with("Remv ") || line.starts_with("Purg ")
            })
            .map(change)
            .collect();
        let changes = changes.ok_or_else(|| Refusal::Other("apt-get -s prints unknown lines".into()))?;
        Ok(Simulated { changes, downgrades: called.stdout.contains("will be DOWNGRADED") })
    }

    fn download(&self, package: &str, version: &str, into: &Path) -> Vec<String> {
        let spec = format!("{package}={version}");
        let chdir = format!("--chdir={}", into.display());
        self.words(["env", &chdir, "apt-get", "-q", "-oAPT::Sandbox::User=root", "download", "--", &spec])
    }

    fn locate(&self, package: &str, version: &str) -> Vec<String> {
        let spec = format!("{package}={version}");
        self.words(["apt-get", "-q", "-oAPT::Sandbox::User=root", "--print-uris", "download", "--", &spec])
    }

    fn rebuild(&self, package: &str, into: &Path) -> Option<Vec<String>> {
        let chdir = format!("--chdir={}", into.display());
        Some(self.words(["env", &chdir, "dpkg-repack", package]))
    }

    fn rebuilds(&self) -> Option<Vec<String>> {
        Some(self.words(["test", "-x", "/usr/bin/dpkg-repack"]))
    }

    fn cache(&self) -> PathBuf {
        Path::new("/").join(&self.root).join("var/cache/apt/archives")
    }

    /// Below it lies what was not fetched to its end.
    fn cache_depth(&self) -> usize {
        0
    }

    fn file_prefix(&self, package: &str, version: &str) -> String {
        let name = package.split(':').next().unwrap_or(package);
        format!("{name}_{}_", version.replace(':', "%3a"))
    }

    fn is_locked(&self, _: i32) -> bool {
        false
    }

    fn act(&self, plan: &Plan, lock: Duration) -> Vec<String> {
        let specs = plan.changes.iter().map(|change| match &change.new {
            Some(file) => file.display().to_string(),
            None => format!("{}-", change.package),
        });
        self.transaction(specs.collect(), plan.downgrades, lock)
    }

    fn revert(&self, plan: &Plan, lock: Duration) -> Vec<String> {
        let specs = plan.changes.iter().map(|change| match &change.old {
            Some(file) => file.display().to_string(),
            None => format!("{}-", change.package),
        });
        self.transaction(specs.collect(), true, lock)
    }
}

/// `Inst NAME [OLD] (NEW REPOSITORY [ARCH])`, without `[OLD]` for what is new, or `Remv NAME [OLD]`.
fn change(line: &str) -> Option<Change> {
    let mut words = line.split_whitespace();
    let verb = words.next()?;
    let package = words.next()?.to_owned();
    let rest: Vec<&str> = words.collect();
    let from = rest.first().and_then(|word| word.strip_prefix('[')?.strip_suffix(']')).map(str::to_owned);
    let to = match verb {
        "Inst" => Some(rest.iter().find_map(|word| word.strip_prefix('('))?.to_owned()),
        _ => None,
    };
    (verb == "Inst" || from.is_some()).then_some(Change { package, from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(code: i32, stdout: &str, stderr: &str) -> Called {
        Called { code: Some(code), stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn names_and_versions_that_are_no_packages_are_refused() {
        let apt = Apt::default();
        assert!(apt.is_package("puppetserver") && apt.is_package("libstdc++6") && apt.is_package("0ad"));
        for bad in ["", "a", "-y", "Puppet", "a b", "a=1", "a/b", "../a", "a:amd64", "a;b", "a*"] {
            assert!(!apt.is_package(bad), "{bad}");
        }
        assert!(apt.is_version("1:8.6.1-1~bpo12+1"));
        for bad in ["", "-y", "v1", "1 2", "1/stable", "1*", "~1"] {
            assert!(!apt.is_version(bad), "{bad}");
        }
    }

    #[test]
    fn what_apt_would_change_is_read_line_by_line() {
        let printed = "The following packages will be DOWNGRADED:\n  a\nInst a [2.0-1] (1:1.0 Debian:12/stable [all]) []\n\
            Inst libx:i386 (3 r [i386])\nRemv old [0.9]\nConf a (1:1.0 r [all])\n";
        let read = Apt::default().read_simulated("a", "1:1.0", &called(0, printed, "")).unwrap();
        let of = |package: &str, from: Option<&str>, to: Option<&str>| Change {
            package: package.into(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        assert!(read.downgrades);
        let expected = [
            of("a", Some("2.0-1"), Some("1:1.0")),
            of("libx:i386", None, Some("3")),
            of("old", Some("0.9"), None),
        ];
        assert_eq!(read.changes, expected);
    }

    #[test]
    fn a_line_that_is_not_understood_is_no_plan() {
        let read = Apt::default().read_simulated("a", "1", &called(0, "Inst a\n", ""));
        assert!(matches!(read, Err(Refusal::Other(_))));
    }
}
