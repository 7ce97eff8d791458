//! Packages of this host: planned and fetched before the drain, changed by a command that outlives this agent, and
//! brought back from what was fetched.

use std::{path::PathBuf, time::Duration};

use bunraku_common::{Chain, Fence, crash};
use bunraku_packages::{Allowed, Foreseen, Manager, Packages, Plan, Target, of_this_host};

use super::{
    command::{self, Ended},
    step::{Answer, Consent},
};
use crate::node::Node;

/// The package of this agent.
pub(super) const OWN: &str = "bunraku-agent";
/// Other users of the package database, such as unattended upgrades, are waited for.
const LOCK: Duration = Duration::from_secs(120);
/// Between two tries of a manager that does not wait itself.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// How lines begin that apt, dpkg and dnf print whenever they work.
const ROUTINE: [&str; 20] = [
    "Recommended packages:",
    "Suggested packages:",
    "debconf: delaying",
    "(Reading database",
    "Reading ",
    "Building dependency tree",
    "The following ",
    "Need to get",
    "After this operation",
    "Get:",
    "Fetched ",
    "Selecting previously",
    "Preparing to unpack",
    "Unpacking ",
    "Setting up ",
    "Processing triggers",
    "Errors were encountered",
    "Running transaction",
    "Transaction ",
    "Downloading Packages",
];

/// What a package manager says of a failure, without what it says every time.
fn said(output: &str) -> String {
    let mut kept = Vec::new();
    let mut routine = true;
    for line in output.lines().filter(|line| !line.trim().is_empty()) {
        // An indented line belongs to the one before.
        if !line.starts_with(' ') {
            routine = ROUTINE.iter().any(|start| line.starts_with(start)) || is_count(line);
        }
        if !routine {
            kept.push(line);
        }
    }
    command::tail(&if kept.is_empty() { output.to_owned() } else { kept.join("\n") })
}

