//! What is installed on the controller's own host: the main Puppet server.

use std::{cmp::Ordering, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

/// Puppet wants the main server to be the first that gets a new version: a newer compiler talks to an older CA.
const PUPPETS: [&str; 6] =
    ["puppetserver", "openvox-server", "puppet-agent", "openvox-agent", "puppet", "puppet-common"];

/// Each reads a database of this host.
const DEADLINE: Duration = Duration::from_secs(10);

/// The version of one of Puppet's packages on this host, where it is older than `version`. None also where neither dpkg
/// nor rpm knows it: another name of the package, say.
pub(crate) async fn older(package: &str, version: &str) -> Option<String> {
    if !PUPPETS.contains(&package) {
        return None;
    }
    if let Some(installed) = of_dpkg(package).await {
        printed("dpkg", &["--compare-versions", &installed, "lt", version]).await?;
        return Some(installed);
    }
    let format = "%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n";
    let installed = printed("rpm", &["-q", "--qf", format, "--", package]).await?;
    let installed = installed.lines().last()?.to_owned();
    (compare_evr(&installed, version) == Ordering::Less).then_some(installed)
}

async fn of_dpkg(package: &str) -> Option<String> {
    let asked = printed("dpkg-query", &["-W", "-f", "${db:Status-Status} ${Version}", "--", package]).await?;
    asked.strip_prefix("installed ").map(str::to_owned)
}

/// What it printed, when it succeeded.
async fn printed(program: &str, words: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(words).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `[EPOCH:]VERSION[-RELEASE]` as rpm orders them. A release that one of them does not name decides nothing.
fn compare_evr(one: &str, other: &str) -> Ordering {
    let parts = |text| {
        let (epoch, rest) = str::split_once(text, ':').unwrap_or(("0", text));
        let (version, release) = rest.split_once('-').map_or((rest, None), |(v, r)| (v, Some(r)));
        (epoch.to_owned(), version.to_owned(), release.map(str::to_owned))
    };
    let ((e1, v1, r1), (e2, v2, r2)) = (parts(one), parts(other));
    let releases = || r1.zip(r2).map_or(Ordering::Equal, |(one, other)| compare_parts(&one, &other));
    compare_parts(&e1, &e2).then_with(|| compare_parts(&v1, &v2)).then_with(releases)
}

/// `rpmvercmp`: runs of digits and runs of letters, whatever is between them. `~` is older than the end, `^` newer than
/// the end and older than anything else.
fn compare_parts(mut one: &str, mut other: &str) -> Ordering {
    let between = |c: char| !c.is_ascii_alphanumeric() && c != '~' && c != '^';
    loop {
        (one, other) = (one.trim_start_matches(between), other.trim_start_matches(between));
        let marks = [one, other].map(|text| text.chars().next().filter(|c| "~^".contains(*c)));
        match marks {
            [None, None] => {}
            [a, b] if a == b => {
                (one, other) = (&one[1..], &other[1..]);
                continue;
            }
            [Some('~'), _] => return Ordering::Less,
            [_, Some('~')] => return Ordering::Greater,
            [Some(_), _] => return if other.is_empty() { Ordering::Greater } else { Ordering::Less },
            [None, _] => return if one.is_empty() { Ordering::Less } else { Ordering::Greater },
        }
        if one.is_empty() || other.is_empty() {
            return one.len().cmp(&other.len());
        }
        let digits = one.starts_with(|c: char| c.is_ascii_digit());
        let run = |text: &'_ str| {
            let fits = |c: char| if digits { c.is_ascii_digit() } else { c.is_ascii_alphabetic() };
            text.find(|c| !fits(c)).unwrap_or(text.len())
        };
        let ((a, rest), (b, other_rest)) = (one.split_at(run(one)), other.split_at(run(other)));
        if b.is_empty() {
            // Digits are newer than letters.
            return if digits { Ordering::Greater } else { Ordering::Less };
        }
        let order = if digits {
            let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        } else {
            a.cmp(b)
        };
        if order.is_ne() {
            return order;
        }
        (one, other) = (rest, other_rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From rpm's own tests/rpmvercmp.at, and whole versions.
    #[test]
    fn versions_are_ordered_as_rpm_orders_them() {
        let older = [
            ("1.0", "2.0"),
            ("2.0", "2.0.1"),
            ("5.5p1", "5.5p2"),
            ("5.5p2", "5.6p1"),
            ("5.5p1", "5.5p10"),
            ("xyz.4", "8"),
            ("xyz.4", "2"),
            ("5.5p2", "5.6"),
            ("6.0", "6.0.rc1"),
            ("10a2", "10b2"),
            ("1.0a", "1.0aa"),
            ("1.0~rc1", "1.0"),
            ("1.0~rc1", "1.0~rc2"),
            ("1.0~rc1~git123", "1.0~rc1"),
            ("1.0", "1.0^"),
            ("1.0^", "1.0^git1"),
            ("1.0^git1", "1.0^git2"),
            ("1.0^git1", "1.01"),
            ("1.0^20160101", "1.0.1"),
            ("1.0^20160101^git1", "1.0^20160102"),
            ("1.0~rc1", "1.0~rc1^git1"),
            ("1.0^git1~pre", "1.0^git1"),
            ("9", "10"),
            ("7.9.5-1.el8", "7.9.5-2.el8"),
            ("7.17.0-1", "1:7.9.5-1"),
            ("8.6.1-1.el9", "8.7.0"),
        ];
        for (one, other) in older {
            assert_eq!(compare_evr(one, other), Ordering::Less, "{one} {other}");
            assert_eq!(compare_evr(other, one), Ordering::Greater, "{other} {one}");
        }
        let same = [
            ("1.0", "1.0"),
            ("2_0", "2.0"),
            ("10.0001", "10.1"),
            ("1.0~rc1", "1.0~rc1"),
            ("1.0^git1", "1.0^git1"),
            ("0:1.0-1", "1.0-1"),
            ("1.0-1", "1.0"),
        ];
        for (one, other) in same {
            assert_eq!(compare_evr(one, other), Ordering::Equal, "{one} {other}");
            assert_eq!(compare_evr(other, one), Ordering::Equal, "{other} {one}");
        }
    }
}
