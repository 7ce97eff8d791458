//! Tells a person what is going on: one short line per event, with the time since the start.

use std::{fmt::Display, time::Instant};

/// A narrator. It may be shared between threads; every line is printed whole.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Progress {
    /// One line: what has happened.
    pub fn say(&self, what: impl Display) {
        println!("{:7.1} s  {what}", self.start.elapsed().as_secs_f64());
    }

    /// A heading for the lines that follow.
    pub fn heading(&self, what: impl Display) {
        println!("\n{:7.1} s  == {what}", self.start.elapsed().as_secs_f64());
    }

    /// Does something, and says how long it took.
    ///
    /// ```
    /// # let progress = bunraku_tests::progress::Progress::default();
    /// let sum = progress.timed("added", || 1 + 1);
    /// # assert_eq!(sum, 2);
    /// ```
    pub fn timed<T>(&self, what: impl Display, act: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = act();
        self.say(format_args!("{what} ({:.1} s)", start.elapsed().as_secs_f64()));
        result
    }
}
