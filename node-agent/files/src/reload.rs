//! Services that read a file only at a reload, and have not read it since it changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A service that is to read its files again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    pub service: String,
    /// The change that it is owed for: another one may come while the service reloads.
    pub change: u64,
}

/// What services are owed.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reloads {
    owed: BTreeMap<String, u64>,
    changes: u64,
}

impl Reloads {
    /// Before the file changes: else a crash in between would leave the service with what it has read.
    pub fn owe(&mut self, service: &str) {
        self.changes += 1;
        self.owed.insert(service.to_owned(), self.changes);
    }

    pub fn owed(&self) -> Vec<Reload> {
        let owed = self.owed.iter();
        owed.map(|(service, change)| Reload { service: service.clone(), change: *change }).collect()
    }

    /// It has read its files as they were after this change, or later.
    pub fn paid(&mut self, reload: &Reload) {
        if self.owed.get(&reload.service) == Some(&reload.change) {
            self.owed.remove(&reload.service);
        }
    }

    /// Others are owed nothing any more.
    pub fn only(&mut self, told: impl Fn(&str) -> bool) {
        self.owed.retain(|service, _| told(service));
    }
}
