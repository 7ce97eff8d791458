//! What people read about rollouts, as snapshots. Messages are made up here, so that each state of a turn is shown once.

use bunraku_proto::v1::{RolloutBlock, RolloutInfo, RolloutPlan, RolloutPolicy, RolloutWave, TurnInfo};
use clap::Parser;

use super::{super::Cli, shown};
use crate::clock::wall_ms;

const MINUTE_MS: u64 = 60_000;
const ENDS_MS: u64 = 1_795_486_980_000;

macro_rules! shown {
    ($name:literal, $text:expr) => {
        insta::with_settings!({ snapshot_path => "../shown", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!($name, $text);
        })
    };
}

fn policy() -> RolloutPolicy {
    RolloutPolicy {
        canary: 1,
        batch: "2".into(),
        min_available: 0,
        drain_deadline_s: 600,
        step_deadline_s: 600,
        on_drain_deadline: "abort".into(),
        bake_s: 30,
        ..RolloutPolicy::default()
    }
}

fn waves() -> Vec<RolloutWave> {
    let wave = |nodes: &[&str], canary| RolloutWave {
        nodes: nodes.iter().map(|name| format!("{name}.example.com")).collect(),
        canary,
    };
    vec![wave(&["c1"], true), wave(&["c2", "c3"], false), wave(&["c4", "c5"], false)]
}

fn plan() -> RolloutPlan {
    RolloutPlan {
        action: "restart".into(),
        policy: Some(policy()),
        waves: waves(),
        floors: vec!["backend puppet of lb1.example.com: 5 in service, at least 2 must stay".into()],
        ..RolloutPlan::default()
    }
}

fn turn(node: &str, phase: &str) -> TurnInfo {
    let since_ms = wall_ms() - 3 * MINUTE_MS;
    TurnInfo { node: format!("{node}.example.com"), phase: phase.into(), since_ms, ..TurnInfo::default() }
}

fn draining() -> TurnInfo {
    TurnInfo {
        drained: true,
        waits_for: "to be empty: 2 sessions are open at the balancers".into(),
        waits_until_ms: wall_ms() + 7 * MINUTE_MS,
        then: "it is enabled again, unchanged, and the rollout halts".into(),
        ..turn("c2", "draining")
    }
}

fn settling() -> TurnInfo {
    TurnInfo {
        waits_for: "for the Puppet run that is going on there".into(),
        waits_until_ms: wall_ms() + 7 * MINUTE_MS,
        then: "the turn fails, nothing was changed".into(),
        says: "a Puppet run goes on since 12:03:11".into(),
        ..turn("c3", "settling")
    }
}

fn running() -> RolloutInfo {
    RolloutInfo {
        id: 7,
        action: "restart".into(),
        phase: "running".into(),
        who: "alice".into(),
        requested_ms: wall_ms() - 5 * MINUTE_MS,
        policy: Some(policy()),
        waves: waves(),
        turns: vec![turn("c1", "done"), draining(), settling(), turn("c4", "waiting"), turn("c5", "waiting")],
        compilers: 5,
        done: 1,
        ..RolloutInfo::default()
    }
}

/// Halted over a compiler that does not come up again.
fn halted() -> RolloutInfo {
    let why = "verifying had no end within 10 min; it stays drained";
    let failed = TurnInfo {
        reason: why.into(),
        drained: true,
        waits_for: format!(
            "for `bunraku rollout retry 7 c2.example.com`, `skip` or `abort`: it stays drained: {why}"
        ),
        says: "puppetserver.service is failed: exit code 1\nhint: journalctl -u puppetserver".into(),
        ..turn("c2", "failed")
    };
    let mut done = turn("c1", "done");
    done.notes = vec!["the restart took 71 s".into()];
    RolloutInfo {
        phase: "paused".into(),
        reason: format!("c2.example.com failed: {why}"),
        waits_for:
            "for a decision about c2.example.com, without a limit; turns under way are finished, none begins"
                .into(),
        next: "bunraku rollout retry 7 c2.example.com, or skip 7 c2.example.com, or resume 7, or abort 7"
            .into(),
        turns: vec![done, failed, turn("c3", "done"), turn("c4", "waiting"), turn("c5", "waiting")],
        done: 2,
        ..running()
    }
}

fn ended(phase: &str, reason: &str, turns: Vec<TurnInfo>) -> RolloutInfo {
    let (phase, reason) = (phase.into(), reason.into());
    let done = turns.iter().filter(|turn| turn.phase == "done").count() as u32;
    RolloutInfo { phase, reason, turns, done, ended_ms: wall_ms(), ..running() }
}

