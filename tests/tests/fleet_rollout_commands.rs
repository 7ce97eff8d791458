//! `bunraku rollout …` as programs and scripts meet it: exit codes, JSON, no terminal, Ctrl-C. The program itself, against
//! a controller in this process.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use bunraku_tests::{
    fleet::{Fleet, restart, three_actors, until},
    installed::{Said, program},
};
use rustix::process::{Pid, Signal, kill_process};

fn bunraku(fleet: &Fleet, line: &str) -> Command {
    command(fleet, &format!("rollout {line}"))
}

fn command(fleet: &Fleet, line: &str) -> Command {
    let mut command = program("bunraku").unwrap();
    command.env("BUNRAKU_SOCKET", &fleet.main().config().socket).args(line.split(' '));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// To its end, while this test's controller goes on.
async fn said(mut command: Command) -> Said {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_needs_a_yes_ends_with_0_when_all_are_done_and_with_json_prints_json_alone() {
    let (fleet, actors) = three_actors().await;
    let asked = said(bunraku(&fleet, "start restart --bake 0s")).await;
    assert_eq!(asked.code, 2, "{asked:?}");
    assert!(
        asked.err.contains("this needs a yes, and there is no terminal to ask on\nhint: add --yes"),
        "{asked:?}"
    );
    assert!(asked.out.contains("restart of 3 compilers in 3 waves"), "the plan stands before the question");
    assert_eq!(actors[0].orders("prepare").len(), 0);

    let done = said(bunraku(&fleet, "start restart --bake 0s --yes -o json")).await;
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{done:?}");
    let json: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((json["phase"].as_str(), json["turns"][2]["phase"].as_str()), (Some("done"), Some("done")));

    let done = said(bunraku(&fleet, "start restart --bake 0s --yes --nodes c2 c3")).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.err.contains("rollout 2 has started\nnext: bunraku rollout show 2 --watch"), "{done:?}");
    assert!(done.out.contains("rollout 2 (restart) is done, 2 of 2 done"), "{done:?}");
    assert_eq!([0, 1, 2].map(|index: usize| actors[index].times("act")), [1, 2, 2]);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_halts_ends_the_command_with_9_and_one_that_is_aborted_the_watcher_with_1() {
    let (fleet, [c1, _c2, _c3]) = three_actors().await;
    c1.fails("prepare", "conf.d/web.conf: line 3 is no HOCON");
    let halted = said(bunraku(&fleet, "start restart --bake 0s --yes")).await;
    assert_eq!(halted.code, 9, "{halted:?}");
    assert!(
        halted.out.contains("rollout 1 (restart) is paused, 0 of 3 done: c1 failed: conf.d/web.conf"),
        "{halted:?}"
    );
    assert!(halted.out.contains("next: bunraku rollout retry 1 c1"), "{halted:?}");

    let blocked = said(bunraku(&fleet, "plan restart")).await;
    assert_eq!(blocked.code, 6, "{blocked:?}");
    assert!(
        blocked.out.contains("! c1 is part of rollout 1\n    hint: bunraku rollout show 1"),
        "{blocked:?}"
    );
    let refused = said(bunraku(&fleet, "start restart --yes")).await;
    assert_eq!((refused.code, refused.out.as_str()), (6, ""), "{refused:?}");
    assert!(
        refused.err.ends_with("error: c1 is part of rollout 1\nhint: bunraku rollout show 1\n"),
        "{refused:?}"
    );

    let watching = tokio::spawn(said(bunraku(&fleet, "show 1 --watch")));
    let aborted = said(bunraku(&fleet, "abort 1 --reason upgrade")).await;
    assert_eq!(aborted.code, 0, "{aborted:?}");
    let watched = watching.await.unwrap();
    assert_eq!(watched.code, 1, "{watched:?}");
    assert!(watched.out.contains("rollout 1 (restart) was aborted, 0 of 3 done"), "{watched:?}");
    for (line, code) in
        [("show 7", 5), ("resume 1", 6), ("retry 1 c1", 6), ("start update puppetserver --yes", 2)]
    {
        let refused = said(bunraku(&fleet, line)).await;
        assert_eq!(refused.code, code, "{line}: {refused:?}");
        assert!(
            refused.err.starts_with("error: ") && refused.err.contains("\nhint: "),
            "{line}: {refused:?}"
        );
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_only_the_looking_and_says_how_to_look_again() {
    let (fleet, [c1, _c2, _c3]) = three_actors().await;
    c1.goes_on("act", "it restarts");
    let child = bunraku(&fleet, "start restart --bake 0s --yes").spawn().unwrap();
    let pid = Pid::from_child(&child);
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output());
    // It has its handler once it looks on; before that it would end without a word, and the rollout goes on all the same.
    until("it looks on", || async { c1.orders("act").len() > 1 }).await;
    kill_process(pid, Signal::INT).unwrap();
    let output = waiting.await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("no longer looking; rollout 1 goes on\nhint: bunraku rollout show 1 --watch"),
        "{told}"
    );
    c1.goes_well("act");
    fleet.main().until_rollout(1, "done").await;
    fleet.end().await;
}

/// A script that waits must not learn of a restart of the controller.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_looks_on_outlives_a_restart_of_the_controller() {
    let (mut fleet, [c1, _c2, _c3]) = three_actors().await;
    c1.goes_on("hold", "a Puppet run goes on");
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    let watching = tokio::spawn(said(bunraku(&fleet, &format!("show {id} --watch"))));
    until("c1 is asked again", || async { c1.orders("hold").len() > 1 }).await;
    fleet.main_mut().restart().await;
    c1.goes_well("hold");
    let watched = tokio::time::timeout(Duration::from_secs(60), watching).await.unwrap().unwrap();
    assert_eq!(watched.code, 0, "{watched:?}");
    // For a log: a line for each change, none twice.
    let lines: Vec<&str> = watched.err.lines().collect();
    assert!(lines.iter().any(|line| line.contains("c1 is settling, until ")), "{watched:?}");
    assert!(lines.windows(2).all(|two| two[0] != two[1]), "{watched:?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_gets_another_version_on_the_way_and_a_restart_has_none() {
    let (fleet, [c1, c2, c3]) = three_actors().await;
    c1.fails("prepare", "no repository of this host has puppetserver 8.1");
    let halted =
        said(bunraku(&fleet, "start update puppetserver=8.1 --bake 0s --verdict health --yes")).await;
    assert_eq!(halted.code, 9, "{halted:?}");
    assert!(halted.out.contains("rollout 1 (update puppetserver=8.1) is paused"), "{halted:?}");
    let wrong = said(bunraku(&fleet, "retarget 1 8;1")).await;
    assert!(wrong.code != 0 && wrong.err.contains("`8;1` cannot be a version"), "{wrong:?}");
    let changed = said(bunraku(&fleet, "retarget 1 8.2 -o json")).await;
    assert_eq!(changed.code, 0, "{changed:?}");
    let shown = said(bunraku(&fleet, "show 1")).await;
    assert!(shown.out.contains("rollout 1 (update puppetserver=8.2) is paused"), "{shown:?}");
    assert_eq!(said(bunraku(&fleet, "skip 1 c1")).await.code, 0);
    assert_eq!(said(bunraku(&fleet, "resume 1")).await.code, 0);
    fleet.main().until_rollout(1, "done").await;
    assert_eq!([&c1, &c2, &c3].map(|actor| actor.times("act")), [0, 1, 1]);

    let started = said(bunraku(&fleet, "start restart --nodes c2 --no-wait --yes")).await;
    assert_eq!(started.code, 0, "{started:?}");
    let refused = said(bunraku(&fleet, "retarget 2 8.3")).await;
    assert!(refused.code != 0 && refused.err.contains("rollout 2 is a restart, which has no version"));
    fleet.end().await;
}

/// This host has Debian's puppetserver, and is the main server of these compilers.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_warns_where_the_main_server_would_be_older_than_its_compilers() {
    let (fleet, _actors) = three_actors().await;
    let newer = said(bunraku(&fleet, "plan update puppetserver=99.1-1")).await;
    assert!(newer.out.contains("  ! the main server, which is the CA, has puppetserver 7."), "{newer:?}");
    assert!(newer.out.contains("    hint: update puppetserver on the main server first\n"), "{newer:?}");
    for line in ["plan update puppetserver=1.0", "plan update tree=99.1-1", "plan restart"] {
        let other = said(bunraku(&fleet, line)).await;
        assert!(!other.out.contains("main server"), "{line}: {other:?}");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compilers_are_chosen_by_labels_that_outlive_the_controller() {
    let (mut fleet, actors) = three_actors().await;
    let labelled = said(command(&fleet, "nodes label c2 dc=paris rack-b2")).await;
    assert_eq!((labelled.code, labelled.out.as_str()), (0, "c2 has these labels: dc=paris, rack-b2\n"));
    let again = said(command(&fleet, "nodes label c2 dc=paris")).await;
    assert_eq!(again.out, "c2 has these labels as before: dc=paris, rack-b2\n");
    let wrong = said(command(&fleet, "nodes label c2 Paris!")).await;
    assert!(wrong.code != 0 && wrong.err.contains("`Paris!` is not a label: 1 to 64 of a-z"), "{wrong:?}");
    fleet.main_mut().stop().await;
    fleet.main_mut().start().await.unwrap();
    for name in ["c1", "c2", "c3"] {
        fleet.main().until_connected(name).await;
        fleet.main().until_balanced(name, "in service").await;
    }
    let nobody = said(bunraku(&fleet, "plan restart --label dc=rome")).await;
    assert_eq!(nobody.code, 6, "{nobody:?}");
    assert!(nobody.out.contains("no compiler has the label dc=rome"), "{nobody:?}");
    let done = said(bunraku(&fleet, "start restart --label dc=paris --bake 0s --yes")).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!([0, 1, 2].map(|index: usize| actors[index].times("act")), [0, 1, 0]);
    let shown = said(command(&fleet, "nodes show c2")).await;
    assert!(shown.out.contains("labels          dc=paris, rack-b2"), "{}", shown.out);
    fleet.end().await;
}
