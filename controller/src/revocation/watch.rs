//! Watches the CRL file of Puppet's CA. The kernel tells of changes; a look now and then is the net below.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bunraku_certificates::{Authorities, Crls, limits::BUNDLE_BYTES};
use bunraku_common::{Chain, Changes};
use bunraku_engine::{CrlEvent, Event, Revocations, SeenCrl};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{MissedTickBehavior, interval, sleep},
};

use super::CrlFiles;
use crate::{clock::wall_s, driver::Driver, identity::Stamp};

/// The net: how late a change is seen of which the kernel told nothing.
const LOOK: Duration = Duration::from_secs(10);
/// A file that cannot be used may be in the middle of being written: it is read again after this before it is told.
const WRITTEN: Duration = Duration::from_millis(300);

/// The CA's file, and the bundle that it is judged by.
#[derive(Debug)]
pub(crate) struct CrlWatch {
    crl: PathBuf,
    ca: PathBuf,
    files: CrlFiles,
    driver: Driver,
}

/// Why the CA's file is not used, and what to do.
struct Unusable(String, String);

impl CrlWatch {
    pub(crate) fn new(crl: PathBuf, ca: PathBuf, files: CrlFiles, driver: Driver) -> Self {
        Self { crl, ca, files, driver }
    }

    pub(crate) async fn run(self) {
        let watch = Arc::new(self);
        let told = watch.told_by_the_kernel();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read: Option<([Option<Stamp>; 2], CrlEvent)> = None;
        loop {
            let stamps = [&watch.crl, &watch.ca].map(|path| Stamp::of(path));
            let is_known =
                |(at, told): &([Option<Stamp>; 2], CrlEvent)| *at == stamps && watch.is_heard(told);
            if !read.as_ref().is_some_and(is_known) {
                let seen = watch.seen().await;
                watch.driver.event(Event::Crl(seen.clone()));
                read = Some((stamps, seen));
            }
            tokio::select! {
                _ = look.tick() => {
                    if let Some(told) = &told && let Err(error) = told.get_ref().rearm() {
                        tracing::warn!(error = %Chain(&error), "the CRL of Puppet's CA is only looked at now and then");
                    }
                }
                () = changed(told.as_ref()) => {}
            }
        }
    }

    /// Whether what was told has come to the journal, and is kept. It has not where the journal's disk was full; and a file
    /// that could not be used may be good by now though nobody touched it: a clock was set right, a disk has room.
    fn is_heard(&self, told: &CrlEvent) -> bool {
        let CrlEvent::Seen(seen) = told else { return false };
        let state = self.driver.shared.state();
        let known = state.revocations();
        let rejected = known.rejected.as_ref().and_then(|rejected| rejected.seen.as_ref());
        let wanted = known.wanted.as_ref().map(|wanted| wanted.crl);
        let is_kept = wanted.is_some_and(|wanted| self.files.has(&wanted));
        let is_known = wanted == Some(seen.crl) || rejected.is_some_and(|rejected| rejected.crl == seen.crl);
        is_kept && (is_known || seen.same_content)
    }

    fn told_by_the_kernel(&self) -> Option<AsyncFd<Changes>> {
        let changes = Changes::of([self.crl.as_path(), self.ca.as_path()]);
        #[expect(
            deprecated,
            reason = "it is unsound for what is no descriptor; a `Changes` holds one as long as it lives"
        )]
        let told = changes.and_then(|changes| AsyncFd::with_interest(changes, Interest::READABLE));
        told.inspect_err(|error| {
            tracing::warn!(error = %Chain(error), "the CRL of Puppet's CA is only looked at every {LOOK:?}");
        })
        .ok()
    }

    async fn seen(self: &Arc<Self>) -> CrlEvent {
        for attempt in 0.. {
            let watch = self.clone();
            let known = self.driver.shared.state().revocations().clone();
            let read = tokio::task::spawn_blocking(move || watch.read(&known)).await;
            match read {
                Ok(Ok(seen)) => return CrlEvent::Seen(seen),
                Ok(Err(Unusable(reason, hint))) if attempt > 0 => return CrlEvent::Unusable { reason, hint },
                Err(error) if attempt > 0 => {
                    let (reason, hint) = (format!("reading it failed: {error}"), String::new());
                    return CrlEvent::Unusable { reason, hint };
                }
                Ok(Err(_)) | Err(_) => sleep(WRITTEN).await,
            }
        }
        unreachable!("the second attempt returns")
    }

    /// What the file holds now, kept below the data directory when it is good.
    fn read(&self, known: &Revocations) -> Result<SeenCrl, Unusable> {
        let look = || format!("openssl crl -in {} -noout -text", self.crl.display());
        let authorities = bounded(&self.ca).map_err(|error| unusable(&self.ca, &error, String::new()))?;
        let authorities = Authorities::parse(&authorities)
            .map_err(|error| unusable(&self.ca, &error, "restore Puppet's CA bundle there".to_owned()))?;
        let written_ms = written_ms(&self.crl);
        let crls = bounded(&self.crl).map_err(|error| unusable(&self.crl, &error, String::new()))?;
        let crls = Crls::parse(&crls).map_err(|error| unusable(&self.crl, &error, look()))?;
        let now_s = self.driver.shared.clock.trusted_wall_s().unwrap_or_else(wall_s);
        crls.check(&authorities, now_s).map_err(|error| unusable(&self.crl, &error, look()))?;
        self.files
            .keep(&crls, &known.files())
            .map_err(|error| unusable(&self.crl, &error, "df".to_owned()))?;
        Ok(self.compared(&crls, &authorities, known, written_ms))
    }

    fn compared(
        &self,
        crls: &Crls,
        authorities: &Authorities,
        known: &Revocations,
        written_ms: u64,
    ) -> SeenCrl {
        let wanted = known.wanted.as_ref().map(|wanted| wanted.crl);
        let before = wanted.and_then(|digest| self.files.read(&digest));
        let revoked = crls.revoked();
        let added = before.as_ref().map_or(revoked.len(), |before| crls.revoked_since(before).len());
        let open = known.canaries.iter().filter(|(_, canary)| !canary.is_spent());
        let canaries = open.filter(|(_, canary)| revoked.contains(&canary.certificate));
        let half = crls.iter().map(|crl| crl.this_update_s().midpoint(crl.next_update_s()));
        SeenCrl {
            crl: crls.digest(),
            numbers: crls.numbers(),
            ends_s: crls.ends_s(),
            ca_ends_s: authorities.ends_s(),
            half_s: half.min().unwrap_or_default(),
            revoked: revoked.len() as u64,
            added: added as u64,
            since: before.as_ref().and(wanted),
            canaries: canaries.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(),
            same_content: before.is_some_and(|before| crls.has_same_content(&before)),
            written_ms,
        }
    }
}

fn unusable(path: &Path, error: &(dyn std::error::Error + 'static), hint: String) -> Unusable {
    Unusable(format!("{}: {}", path.display(), Chain(error)), hint)
}

/// Never, where the kernel does not tell.
async fn changed(told: Option<&AsyncFd<Changes>>) {
    let Some(told) = told else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = told.readable().await else { return std::future::pending().await };
        // Emptied in any case: the next event makes it ready again.
        let any = ready.get_inner().any().unwrap_or(true);
        ready.clear_ready();
        if any {
            return;
        }
    }
}

/// Larger than a bundle may be is refused when it is parsed.
fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BUNDLE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn written_ms(path: &Path) -> u64 {
    let written = path.metadata().and_then(|meta| meta.modified()).ok();
    let since = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_millis() as u64)
}
