//! `bunraku compiler add` and `remove`: from a bare Puppet Server to one that gets agents, whatever cuts it on the way.
//! The program itself, against a controller and node agents in this process; HAProxy is real. The certificate, which
//! needs a CA, is the part of the real test.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{fs, process::Command};

use bunraku_tests::{
    fleet::{Fleet, Mood, end_services, until},
    installed::{Said, program},
    running::Running,
};

const ADD: &str = "add c3 --no-certificate";

/// Two compilers behind a balancer that carries a third, which is bare.
async fn two_and_a_bare_one() -> Fleet {
    let mut fleet = Fleet::new().nodes(2).puppet_door().up().await;
    fleet.deploy_change("production", "committed").await;
    fleet.add_bare("c3").await;
    fleet.add_balancer("lb1", &["c1", "c2", "c3"]).await;
    fleet
}

fn bunraku(fleet: &Fleet, line: &str) -> Command {
    let mut command = program("bunraku").unwrap();
    command.env("BUNRAKU_SOCKET", &fleet.main().config().socket).arg("compiler").args(line.split(' '));
    command
}

fn begin(fleet: &Fleet, line: &str) -> Running {
    Running::start(&mut bunraku(fleet, line))
}

async fn said(fleet: &Fleet, line: &str) -> Said {
    begin(fleet, line).end().await
}

/// To its end, with the line that it prints pasted, and Puppet Server started by hand.
async fn added(fleet: &Fleet) -> Said {
    let add = begin(fleet, ADD);
    let line = add.line("echo ").await;
    fleet.node("c3").paste(&line).await;
    add.line("3/5 certificate").await;
    fleet.node("c3").puppet_server().set_mood(Mood::default());
    add.end().await
}

async fn end(fleet: Fleet) {
    end_services(fleet.node("c3"));
    fleet.end().await;
}

