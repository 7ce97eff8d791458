//! Time as the engine sees it: milliseconds that are journalled with each record, advanced by the monotonic clock,
//! never back. Wall time is only shown, and used in certificates.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bunraku_engine::Millis;

/// At a start, controller time goes on from the last record plus the wall-clock difference, but never by more: a wall
/// clock that jumped must not end every deadline at once.
const MOST_SKIPPED_AT_START: Duration = Duration::from_secs(3600);
/// A jump of the wall clock that is an alarm, and stops the issuing of certificates.
pub(crate) const ALARMING_JUMP: Duration = Duration::from_secs(300);

/// Controller time of one run.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    started: Instant,
    at_start: Millis,
    wall_at_start: u64,
}

impl Clock {
    /// Goes on from the last journalled record: its controller time and its wall time (Unix ms).
    pub(crate) fn continuing(last: Option<(Millis, u64)>) -> Self {
        let wall = wall_ms();
        let at_start = last.map_or(0, |(at, wall_then)| {
            at + wall.saturating_sub(wall_then).min(MOST_SKIPPED_AT_START.as_millis() as u64)
        });
        Self { started: Instant::now(), at_start, wall_at_start: wall }
    }

    pub(crate) fn now(&self) -> Millis {
        self.at_start + self.started.elapsed().as_millis() as u64
    }

    /// How long this run has lasted.
    pub(crate) fn up(&self) -> Duration {
        self.started.elapsed()
    }

    /// How far the wall clock has moved against the monotonic one since the start, if that is alarming.
    pub(crate) fn jumped(&self) -> Option<Duration> {
        let expected = self.wall_at_start + self.started.elapsed().as_millis() as u64;
        let off = Duration::from_millis(wall_ms().abs_diff(expected));
        (off > ALARMING_JUMP).then_some(off)
    }

    /// Unix seconds, unless the wall clock has jumped: nothing may be forgotten for its age by a clock that is wrong
    /// (denials of revoked identities, the audit).
    pub(crate) fn trusted_wall_s(&self) -> Option<u64> {
        self.jumped().is_none().then(wall_s)
    }
}

/// Unix milliseconds by the wall clock.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Unix seconds by the wall clock.
pub(crate) fn wall_s() -> u64 {
    wall_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f11_controller_time_never_goes_back_over_a_restart() {
        let in_the_future = wall_ms() + 365 * 86_400_000;
        assert!(Clock::continuing(Some((5_000, in_the_future))).now() >= 5_000);
    }

    #[test]
    fn f11_a_wall_clock_that_jumped_ahead_skips_an_hour_at_most() {
        let a_year_ago = wall_ms() - 365 * 86_400_000;
        let now = Clock::continuing(Some((5_000, a_year_ago))).now();
        assert!((3_605_000..3_700_000).contains(&now), "{now}");
    }

    #[test]
    fn f11_nothing_grows_old_by_a_clock_that_jumped() {
        let right = Clock::continuing(None);
        assert!(right.trusted_wall_s().is_some());
        for off in [-31_536_000_000_i64, -360_000, 360_000, 31_536_000_000] {
            let jumped =
                Clock { wall_at_start: right.wall_at_start.saturating_add_signed(-off), ..right.clone() };
            assert_eq!(jumped.trusted_wall_s(), None, "{off}");
        }
    }
}
