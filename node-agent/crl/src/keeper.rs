//! Keeps the files: takes what is newer, puts back what somebody damaged.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use bunraku_certificates::{CrlError, Crls};
use bunraku_common::{Chain, Digest, Fence, crash, hint};
use bunraku_files::Found;

use crate::{
    Place, Refused, Reload,
    copy::{CopyError, OwnCopy},
    judge::{Stands, authorities, is_genuine, is_not_older_than, may_follow, stands, who_can_take},
};

/// A file that was written within this may still be under its writer's hand: to replace it would lose what comes.
const SETTLING_MS: u64 = 500;
/// Longer than this nobody keeps a wrong file by writing it again and again.
const PATIENCE_MS: u64 = 3_000;

/// What this node was given, and the files in which it lies.
#[derive(Debug)]
pub struct Keeper {
    copy: OwnCopy,
    places: Vec<Place>,
    /// Why a file is not as it should be.
    owed: BTreeMap<PathBuf, String>,
    /// Since when a file has been seen wrong, while its writer is given time.
    wrong_since: BTreeMap<PathBuf, u64>,
}

/// CRLs that the controller sends.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    pub crls: &'a [u8],
    /// Of the order.
    pub fence: Fence,
    /// An administrator accepted a CA that counts anew: numbers and authorities are not compared.
    pub number_reset: bool,
}

/// What is told of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Of the newest CRLs; none were given yet.
    pub digest: Option<Digest>,
    /// Of the order that last brought some.
    pub fence: Option<Fence>,
    /// Which file is not as it should be, and why; empty: all are.
    pub owed: String,
    pub written_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the CRLs could not be kept")]
    Copy(#[from] CopyError),
}

impl Keeper {
    pub fn open(dir: &Path) -> Result<Self, CopyError> {
        let copy = OwnCopy::open(dir)?;
        Ok(Self { copy, places: Vec::new(), owed: BTreeMap::new(), wrong_since: BTreeMap::new() })
    }

    /// From now on these files are kept, and no others.
    pub fn keep(&mut self, places: Vec<Place>) {
        for place in places.iter().filter(|place| !self.places.contains(place)) {
            if let Err(error) = place.sweep() {
                tracing::debug!(error = %Chain(&error), "not swept");
            }
        }
        self.places = places;
        let kept: BTreeSet<&PathBuf> = self.places.iter().map(|place| &place.path).collect();
        self.owed.retain(|path, _| kept.contains(path));
        self.wrong_since.retain(|path, _| kept.contains(path));
        let told: BTreeSet<&String> = self.places.iter().filter_map(|place| place.reload.as_ref()).collect();
        // A service that reads no file of ours any more is owed nothing.
        let forgotten = self.copy.change(|state| state.reloads.retain(|service, _| told.contains(service)));
        if let Err(error) = forgotten {
            tracing::warn!(error = %Chain(&error), "what is owed could not be kept");
        }
    }

    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Judges, remembers, and puts them where they belong. `Ok`: they count from now on; whether every file has them is
    /// for [`Self::seen`] to say.
    pub fn install(&mut self, offer: &Offer<'_>, now_ms: u64) -> Result<(), InstallError> {
        let crls = Crls::parse(offer.crls).map_err(Refused::Unreadable)?;
        let digest = crls.digest();
        let state = self.copy.state();
        // A repeated order does not undo what came after it.
        if state.fence != Some(offer.fence) || state.given != Some(digest) {
            self.judge(&crls, offer.number_reset, now_ms / 1000)?;
            let all = || self.places.iter().map(|place| place.path.clone()).collect();
            let before_reset = if offer.number_reset { all() } else { state.before_reset.clone() };
            let known = self.copy.crls().is_some_and(|newest| newest.has_same_content(&crls));
            self.copy.remember(crls, |state| {
                state.written_ms = if known { state.written_ms } else { 0 };
                state.given = Some(digest);
                state.fence = Some(offer.fence);
                state.before_reset = before_reset;
            })?;
            crash::point("crl-remembered");
        }
        self.settle(now_ms, false);
        Ok(())
    }

    /// Whether every file is as it should be, and makes it so. True: look again within a second, because somebody may be
    /// writing.
    pub fn look(&mut self, now_ms: u64) -> bool {
        self.settle(now_ms, true)
    }

