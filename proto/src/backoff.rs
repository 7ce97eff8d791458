//! How long to wait before dialling again. Pure: the caller brings the randomness and sleeps.

use std::time::Duration;

/// Highest wait after the first failure: a controller that restarts is back within it.
const FIRST: Duration = Duration::from_millis(250);
/// Highest wait ever. 10,000 nodes spread over it ask for 500 handshakes a second, which one core can give.
const LONGEST: Duration = Duration::from_secs(20);

/// The wait before attempt `attempt` (0: the first one after a failure), with full jitter: evenly spread between
/// nothing and a limit that doubles each time. `asked` is the wait that the controller asked for; the jitter comes on
/// top of it, so that nodes that were told the same do not come back at the same instant.
pub fn wait(attempt: u32, asked: Option<Duration>, random: u64) -> Duration {
    let limit = FIRST.saturating_mul(1 << attempt.min(16)).min(LONGEST);
    let limit = u64::try_from(limit.as_micros()).expect("at most 20 s");
    let jitter = (u128::from(limit) * u128::from(random)) >> 64;
    asked.unwrap_or_default() + Duration::from_micros(u64::try_from(jitter).expect("below the limit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_to_a_limit_and_no_further() {
        let longest = |attempt| wait(attempt, None, u64::MAX);
        assert!(longest(0) < FIRST && longest(0) > FIRST / 2);
        assert!(longest(1) > FIRST);
        assert!(longest(7) < LONGEST && longest(7) > LONGEST / 2);
        assert!(longest(u32::MAX) < LONGEST);
    }

    #[test]
    fn the_wait_is_spread_from_nothing_on() {
        assert_eq!(wait(9, None, 0), Duration::ZERO);
        let half = wait(9, None, u64::MAX / 2);
        assert!(half > LONGEST * 4 / 10 && half < LONGEST * 6 / 10, "{half:?}");
    }

    #[test]
    fn nobody_comes_back_before_the_controller_wants_it() {
        let asked = Duration::from_secs(60);
        assert_eq!(wait(0, Some(asked), 0), asked);
        assert!(wait(0, Some(asked), u64::MAX) > asked);
    }
}