fn outcomes(said: &Said) -> Vec<&str> {
    let steps = said.out.lines().filter(|line| line.get(1..2) == Some("/"));
    steps.map(|line| line.split("  ").last().unwrap().split(':').next().unwrap().trim()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_host_becomes_a_compiler_in_one_command_and_gets_no_agents_before_it_is_ready() {
    let fleet = two_and_a_bare_one().await;
    let c3 = fleet.node("c3");
    let add = begin(&fleet, ADD);
    let line = add.line("echo ").await;
    c3.paste(&line).await;
    add.line("2/5 set up").await;
    add.progress("c3 to prove environment production").await;
    assert_eq!(fleet.main().at_balancers("c3").await.reason, "it is being added");
    fleet.main().until_balanced("c3", "drained").await;
    assert_eq!(fleet.balancer("lb1").haproxy().up().await, 2, "I3");
    // It is started, by whoever does that without a certificate.
    c3.puppet_server().set_mood(Mood::default());
    let done = add.end().await;
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.ends_with("5/5 balancer     done: puppet/c3 at lb1\nc3 is in service\n"), "{done:?}");
    assert_eq!(outcomes(&done), ["done", "done", "skipped", "done", "done"], "{done:?}");
    assert_eq!(fleet.main().at_balancers("c3").await.state, "in service");

    let (conf, services) =
        (fs::read_to_string(c3.puppet_conf()).unwrap(), fs::read_to_string(c3.ca_cfg()).unwrap());
    assert!(conf.starts_with("[main]\nca_server = main.test\n# as it was installed\n"), "{conf}");
    assert!(services.contains("\n#puppetlabs.services.ca.certificate-authority-service/"), "{services}");
    assert!(
        services.contains("\npuppetlabs.services.ca.certificate-authority-disabled-service/"),
        "{services}"
    );
    let record = fleet.main().until_recorded("compiler-set-up", "c3", 1).await;
    assert_eq!(record.what, "root set up c3 as a compiler");

    // Once more: all of it is so, and nobody is drained.
    let generation = fleet.main().at_balancers("c3").await.generation;
    let again = said(&fleet, ADD).await;
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(outcomes(&again), ["already so", "already so", "skipped", "done", "already so"], "{again:?}");
    assert_eq!(fleet.main().at_balancers("c3").await.generation, generation);
    let json: serde_json::Value =
        serde_json::from_str(&said(&fleet, &format!("{ADD} -o json")).await.out).unwrap();
    assert_eq!(
        (json["state"].as_str(), json["steps"][1]["step"].as_str()),
        (Some("in service"), Some("set up"))
    );
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_runs_out_is_replaced_by_another_line() {
    let fleet = two_and_a_bare_one().await;
    let add = begin(&fleet, &format!("{ADD} --ttl 1s"));
    let first = add.line("echo ").await;
    let second = add.nth_line("echo ", 2).await;
    assert_ne!(first, second);
    drop(add);
    let done = added(&fleet).await;
    assert_eq!(done.code, 0, "{done:?}");
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_cuts_it_the_same_command_goes_on_from_there() {
    let mut fleet = two_and_a_bare_one().await;
    // Ctrl-C while it waits for the host.
    let add = begin(&fleet, ADD);
    add.line("echo ").await;
    add.progress("c3 to enrol with the line above").await;
    add.interrupt();
    let cut = add.end().await;
    assert_eq!(cut.code, 130, "{cut:?}");
    assert!(cut.err.contains("hint: bunraku compiler add c3 --no-certificate\n"), "{cut:?}");

    // The controller ends and comes back meanwhile, twice.
    let add = begin(&fleet, ADD);
    let line = add.line("echo ").await;
    fleet.main_mut().restart().await;
    fleet.node("c3").paste(&line).await;
    add.progress("c3 to prove environment production").await;
    fleet.main_mut().restart().await;
    fleet.main().until_connected("c3").await;

    // Ctrl-C while it waits for Puppet Server; the agent ends, and is started again.
    add.interrupt();
    assert_eq!(add.end().await.code, 130);
    fleet.node("c3").stop().await;
    fleet.main().until_gone("c3").await;
    let add = begin(&fleet, ADD);
    add.progress("the agent of c3, which is enrolled, to connect").await;
    fleet.node("c3").start().await.unwrap();
    add.line("2/5 set up       already so").await;
    assert_ne!(fleet.main().at_balancers("c3").await.state, "in service");
    fleet.node("c3").puppet_server().set_mood(Mood::default());
    let done = add.end().await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(outcomes(&done), ["done", "already so", "skipped", "done", "done"], "{done:?}");
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_was_removed_is_out_and_can_be_added_again() {
    let fleet = two_and_a_bare_one().await;
    assert_eq!(added(&fleet).await.code, 0);
    let asked = said(&fleet, "remove c3").await;
    assert_eq!(asked.code, 2, "{asked:?}");
    let removed = said(&fleet, "remove c3 --yes").await;
    assert_eq!(removed.code, 0, "{removed:?}");
    assert_eq!(outcomes(&removed), ["done", "skipped", "done"], "{removed:?}");
    assert!(
        removed.out.contains("left to be taken out by hand, and drained until then: puppet/c3 at lb1"),
        "{removed:?}"
    );
    assert_eq!(fleet.balancer("lb1").haproxy().up().await, 2);
    assert_eq!(said(&fleet, "remove c3 --yes").await.code, 5, "it is not known any more");
    let node = fleet.node("c3");
    node.stop().await;
    let back = added(&fleet).await;
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(outcomes(&back), ["done", "already so", "skipped", "done", "done"], "{back:?}");
    assert_eq!(fleet.balancer("lb1").haproxy().up().await, 3);
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_one_that_the_floor_needs_is_not_removed() {
    let fleet = two_and_a_bare_one().await;
    assert_eq!(added(&fleet).await.code, 0);
    for compiler in ["c1", "c2"] {
        fleet.main().drain(compiler, "new memory").await.unwrap();
        fleet.main().until_balanced(compiler, "drained").await;
    }
    let refused = said(&fleet, "remove c3 --yes").await;
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.err.contains("would have 0 compilers in service, at least 1 must stay"), "{refused:?}");
    assert!(fleet.main().node("c3").await.connected);
    for compiler in ["c1", "c2"] {
        fleet.main().enable(compiler).await.unwrap();
    }
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_a_ca_is_left_as_it_is() {
    let fleet = two_and_a_bare_one().await;
    let c3 = fleet.node("c3");
    fs::create_dir(c3.dir().join("ca")).unwrap();
    fs::write(c3.dir().join("ca/ca_key.pem"), "").unwrap();
    let before = fs::read_to_string(c3.ca_cfg()).unwrap();
    let add = begin(&fleet, ADD);
    c3.paste(&add.line("echo ").await).await;
    let refused = add.end().await;
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.err.contains("c3 was not set up: "), "{refused:?}");
    assert!(refused.err.contains("hint: if it was only made by Puppet Server's first start"), "{refused:?}");
    assert_eq!(fs::read_to_string(c3.ca_cfg()).unwrap(), before);
    assert_eq!(fs::read_to_string(c3.puppet_conf()).unwrap(), "[main]\n# as it was installed\n");
    fs::remove_dir_all(c3.dir().join("ca")).unwrap();
    let add = begin(&fleet, ADD);
    add.line("2/5 set up       done").await;
    c3.puppet_server().set_mood(Mood::default());
    assert_eq!(add.end().await.code, 0);
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_balancer_carries_it_the_lines_to_write_are_told_and_the_command_ends_with_6() {
    let mut fleet = Fleet::new().nodes(2).puppet_door().up().await;
    fleet.deploy_change("production", "committed").await;
    fleet.add_bare("c3").await;
    // One that was started too early.
    fleet.node("c3").puppet_server().set_mood(Mood::default());
    let add = begin(&fleet, ADD);
    fleet.node("c3").paste(&add.line("echo ").await).await;
    let early = add.end().await;
    assert_eq!(early.code, 6, "{early:?}");
    assert!(
        early.err.contains("hint: on c3: systemctl restart puppetserver; then run this again"),
        "{early:?}"
    );
    let alone = said(&fleet, ADD).await;
    assert_eq!(alone.code, 0, "there is no balancer: {alone:?}");
    fleet.add_balancer("lb1", &["c1", "c2"]).await;
    let waits = said(&fleet, ADD).await;
    assert_eq!(waits.code, 6, "{waits:?}");
    assert!(waits.out.contains("          \"c3\" = [\"puppet/c3\"]\n"), "{waits:?}");
    assert!(waits.out.contains("          server c3 c3:8140 check weight 100\n"), "{waits:?}");
    assert!(waits.out.ends_with("next: bunraku compiler add c3 --no-certificate\n"), "{waits:?}");
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lacks_is_told_before_anybody_pastes_a_line() {
    let fleet = two_and_a_bare_one().await;
    let wrong = said(&fleet, "add c3").await;
    assert_eq!((wrong.code, wrong.out.as_str()), (2, ""), "{wrong:?}");
    assert!(wrong.err.contains("--dns-alt-names puppet.example.com"), "{wrong:?}");
    let other = said(&fleet, "add lb1 --no-certificate").await;
    assert_eq!(other.code, 6, "{other:?}");
    until("nobody was drained", || async { fleet.balancer("lb1").haproxy().up().await == 3 }).await;
    end(fleet).await;
}
