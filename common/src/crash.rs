//! Places at which a test kills the process, as `kill -9` and power cuts do: at an exact step, and without a word.
//!
//! Both programs name the steps of a deploy with [`point`]. Only debug builds have these places; in a release nothing
//! of them is left, not even the variable's name.

use std::fmt::Display;

/// Kills this process when `BUNRAKU_CRASH_AT` names this place: `after:node-staged`, or `after:node-staged:2` for the
/// second time that it comes here.
#[cfg(debug_assertions)]
pub fn point(place: impl Display) {
    use rustix::process::{Signal, getpid, kill_process};
    static ARMED: std::sync::LazyLock<Option<armed::Armed>> =
        std::sync::LazyLock::new(|| Some(armed::Armed::parse(&std::env::var("BUNRAKU_CRASH_AT").ok()?)));
    let Some(armed) = &*ARMED else { return };
    if armed.is_due(&place.to_string()) {
        eprintln!("crash point {place}");
        let _never_returns = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_place: impl Display) {}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug)]
    pub(super) struct Armed {
        place: String,
        /// How often the place is still passed, this time included.
        left: AtomicU32,
    }

    impl Armed {
        pub(super) fn parse(text: &str) -> Self {
            let counted = text.rsplit_once(':').and_then(|(place, n)| Some((place, n.parse().ok()?)));
            let (place, times) = counted.unwrap_or((text, 1));
            Self { place: place.to_owned(), left: AtomicU32::new(times) }
        }

        pub(super) fn is_due(&self, place: &str) -> bool {
            self.place == place && self.left.fetch_sub(1, Ordering::SeqCst) == 1
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_place_is_due_at_the_time_that_was_named_and_only_then() {
            let armed = Armed::parse("after:node-staged:2");
            let passes =
                ["before:node-staged", "after:node-staged", "after:node-staged", "after:node-staged"];
            assert_eq!(passes.map(|place| armed.is_due(place)), [false, false, true, false]);
            assert!(Armed::parse("swap-after").is_due("swap-after"));
        }
    }
}
