//! Points at which a test kills this process, as `kill -9` would, in the middle of a deploy. Compiled out of releases.

/// Ends the process at once when `BUNRAKU_CRASH_AT` names this point: `after:staging-started`.
#[cfg(feature = "failpoints")]
pub(crate) fn point(when: &str, what: &str) {
    let Ok(at) = std::env::var("BUNRAKU_CRASH_AT") else { return };
    if at.split_once(':') == Some((when, what)) {
        eprintln!("crash point {at}");
        let _never_returns =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn point(_when: &str, _what: &str) {}
