//! Bunraku on the real stack: Puppet Servers, HAProxy, r10k and git as they are, the controller and two agents as
//! processes. What each test is about stands in its name; the invariants (I…) and faults (F…) are those of the design.
//!
//! The tests share one stack and run in the order of the list: the first two take it over from r10k. With a name filter,
//! what a chosen test needs is done without being tested.

mod adoption;
mod balanced;
mod catalog;
mod catalogs;
mod commits;
mod compilers;
mod doctor;
mod killed;
mod owed;
mod people;
mod revoked;
mod rollback;
mod site;

use std::process::ExitCode;

use bunraku_tests::{
    namespace, stack,
    suite::{self, Test},
};
use site::Site;

const TESTS: &[Test<Site>] = &[
    ("the_doctor_names_the_exact_lines_that_a_compiler_lacks_and_adds_them", doctor::mended),
    ("i1_a_reader_never_misses_the_environment_while_its_directory_becomes_a_link", adoption::adopted),
    ("i1_every_catalog_is_wholly_old_or_wholly_new_while_pushes_are_deployed_under_load", balanced::pushes),
    ("the_code_id_is_the_digest_and_any_compiler_serves_its_files_later", catalogs::served_by_the_other),
    ("i4_two_environments_are_deployed_side_by_side", commits::side_by_side),
    ("a_link_that_leaves_the_tree_is_refused_by_name_and_nothing_changes", commits::hostile_link),
    ("a_puppetfile_that_is_broken_or_names_nothing_changes_nothing", commits::broken_puppetfile),
    ("a_rollback_needs_no_git_and_takes_seconds", rollback::without_git),
    ("i2_a_compiler_whose_puppet_server_is_down_is_behind_on_record_and_then_proven", owed::server_down),
    ("i9_with_both_programs_killed_while_committing_the_agent_alone_settles_the_flush", owed::agent_alone),
    ("f1_a_controller_killed_while_building_goes_on", killed::controller_building),
    ("f1_a_controller_killed_while_staging_goes_on", killed::controller_staging),
    ("f1_a_controller_killed_at_the_commit_decision_keeps_it", killed::controller_committing),
    ("f2_an_agent_killed_while_staging_is_staged_again", killed::agent_staging),
    ("f2_an_agent_killed_after_the_flush_is_proven_by_the_next_one", killed::agent_committing),
    ("the_doctor_finds_a_relative_link_and_the_controller_mends_it", doctor::relative_link),
    ("a_new_compiler_is_brought_everything_before_anybody_asks", compilers::joined_later),
    ("operators_elsewhere_may_do_what_their_right_covers_and_nothing_else", people::rights),
    ("i8_a_revoked_node_is_cut_and_stays_out_until_it_is_allowed_and_enrols", revoked::node),
    ("i8_a_puppet_certificate_that_is_revoked_takes_the_identity_with_it", revoked::puppet_certificate),
    ("i12_the_chain_of_the_audit_is_whole_after_all_this", people::audit),
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
