//! Who is let in where, and when the CA writes, all the while that something happens.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};

use crate::visitor::{Knocked, Visitor};

/// Beside what a handshake takes.
const KNOCKS_EVERY: Duration = Duration::from_millis(10);
const LOOKS_EVERY: Duration = Duration::from_millis(1);

/// One new connection.
#[derive(Clone, Debug)]
pub struct Seen {
    pub began: SystemTime,
    pub ended: SystemTime,
    pub knocked: Knocked,
}

/// What one visitor met at one host, in order.
#[derive(Clone, Debug)]
pub struct Door {
    pub host: String,
    pub seen: Vec<Seen>,
}

/// What was seen while something was done.
#[derive(Debug)]
pub struct Watched<T> {
    pub done: T,
    pub doors: Vec<Door>,
    /// When the CA's file was replaced.
    pub writes: Vec<SystemTime>,
}

impl Door {
    /// When it was first known to be closed.
    pub fn closed_at(&self) -> Result<SystemTime> {
        let refused = self.seen.iter().find(|seen| seen.knocked == Knocked::Refused);
        Ok(refused.with_context(|| format!("{} refused nobody", self.host))?.ended)
    }

    /// Everybody was let in at first, and nobody any more after `at`.
    pub fn ensure_open_until_closed(&self, at: SystemTime) -> Result<()> {
        let (host, mut seen) = (&self.host, self.seen.iter());
        ensure!(seen.next().is_some_and(|seen| seen.knocked == Knocked::LetIn), "{host} was never open");
        let in_again = seen.find(|seen| seen.began > at && seen.knocked == Knocked::LetIn);
        ensure!(in_again.is_none(), "{host} let somebody in whom it had refused");
        Ok(())
    }

    pub fn ensure_always_open(&self) -> Result<()> {
        let closed = self.seen.iter().find(|seen| seen.knocked != Knocked::LetIn);
        let (host, times) = (&self.host, self.seen.len());
        ensure!(closed.is_none(), "{host}: {:?}, of {times} times", closed.map(|seen| &seen.knocked));
        ensure!(times > 0, "nobody knocked at {host}");
        Ok(())
    }
}

/// Each host is knocked at again and again by its visitor while `during` lasts.
pub fn watched<T>(
    crl_file: &Path,
    visits: &[(&str, &Visitor)],
    during: impl FnOnce() -> Result<T>,
) -> Result<Watched<T>> {
    let stop = AtomicBool::new(false);
    let goes_on = || !stop.load(Ordering::Relaxed);
    let knock = |host: &str, visitor: &Visitor| {
        let mut seen = Vec::new();
        while goes_on() {
            let began = SystemTime::now();
            let knocked = visitor.knock(host);
            seen.push(Seen { began, ended: SystemTime::now(), knocked });
            thread::sleep(KNOCKS_EVERY);
        }
        Door { host: host.to_owned(), seen }
    };
    let look = || {
        let written = || fs::metadata(crl_file).and_then(|meta| meta.modified());
        let mut writes = written().into_iter().collect::<Vec<_>>();
        while goes_on() {
            if let Ok(at) = written()
                && writes.last() != Some(&at)
            {
                writes.push(at);
            }
            thread::sleep(LOOKS_EVERY);
        }
        writes.split_off(1)
    };
    thread::scope(|scope| {
        let looking = scope.spawn(look);
        let knocking: Vec<_> =
            visits.iter().map(|(host, visitor)| scope.spawn(move || knock(host, visitor))).collect();
        let done = during();
        stop.store(true, Ordering::Relaxed);
        let writes = looking.join().map_err(|_| anyhow::anyhow!("looking panicked"))?;
        let doors = knocking.into_iter().map(|door| door.join()).collect::<Result<_, _>>();
        let doors = doors.map_err(|_| anyhow::anyhow!("knocking panicked"))?;
        Ok(Watched { done: done?, doors, writes })
    })
}
