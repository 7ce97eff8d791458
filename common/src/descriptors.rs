//! How many files and connections this process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, as a daemon that never calls `select(2)` may. (The soft limit is 1024 by
/// default: too low for a controller with as many nodes, and for a node that links large trees.) Answers the limit that
/// holds then; `None`: unlimited.
pub fn raise_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    let raised = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_ok() { raised } else { before }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!((limit.current, raised), (limit.maximum, limit.maximum));
    }
}
