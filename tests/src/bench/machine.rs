//! The machine: its size, its load, the versions of what is compared.

use std::{
    fs,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

use crate::process::output_of;

/// What is on its way to the disk belongs to whoever wrote it, not to the next one who is measured.
pub(super) fn sync() {
    rustix::fs::sync();
}

pub(super) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The load average of the last minute.
pub(super) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// Cores, memory, kernel.
pub(super) fn size() -> Result<String> {
    let cores = std::thread::available_parallelism().context("could not count the cores")?;
    let memory = fs::read_to_string("/proc/meminfo").context("could not read the memory's size")?;
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(format!("{cores} cores, {} GB of memory, Linux {}", kib.div_ceil(1 << 20), kernel.trim()))
}

pub(super) fn date() -> Result<String> {
    Ok(output_of(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?.trim().to_owned())
}

/// `git 2.47`, `rsync 3.2.7`, …
pub(super) fn versions() -> Result<String> {
    let first_number = |text: &str| {
        let starts = |word: &&str| word.chars().find(|c| *c != 'v').is_some_and(|c| c.is_ascii_digit());
        text.split_whitespace().find(starts).map(|word| word.trim_end_matches(',').to_owned())
    };
    let asked = [("git", "--version"), ("rsync", "--version"), ("r10k", "version"), ("g10k", "-version")];
    let mut versions = vec![format!("Bunraku {}", env!("CARGO_PKG_VERSION"))];
    for (program, argument) in asked {
        let said = output_of(Command::new(program).arg(argument))?;
        // Debian's g10k is built without its version: the package knows it.
        let version = match first_number(&said) {
            Some(version) => version,
            None => output_of(Command::new("dpkg-query").args(["-W", "-f", "${Version}", program]))?,
        };
        versions.push(format!("{program} {}", version.trim()));
    }
    Ok(versions.join(", "))
}