    pub fn seen(&self) -> Seen {
        let state = self.copy.state();
        let owed: Vec<String> =
            self.owed.iter().map(|(path, why)| format!("{}: {why}", path.display())).collect();
        Seen { digest: state.newest, fence: state.fence, owed: owed.join("; "), written_ms: state.written_ms }
    }

    /// Services that have not read their file since it changed.
    pub fn reloads(&self) -> Vec<Reload> {
        let owed = self.copy.state().reloads.iter();
        owed.map(|(service, change)| Reload { service: service.clone(), change: *change }).collect()
    }

    /// It has read its file as it was after this change, or later.
    pub fn reloaded(&mut self, reload: &Reload) -> Result<(), CopyError> {
        self.copy.change(|state| {
            if state.reloads.get(&reload.service) == Some(&reload.change) {
                state.reloads.remove(&reload.service);
            }
        })
    }

    /// The newest CRLs, if this file has them.
    pub fn in_place(&self, path: &Path) -> Result<Arc<Crls>, String> {
        let newest = self.copy.crls().ok_or("this node was given no CRLs yet")?;
        let place = self.places.iter().find(|place| place.path == path);
        let place = place.ok_or_else(|| format!("{} is not kept here", path.display()))?;
        match place.read().map_err(|error| Chain(&error).to_string())? {
            Found::File { bytes, .. } => match Crls::parse(&bytes) {
                Ok(found) if newest.has_same_content(&found) => Ok(newest.clone()),
                Ok(_) | Err(_) => Err(format!("{} does not hold the newest CRLs", path.display())),
            },
            Found::Nothing => Err(format!("{} is missing", path.display())),
        }
    }

    fn judge(&self, crls: &Crls, number_reset: bool, now_s: u64) -> Result<(), Refused> {
        let fits = who_can_take(crls, &self.places, now_s)?;
        if number_reset {
            return Ok(());
        }
        let before_reset = &self.copy.state().before_reset;
        for (place, authorities) in fits.iter().filter(|(place, _)| !before_reset.contains(&place.path)) {
            is_not_older_than(place, authorities, crls, now_s)?;
        }
        match self.copy.crls() {
            Some(newest) => may_follow(newest, crls, "those that this node was given before"),
            None => Ok(()),
        }
    }

    fn settle(&mut self, now_ms: u64, patient: bool) -> bool {
        let mut soon = false;
        // A file with newer CRLs makes the files before it wrong: then all are looked at again. Numbers only grow.
        while self.copy.crls().is_some() {
            let mut adopted = false;
            soon = false;
            for place in self.places.clone() {
                match self.one(&place, now_ms, patient) {
                    Settled::Right => self.is_right(&place),
                    Settled::Adopted => {
                        self.is_right(&place);
                        adopted = true;
                    }
                    Settled::Soon(why) => {
                        soon = true;
                        self.is_owed(&place, why);
                    }
                    Settled::Owed(why) => self.is_owed(&place, why),
                }
            }
            if !adopted {
                break;
            }
        }
        soon
    }

    fn one(&mut self, place: &Place, now_ms: u64, patient: bool) -> Settled {
        let Some(wanted) = self.copy.crls().cloned() else { return Settled::Right };
        let found = match place.read() {
            Ok(found) => found,
            Err(error) => return Settled::Owed(Chain(&error).to_string()),
        };
        let (how, modified_ms) = match &found {
            Found::Nothing => (Stands::Wrong("it is missing".to_owned()), 0),
            Found::File { bytes, modified_ms, .. } => {
                let how = stands(&wanted, bytes, &place.ca, now_ms / 1000);
                // An empty one refuses everybody: whoever still wants to fill it writes into what is gone by then.
                (how, if bytes.is_empty() { 0 } else { *modified_ms })
            }
        };
        let before_reset = self.copy.state().before_reset.contains(&place.path);
        match how {
            Stands::Right => self.note_right(place, now_ms).map_or_else(Settled::Owed, |()| Settled::Right),
            Stands::Newer(_) | Stands::Open(_) | Stands::Wrong(_) if before_reset => {
                self.put(place, &wanted, now_ms, "it is from before the CA counted anew")
            }
            Stands::Newer(newer) => self.adopt(place, newer, now_ms),
            Stands::Open(why) => Settled::Owed(why),
            Stands::Wrong(why) if patient && self.may_be_written(place, modified_ms, now_ms) => {
                Settled::Soon(format!("{why}, and it was changed just now"))
            }
            Stands::Wrong(why) => self.put(place, &wanted, now_ms, &why),
        }
    }