/// `1 upgraded, 0 newly installed, …`
fn is_count(line: &str) -> bool {
    line.split_once(" upgraded, ").is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

pub(super) fn granted(node: &Node, package: &str) -> Result<(), String> {
    let allow = &node.config.packages.allow;
    if allow.iter().any(|allowed| allowed == package) {
        return Ok(());
    }
    let known = if allow.is_empty() { "none".to_owned() } else { allow.join(", ") };
    Err(format!(
        "this node does not grant changes of the package {package}, only of {known} \
         (hint: add it to allow below [packages] in agent.toml, and restart bunraku-agent)"
    ))
}

/// What would change, in words. Nothing does.
pub(super) async fn foresee(node: &Node, target: &Target, consent: Consent) -> Result<Vec<String>, String> {
    let manager = manager()?;
    let foreseen = packages(node, &*manager).foresee(target, &allowed(node, consent)).await;
    match foreseen {
        Ok(Foreseen { changes, .. }) if changes.is_empty() => {
            Ok(vec![format!("nothing: {} {} is installed", target.package, target.version)])
        }
        // First: a long list is cut.
        Ok(Foreseen { changes, lost }) => {
            let lost = (!lost.is_empty()).then(|| no_way_back(&lost.join(", ")));
            Ok(lost.into_iter().chain(changes.iter().map(ToString::to_string)).collect())
        }
        Err(error) => Err(Chain(&error).to_string()),
    }
}

fn no_way_back(lost: &str) -> String {
    format!("no way back: the present version of {lost} is nowhere")
}

fn allowed(node: &Node, consent: Consent) -> Allowed {
    Allowed {
        packages: node.config.packages.allow.clone(),
        downgrade: node.config.packages.downgrade,
        older: consent.downgrade,
        no_way_back: consent.no_revert,
    }
}

/// Nothing changes but this agent's own directory. `unfinished`: the newest order was this update, or the way back from
/// it, and it did not end well. Any other plan is of the past: its way back leads too far.
pub(super) async fn prepare(node: &Node, target: &Target, consent: Consent, unfinished: bool) -> Answer {
    let manager = match manager() {
        Ok(manager) => manager,
        Err(why) => return Answer::unchanged(why),
    };
    if !unfinished && let Err(error) = Plan::forget(&directory(node)) {
        return Answer::unchanged(format!("the plan of an earlier update could not be removed: {error}"));
    }
    let prepared = packages(node, &*manager).prepare(target, &allowed(node, consent)).await;
    crash::point("packages-prepared");
    match prepared {
        Err(error) => Answer::unchanged(Chain(&error)),
        Ok(plan) => Answer::Done(match plan.no_way_back().join(", ") {
            lost if !lost.is_empty() => no_way_back(&lost),
            _ if plan.changes.is_empty() => format!("{} {} is installed", target.package, target.version),
            _ => String::new(),
        }),
    }
}

/// Whether anything is not as a turn that went well leaves it; `None`: all is.
pub(super) async fn differs(node: &Node, target: &Target) -> Option<String> {
    let manager = match manager() {
        Ok(manager) => manager,
        Err(why) => return Some(why),
    };
    let packages = packages(node, &*manager);
    let bare = Plan { target: target.clone(), changes: Vec::new(), downgrades: false };
    let found = match packages.differs(&bare, false).await {
        Ok(None) => packages.audit().await.map(|()| None),
        other => other,
    };
    found.unwrap_or_else(|error| Some(Chain(&error).to_string()))
}

/// Does what was planned. `Ok(false)`: there was nothing to do.
pub(super) async fn update(node: &Node, fence: Fence, target: &Target) -> Result<bool, Answer> {
    let manager = manager().map_err(Answer::unchanged)?;
    let packages = packages(node, &*manager);
    let plan = Plan::open(&packages.directory).map_err(|error| Answer::unchanged(Chain(&error)))?;
    let Some(plan) = plan.filter(|plan| plan.target == *target && !plan.changes.is_empty()) else {
        return match differs(node, target).await {
            None => Ok(false),
            Some(why) => Err(Answer::unchanged(format!("nothing was prepared for this update: {why}"))),
        };
    };
    let words = plan.act(&*manager, LOCK);
    let failed = match transact(node, fence, &*manager, &words).await {
        Ok(Ended { code: 0, .. }) => None,
        Ok(Ended { code, output }) => {
            Some(format!("the package manager ended with {code}: {}", said(&output)))
        }
        Err(answer) => Some(answer.reason().to_owned()),
    };
    let state = packages.differs(&plan, false).await;
    let clean = packages.audit().await;
    match (failed, state, clean) {
        (_, Ok(None), Ok(())) => Ok(true),
        (failed, state, clean) => {
            let same = clean.is_ok() && packages.differs(&plan, true).await.is_ok_and(|left| left.is_none());
            let why = failed.or_else(|| state.unwrap_or_else(|error| Some(Chain(&error).to_string())));
            let why = why.or_else(|| clean.err().map(|error| Chain(&error).to_string())).unwrap_or_default();
            Err(if same { Answer::unchanged(why) } else { Answer::changed(why) })
        }
    }
}

/// Brings everything that the plan changes to where it was before.
pub(super) async fn revert(node: &Node, fence: Fence, target: &Target) -> Result<(), Answer> {
    let manager = manager().map_err(Answer::changed)?;
    let packages = packages(node, &*manager);
    let plan = Plan::open(&packages.directory).map_err(|error| Answer::changed(Chain(&error)))?;
    let Some(plan) = plan.filter(|plan| plan.target == *target) else {
        return Err(Answer::changed("nothing on record says what was installed before"));
    };
    // The update found its version installed.
    if plan.changes.is_empty() {
        return Ok(());
    }
    let Some(words) = plan.revert(&*manager, LOCK) else {
        let lost = plan.no_way_back().join(", ");
        return Err(Answer::changed(format!(
            "there is no way back: the version of {lost} before is nowhere"
        )));
    };
    if packages.audit().await.is_err()
        && let Some(words) = manager.finish()
    {
        // Whatever comes of it: the transaction below says whether it is enough.
        command::run(node, fence, "finish", &words).await.ok();
    }
    let ended = transact(node, fence, &*manager, &words).await?;
    match packages.differs(&plan, true).await {
        Ok(None) => Ok(()),
        Ok(Some(differs)) => Err(Answer::changed(format!("{differs}: {}", said(&ended.output)))),
        Err(error) => Err(Answer::changed(Chain(&error))),
    }
}

/// One transaction, tried again while somebody else is at the package database.
async fn transact(
    node: &Node,
    fence: Fence,
    manager: &dyn Manager,
    words: &[String],
) -> Result<Ended, Answer> {
    let until = tokio::time::Instant::now() + LOCK;
    for number in 0_u32.. {
        let part = if number == 0 { String::new() } else { number.to_string() };
        let ended = command::run(node, fence, &part, words).await?;
        if !manager.is_locked(ended.code) || tokio::time::Instant::now() >= until {
            return Ok(ended);
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
    Err(Answer::unchanged("the package database was never free"))
}

fn packages<'a>(node: &Node, manager: &'a dyn Manager) -> Packages<'a> {
    Packages { manager, directory: directory(node) }
}

fn directory(node: &Node) -> PathBuf {
    node.turns.directory.join("packages")
}

fn manager() -> Result<Box<dyn Manager>, String> {
    of_this_host().ok_or_else(|| "this host has neither apt nor dnf".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_failure_only_what_is_not_said_every_time_is_told() {
        let output = "Reading package lists...\nThe following packages will be upgraded:\n  toyserver\n\
            1 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n(Reading database ... 5%\n\
            (Reading database ... 122965 files and directories currently installed.)\n\
            Preparing to unpack .../toyserver_3.0_all.deb ...\nUnpacking toyserver (3.0) over (2.0) ...\n\
            Setting up toyserver (3.0) ...\nno such luck\n\
            dpkg: error processing package toyserver (--configure):\n installed post-installation script returned 1\n\
            Errors were encountered while processing:\n toyserver\n\
            E: Sub-process /usr/bin/dpkg returned an error code (1)\n";
        assert_eq!(
            said(output),
            "no such luck dpkg: error processing package toyserver (--configure): installed post-installation script \
             returned 1 E: Sub-process /usr/bin/dpkg returned an error code (1)"
        );
        assert_eq!(said("Reading package lists...\n"), "Reading package lists...");
    }

    #[test]
    fn an_output_that_is_too_long_is_cut_between_words() {
        let told = said(&"cannot ".repeat(200));
        assert!(told.starts_with("… cannot cannot") && told.chars().count() <= 602, "{told}");
    }
}