fn endings() -> Vec<RolloutInfo> {
    let all =
        |phase: &str| ["c1", "c2", "c3", "c4", "c5"].iter().map(|name| turn(name, phase)).collect::<Vec<_>>();
    let mut aborted = all("skipped");
    aborted[0].phase = "done".into();
    aborted[1..].iter_mut().for_each(|turn| turn.reason = "aborted by bob: wrong night".into());
    let mut incomplete = all("done");
    incomplete[1] = TurnInfo { reason: "it could not be drained in time".into(), ..turn("c2", "failed") };
    vec![
        ended("done", "", all("done")),
        ended("incomplete", "it went on without c2.example.com", incomplete),
        ended("aborted", "bob: wrong night", aborted),
        halted(),
    ]
}

#[test]
fn plan_shows_what_will_be_done_and_what_stands_in_the_way() {
    let mut blocked = plan();
    blocked.action = "update puppetserver=7.9.5-2".into();
    blocked.policy = Some(RolloutPolicy { on_drain_deadline: "force".into(), ..policy() });
    blocked.undrained = vec!["c5.example.com".into()];
    blocked.warnings = vec![
        "the main server, which is the CA, has puppetserver 7.9.4-1: it would be older than its compilers with 7.9.5-2 \
         (hint: update puppetserver on the main server first)"
            .into(),
    ];
    let block = |reason: &str, hint: &str| RolloutBlock { reason: reason.into(), hint: hint.into() };
    blocked.blocks = vec![
        block("c2.example.com is not connected", "bunraku nodes show c2.example.com"),
        block("c3.example.com is part of rollout 6", "bunraku rollout show 6"),
    ];
    shown!("rollout plan", format!("{}\n{}", shown::plan_text(&plan()), shown::plan_text(&blocked)));
}

#[test]
fn show_names_what_every_turn_waits_for() {
    let mut over = endings();
    let looks = [running(), halted(), over.swap_remove(2)];
    shown!("rollout show", looks.iter().map(shown::show_text).collect::<Vec<_>>().join("\n"));
}

#[test]
fn watching_is_a_tree_on_a_terminal_and_one_line_in_a_log() {
    shown!(
        "rollout watched",
        format!("{}\n\n{}", shown::lines(&running()).join("\n"), shown::lines(&halted()).join("\n"))
    );
    let mut by_the_clock = running();
    by_the_clock
        .turns
        .iter_mut()
        .filter(|turn| turn.waits_until_ms != 0)
        .for_each(|turn| turn.waits_until_ms = ENDS_MS);
    shown!("rollout in a log", format!("{}\n{}", shown::one_line(&by_the_clock), shown::one_line(&halted())));
}

#[test]
fn endings_say_who_was_not_reached_and_why() {
    shown!("endings of a rollout", endings().iter().map(shown::ending).collect::<Vec<_>>().join("\n"));
}

#[test]
fn changes_name_the_next_command() {
    let paused = RolloutInfo {
        phase: "paused".into(),
        reason: "alice: lunch".into(),
        waits_for: "for somebody to resume it, without a limit; turns under way are finished, none begins"
            .into(),
        next: "bunraku rollout resume 7".into(),
        ..running()
    };
    let aborting = RolloutInfo {
        phase: "aborting".into(),
        waits_for: "for the turns under way to be brought back; none begins".into(),
        ..running()
    };
    let changed = [paused, aborting, running()];
    let changed = changed.iter().map(shown::changed).collect::<Vec<_>>().join("\n");
    shown!("rollout changed", format!("{}\n{changed}", shown::started(&running())));
}

#[test]
fn list_fits_into_80_columns() {
    let mut update = running();
    (update.id, update.action) = (1016, "update puppetserver=7.9.5-2".into());
    let text = shown::list_text(&[update, halted(), endings().swap_remove(0)]);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    shown!("rollout list", format!("{text}\n{}", shown::list_text(&[])));
}

#[test]
fn status_shows_what_goes_on() {
    shown!(
        "status of rollouts",
        format!("{}{}", shown::status_lines(&running()), shown::status_lines(&halted()))
    );
}

/// An empty variable of a script would otherwise have meant "all".
#[test]
fn an_empty_argument_is_no_choice() {
    for line in
        ["plan restart --nodes=", "start restart --group=", "plan update ", "pause 7 --reason=", "retry 7 "]
    {
        let refused = Cli::try_parse_from(["bunraku", "rollout"].into_iter().chain(line.split(' ')));
        assert_eq!(refused.err().map(|e| e.kind()), Some(clap::error::ErrorKind::InvalidValue), "{line}");
    }
}