    fn adopt(&mut self, place: &Place, newer: Crls, now_ms: u64) -> Settled {
        let digest = newer.digest();
        let remembered = self.copy.remember(newer, |state| {
            state.written_ms = now_ms;
            if let Some(service) = &place.reload {
                state.owe_reload(service);
            }
        });
        match remembered {
            Ok(()) => {
                let path = place.path.display();
                tracing::info!(file = %path, digest = %digest.short(), "somebody else brought newer CRLs: they stay");
                Settled::Adopted
            }
            Err(error) => {
                Settled::Owed(format!("it is newer, and could not be remembered: {}", Chain(&error)))
            }
        }
    }

    fn put(&mut self, place: &Place, wanted: &Crls, now_ms: u64, why: &str) -> Settled {
        match self.try_put(place, wanted, now_ms) {
            Ok(()) => {
                // What an administrator could do about the ones before is of no interest any more.
                let (before, _) = hint::split(why);
                let digest = wanted.digest().short();
                tracing::info!(file = %place.path.display(), %digest, of_those_before = before, "CRLs put in place");
                Settled::Right
            }
            Err(trouble) => Settled::Owed(hint_last(why, &trouble)),
        }
    }

    fn try_put(&mut self, place: &Place, wanted: &Crls, now_ms: u64) -> Result<(), String> {
        let authorities = authorities(&place.ca).map_err(|error| Chain(&error).to_string())?;
        let judged = is_genuine(wanted, &authorities);
        judged.map_err(|source: CrlError| {
            let refused = Refused::Judged { ca: place.ca.clone(), source };
            format!("what this node was given cannot stand there: {}", Chain(&refused))
        })?;
        // Owed before the file changes: else a crash in between would leave the service with what it has read.
        if let Some(service) = &place.reload {
            let owed = self.copy.change(|state| state.owe_reload(service));
            owed.map_err(|error| Chain(&error).to_string())?;
        }
        place.replace(wanted.pem()).map_err(|error| Chain(&error).to_string())?;
        crash::point("crl-placed");
        let noted = self.copy.change(|state| {
            state.written_ms = now_ms;
            state.before_reset.remove(&place.path);
        });
        noted.map_err(|error| Chain(&error).to_string())
    }

    /// True also of a file that somebody else has brought to where it should be.
    fn note_right(&mut self, place: &Place, now_ms: u64) -> Result<(), String> {
        let noted = self.copy.change(|state| {
            state.before_reset.remove(&place.path);
            if state.written_ms == 0 {
                state.written_ms = now_ms;
            }
        });
        noted.map_err(|error| Chain(&error).to_string())
    }

    fn may_be_written(&mut self, place: &Place, modified_ms: u64, now_ms: u64) -> bool {
        let fresh = modified_ms <= now_ms && now_ms - modified_ms < SETTLING_MS;
        let since = *self.wrong_since.entry(place.path.clone()).or_insert(now_ms);
        fresh && now_ms.saturating_sub(since) < PATIENCE_MS
    }

    fn is_right(&mut self, place: &Place) {
        self.wrong_since.remove(&place.path);
        if self.owed.remove(&place.path).is_some() {
            tracing::info!(file = %place.path.display(), "the file of CRLs is as it should be again");
        }
    }

    fn is_owed(&mut self, place: &Place, why: String) {
        if self.owed.get(&place.path) != Some(&why) {
            tracing::warn!(file = %place.path.display(), why, "the file of CRLs is not as it should be");
            self.owed.insert(place.path.clone(), why);
        }
    }
}

enum Settled {
    Right,
    Adopted,
    Soon(String),
    Owed(String),
}

fn hint_last(why: &str, trouble: &str) -> String {
    let (trouble, hint) = hint::split(trouble);
    hint::join(&format!("{why}, and it could not be put right: {trouble}"), &hint)
}
