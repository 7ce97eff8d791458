//! What nobody waits for: debts to Puppet Server, spares, retention, the scrub.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use bunraku_common::{Chain, Digest, EnvironmentName, NodeName};
use bunraku_versions::{Budget, Prepared, Versions, VersionsError};
use tokio::time::{sleep, timeout};

use crate::{
    commit::Commit,
    node::{Compiler, Node},
};

/// How often an owed flush and proof are tried: Puppet Server takes tens of seconds to start.
const SETTLE_EVERY: Duration = Duration::from_secs(2);
/// How often the disk is tidied when nothing was committed.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Environments are often committed in a row: tidying would slow down those that follow, so it begins when there was
/// no commit for so long, …
const QUIET: Duration = Duration::from_millis(500);
/// … or after this.
const QUIET_COMES_WITHIN: Duration = Duration::from_secs(15);
/// Received objects of an interrupted stage are kept so long for the next one.
const INCOMING_AGE: Duration = Duration::from_secs(3600);
/// A scrub looks at this much every minute: 30,000 files take a quarter of an hour.
const SCRUB: Budget = Budget { files: 2000, bytes: 64 << 20 };

/// Flush and proof that are owed, also from before a restart, done as soon as Puppet Server answers; the controller
/// need not be there.
pub(crate) async fn settle_debts(node: Arc<Node>) {
    let Some(compiler) = &node.compiler else { return };
    loop {
        let owed = node.memory().owed();
        for (environment, snapshot) in owed {
            // What was owed before a crash may never have been swapped.
            if compiler.versions.live(&environment) != Some(snapshot) || compiler.is_ordered(&environment) {
                continue;
            }
            let still =
                node.memory().subject(&environment).filter(|s| s.owed == Some(snapshot)).map(|s| s.fence);
            let Some(fence) = still else { continue };
            let commit = Commit { environment, snapshot, fence };
            if commit.settle(&node, compiler, false).await.is_none() {
                tracing::info!(environment = %commit.environment, snapshot = %snapshot.short(), "what was owed is proven");
            }
        }
        sleep(SETTLE_EVERY).await;
    }
}

/// After each commit, and now and then: spares, retention, the scrub.
pub(crate) async fn tidy(node: Arc<Node>) {
    let Some(compiler) = &node.compiler else { return };
    let mut scrubbed_to: BTreeMap<EnvironmentName, String> = BTreeMap::new();
    loop {
        let nothing_new = timeout(TIDY_EVERY, compiler.committed.notified()).await.is_err();
        if !nothing_new {
            let quiet = async { while timeout(QUIET, compiler.committed.notified()).await.is_ok() {} };
            let _begins_in_any_case = timeout(QUIET_COMES_WITHIN, quiet).await;
        }
        for environment in environments(compiler).await {
            if let Err(error) = tidy_one(&node, compiler, &environment).await {
                tracing::warn!(%environment, error = %Chain(&error), "the versions could not be tidied");
            }
            if nothing_new {
                scrub(&node.name, compiler, &environment, &mut scrubbed_to).await;
            }
        }
        let emptied = on_versions(compiler, |versions| {
            versions.empty_trash(&AtomicBool::new(false))?;
            versions.collect(INCOMING_AGE).map(drop)
        });
        if let Some(Err(error)) = emptied.await {
            tracing::warn!(error = %Chain(&error), "what is no longer needed could not be removed");
        }
    }
}

async fn environments(compiler: &Compiler) -> Vec<EnvironmentName> {
    let observed = on_versions(compiler, |versions| versions.observe()).await.unwrap_or_default();
    observed.into_iter().filter(|state| state.live.is_some()).map(|state| state.environment).collect()
}

async fn tidy_one(
    node: &Arc<Node>,
    compiler: &Compiler,
    environment: &EnvironmentName,
) -> Result<(), VersionsError> {
    let (env, now, policy) = (environment.clone(), node.now(), compiler.policy());
    let recyclable = {
        let excess = compiler.versions.excess(environment, now, &policy);
        let left = compiler.left.lock().unwrap_or_else(PoisonError::into_inner);
        excess.into_iter().find(|digest| outlived(&left, environment, digest, policy.longest_compile))
    };
    let outcome = on_versions(compiler, move |versions| {
        // Where there is no room for a spare, old versions must go all the same: they are what fills the disk.
        let prepared = versions.prepare_spare(&env, recyclable.as_ref(), &AtomicBool::new(false));
        versions.retain(&env, now, &policy).map(|gone| (prepared, gone))
    });
    let Some(outcome) = outcome.await else { return Ok(()) };
    let (prepared, gone) = outcome?;
    if let Ok(how @ (Prepared::Recycled | Prepared::Linked)) = &prepared {
        tracing::debug!(%environment, ?how, "spare prepared");
    }
    let mut left = compiler.left.lock().unwrap_or_else(PoisonError::into_inner);
    for digest in gone.iter().chain(&recyclable) {
        left.remove(&(environment.clone(), *digest));
    }
    prepared.map(drop)
}

fn outlived(
    left: &BTreeMap<(EnvironmentName, Digest), Instant>,
    environment: &EnvironmentName,
    digest: &Digest,
    longest_compile: Duration,
) -> bool {
    left.get(&(environment.clone(), *digest)).is_some_and(|since| since.elapsed() > longest_compile)
}

async fn scrub(
    name: &NodeName,
    compiler: &Compiler,
    environment: &EnvironmentName,
    to: &mut BTreeMap<EnvironmentName, String>,
) {
    let (env, from) = (environment.clone(), to.remove(environment));
    let scrubbed = on_versions(compiler, move |versions| versions.scrub(&env, from.as_deref(), SCRUB)).await;
    match scrubbed {
        Some(Ok(scrubbed)) => {
            for drift in &scrubbed.drift {
                tracing::warn!(%environment, path = drift.path, what = ?drift.what, "changed by hand (hint: bunraku heal {name})");
            }
            if let Some(next) = scrubbed.next {
                to.insert(environment.clone(), next);
            }
        }
        Some(Err(error)) => tracing::debug!(%environment, error = %Chain(&error), "not scrubbed"),
        None => {}
    }
}

/// Blocking work on the versions. `None`: it panicked, which is in the log.
async fn on_versions<T: Send + 'static>(
    compiler: &Compiler,
    work: impl FnOnce(&Versions) -> T + Send + 'static,
) -> Option<T> {
    let versions = compiler.versions.clone();
    tokio::task::spawn_blocking(move || work(&versions)).await.ok()
}
