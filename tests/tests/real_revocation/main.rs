//! Puppet's revocations on the real stack: from `puppetserver ca revoke` to the proof that every compiler refuses, and
//! what faults on the way leave behind (I8, I11, F21). The fleet with a CA of files stands in `fleet_crl`.
//!
//! The tests share one stack and run in the order of the list; the first one needs a CA without canaries.

mod canaries;
mod delivery;
mod enforced;
mod faults;
mod site;

use std::process::ExitCode;

use bunraku_tests::{
    namespace, stack,
    suite::{self, Test},
};
use site::Site;

const TESTS: &[Test<Site>] = &[
    ("without_proof_a_change_is_delivered_and_the_ca_knows_no_canary", delivery::without_proof),
    ("i8_a_revoked_agent_is_refused_by_every_compiler_and_that_is_proven", enforced::agent),
    ("a_connection_from_before_is_answered_until_it_ends", enforced::open_before),
    ("changes_within_a_second_share_one_canary_and_canaries_start_no_round", canaries::shared),
    ("f21_a_controller_killed_anywhere_in_a_round_ends_it_after_its_restart", faults::controller_killed),
    ("f21_a_compiler_whose_agent_was_away_serves_nobody_before_it_is_proven", faults::agent_away),
    ("f21_i11_a_damaged_crl_is_put_back_and_refuses_nobody_wrongly", faults::damaged),
    ("f21_a_puppet_server_that_is_down_is_unproven_with_the_reason_and_then_proven", faults::server_down),
    ("without_its_ca_a_change_by_file_is_delivered_and_status_says_what_lacks", delivery::without_ca),
    ("a_canary_s_key_is_the_controller_s_alone_until_its_revocation", canaries::keys),
    ("connections_from_before_end_when_they_are_idle", enforced::idle),
];

fn main() -> ExitCode {
    if !suite::selects_any(TESTS) {
        return ExitCode::SUCCESS;
    }
    namespace::run(&stack::world(false), |directory| {
        let mut site = Site::up(directory)?;
        suite::run(&mut site, TESTS)?;
        site.stop()
    })
}
