//! A world of its own for a program that starts Puppet Servers: private mounts, processes and network.
//!
//! The program starts itself again, twice (util-linux' `unshare` makes the namespaces):
//!
//! ```text
//! outer   the program as it was called: lock, leftovers, waits           (the caller's namespaces)
//!  └ init   first process of the PID namespace: mounts, reaps, cleans up (dies with outer: end of file on its stdin)
//!     └ inside   the closure given to `run`
//! ```
//!
//! When `inside` ends, for whatever reason, `init` kills all that is left and removes the files; when `init` is
//! killed the kernel ends the whole namespace, and the next run removes the files. Loopback addresses, /etc/hosts,
//! /etc/passwd and the directory of the stack are seen by nobody else.

mod init;
mod outer;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

/// Which of the three processes this is; unset in the outer one.
const ROLE: &str = "BUNRAKU_STACK";

/// The directory of the stack, as seen inside.
const DIRECTORY: &str = "BUNRAKU_STACK_DIR";

/// Set when a success leaves everything running.
const KEEP: &str = "BUNRAKU_STACK_KEEP";

/// What is different inside.
#[derive(Clone, Debug)]
pub struct World {
    /// Lines for /etc/hosts.
    pub hosts: String,
    /// A user that exists, beside the machine's own.
    pub user: &'static str,
    /// Whether a success leaves everything running.
    pub keep: bool,
}

/// Runs `inside` in private namespaces, in an empty directory of its own.
///
/// It must be called first in `main`, before any thread is started. It returns in the outer process, with the exit
/// status of `inside`; an error is printed there. Needs root, and asks sudo for it otherwise.
pub fn run(world: &World, inside: impl FnOnce(&Path) -> Result<()>) -> ExitCode {
    let result = match env::var(ROLE).as_deref() {
        Err(_) => outer::run(world),
        Ok("init") => init::run(world),
        Ok(_) => env::var(DIRECTORY)
            .context("the directory of the stack is not known")
            .and_then(|directory| inside(Path::new(&directory)))
            .map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// What the harness keeps from run to run (the compiled Puppet Server, a CA), as seen from everywhere.
pub fn cache() -> PathBuf {
    state().join("cache")
}

fn state() -> PathBuf {
    workspace().join("target/bunraku")
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies one level below the root")
}
