//! The numbers an operator may choose. They are part of the state (a fact changes them), so that a replay of the
//! journal decides as the first run did.

use serde::{Deserialize, Serialize};

use crate::{Millis, OnStaleRuby, Policy};

/// Times are in milliseconds of controller time unless a name says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A build that has not answered by then has failed. The builder's own deadline is shorter and says more.
    pub build_deadline: Millis,
    /// From the start of staging until a compiler that has not staged counts as a fault of the node.
    pub stage_deadline: Millis,
    /// From the commit decision until the compilers that are not proven are recorded as behind.
    pub commit_deadline: Millis,
    /// A node is unreachable after so long without a connection while the controller has been up for as long.
    pub unreachable: Millis,
    /// How long an abandoned staged version is asked to be discarded: an offer, nodes clean up by themselves too.
    pub discard: Millis,
    /// From a drain's decision until every balancer that carries the compiler must have done it; else it is undone.
    pub balance_deadline: Millis,
    /// Over how many seconds a balancer that can lets an enabled compiler's share grow; 0: as its own config says.
    pub slow_start_s: u32,
    /// What a compiler that cannot stage does to a deploy that names no policy.
    pub policy: Policy,
    /// What becomes of Ruby that stays in the interpreters after a deploy.
    pub on_stale_ruby: OnStaleRuby,
    /// Whether canaries are revoked to prove that Puppet Servers enforce a CRL.
    pub crl_proof: bool,
    /// How many canaries are kept ready.
    pub crl_canaries: usize,
    /// Whether compilers that lack a revocation are taken out of service.
    pub crl_drain: bool,
    /// After so long without it.
    pub crl_deadline: Millis,
    /// Builds at once, over all environments.
    pub parallel_builds: usize,
    /// Committed snapshots of an environment that can be rolled back to.
    pub retained: usize,
    /// Ended deploys that are remembered in the state; the journal keeps more.
    pub ended_deploys: usize,
    /// Whether an existing real environment directory on a compiler may become a managed link.
    pub adopt: bool,
    /// Seconds after its end in which an expired identity may renew itself, and nothing else.
    pub renew_grace_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        const MINUTE: Millis = 60_000;
        Self {
            build_deadline: 60 * MINUTE,
            stage_deadline: 10 * MINUTE,
            commit_deadline: 5 * MINUTE,
            unreachable: MINUTE,
            discard: 5 * MINUTE,
            balance_deadline: MINUTE,
            slow_start_s: 0,
            policy: Policy::Drain,
            on_stale_ruby: OnStaleRuby::Offer,
            crl_proof: false,
            crl_canaries: 2,
            crl_drain: true,
            crl_deadline: 10_000,
            parallel_builds: 2,
            retained: 10,
            ended_deploys: 200,
            adopt: true,
            renew_grace_s: 30 * 86_400,
        }
    }
}
