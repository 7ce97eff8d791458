//! Rollouts for people: a plan, one that goes on, and how one ended.

use bunraku_proto::v1::{RolloutInfo, RolloutPlan, RolloutPolicy, RolloutWave, TurnInfo};

use super::super::{
    output::{ago, columns, count, hinted, or_dash, since, span, table},
    tokens::clock_time,
};
use crate::clock::wall_ms;

pub(crate) fn plan_text(plan: &RolloutPlan) -> String {
    let compilers = compilers(&plan.waves);
    let mut out = format!(
        "{} of {} in {}\n",
        plan.action,
        count(compilers, "compiler"),
        count(plan.waves.len() as u64, "wave")
    );
    out.push_str(&table(&["WAVE", "", "COMPILERS"], wave_rows(&plan.waves), "no compiler is chosen"));
    if let Some(policy) = &plan.policy {
        out.push_str("each compiler\n");
        for line in steps(&plan.action, policy, plan.undrained.len() as u64 == compilers) {
            out.push_str(&format!("  {line}\n"));
        }
    }
    if !plan.undrained.is_empty() {
        out.push_str(&format!(
            "without a drain, for no balancer carries them\n  {}\n",
            plan.undrained.join(", ")
        ));
    }
    if !plan.changes.is_empty() {
        out.push_str("packages\n");
        plan.changes.iter().for_each(|change| out.push_str(&format!("  {change}\n")));
    }
    if !plan.floors.is_empty() {
        out.push_str("floor\n");
        plan.floors.iter().for_each(|floor| out.push_str(&format!("  {floor}\n")));
    }
    if !plan.warnings.is_empty() {
        out.push_str("think of\n");
        plan.warnings.iter().for_each(|warning| out.push_str(&format!("  ! {}", hinted("    ", warning))));
    }
    if !plan.blocks.is_empty() {
        out.push_str("in the way\n");
        for block in &plan.blocks {
            out.push_str(&format!("  ! {}\n", block.reason));
            if !block.hint.is_empty() {
                out.push_str(&format!("    hint: {}\n", block.hint));
            }
        }
    }
    out
}

fn compilers(waves: &[RolloutWave]) -> u64 {
    waves.iter().map(|wave| wave.nodes.len() as u64).sum()
}

fn wave_rows(waves: &[RolloutWave]) -> impl Iterator<Item = Vec<String>> {
    waves.iter().enumerate().map(|(index, wave)| {
        let canary = if wave.canary { "canary" } else { "" };
        vec![(index + 1).to_string(), canary.to_owned(), wave.nodes.join(", ")]
    })
}

fn steps(action: &str, policy: &RolloutPolicy, undrained: bool) -> Vec<String> {
    let drain = match policy.on_drain_deadline.as_str() {
        "force" => "its sessions are closed, and it is changed all the same",
        _ => "enabled again, unchanged",
    };
    let mut steps = vec!["is checked, and its own Puppet agent rests".to_owned()];
    if !undrained {
        let deadline = span(policy.drain_deadline_s);
        steps.push(format!("is drained until nobody is served; after {deadline}: {drain}"));
    }
    let catalog = match policy.test_catalog.as_str() {
        "" => String::new(),
        certname => format!(", and compile a catalog for {certname}"),
    };
    steps.push(format!("{action}, then it must be healthy and serve what is committed{catalog}"));
    if !undrained {
        steps.push(format!("is enabled, and must stay in service for {}", span(policy.bake_s)));
        if policy.verdict == "siblings" {
            let then = match policy.on_inconclusive.as_str() {
                "continue" => "it goes on",
                _ => "the rollout is paused",
            };
            let longest = span(policy.bake_max_s);
            steps.push(format!(
                "must not fare worse than its siblings; where too little is compiled to tell within {longest}: {then}"
            ));
        }
    }
    let reverted = if policy.reverts { "what was before is brought back, and " } else { "" };
    steps.push(format!("if it fails: {reverted}no other begins before somebody decides"));
    steps
}

pub(crate) fn started(rollout: &RolloutInfo) -> String {
    format!("rollout {0} has started\nnext: bunraku rollout show {0} --watch\n", rollout.id)
}

pub(crate) fn changed(rollout: &RolloutInfo) -> String {
    let mut out = format!("{}\n", head(rollout));
    if !rollout.waits_for.is_empty() {
        out.push_str(&format!("  waits {}\n", rollout.waits_for));
    }
    let show = format!("bunraku rollout show {}", rollout.id);
    out.push_str(&format!("next: {}\n", if rollout.next.is_empty() { &show } else { &rollout.next }));
    out
}

/// Fits into 80 columns.
pub(crate) fn list_text(rollouts: &[RolloutInfo]) -> String {
    table(
        &["ID", "PHASE", "COMPILERS", "BY", "AGE", "ACTION"],
        rollouts.iter().map(|rollout| {
            vec![
                rollout.id.to_string(),
                rollout.phase.clone(),
                format!("{} of {} done", rollout.done, rollout.compilers),
                rollout.who.clone(),
                since(rollout.requested_ms),
                rollout.action.clone(),
            ]
        }),
        "no rollouts\nhint: bunraku rollout plan restart",
    )
}

pub(crate) fn show_text(rollout: &RolloutInfo) -> String {
    let mut out = format!("{}, asked for by {} {}\n", head(rollout), rollout.who, ago(rollout.requested_ms));
    if !rollout.reason.is_empty() {
        out.push_str(&format!("  {}\n", one_paragraph(&rollout.reason)));
    }
    if !rollout.waits_for.is_empty() {
        out.push_str(&format!("  waits {}\n", rollout.waits_for));
    }
    if let Some(policy) = &rollout.policy {
        policy_lines(policy).iter().for_each(|line| out.push_str(&format!("  {line}\n")));
    }
    let rows = rollout.turns.iter().map(|turn| {
        let standing = if rollout.ended_ms == 0 { standing(turn) } else { one_paragraph(&turn.reason) };
        let standing = or_dash(&standing).to_owned();
        vec![turn.node.clone(), wave_of(rollout, turn), turn.phase.clone(), lasted(turn), standing]
    });
    out.push_str(&table(&["COMPILER", "WAVE", "PHASE", "SINCE", ""], rows, "no compilers"));
    out.push_str(&remarks(rollout));
    if !rollout.next.is_empty() {
        out.push_str(&format!("next: {}\n", rollout.next));
    }
    out
}

/// What the nodes themselves say.
fn remarks(rollout: &RolloutInfo) -> String {
    let mut out = String::new();
    for turn in &rollout.turns {
        if !turn.says.is_empty() {
            out.push_str(&format!("{} says: {}", turn.node, hinted("  ", &turn.says)));
        }
        if !turn.verdict.is_empty() {
            let said = format!("{}: {}", turn.verdict, turn.verdict_why);
            out.push_str(&format!("verdict on {}: {}", turn.node, hinted("  ", &said)));
        }
        for note in &turn.notes {
            out.push_str(&format!("{} notes: {}", turn.node, hinted("  ", note)));
        }
    }
    out
}

fn policy_lines(policy: &RolloutPolicy) -> [String; 2] {
    let floor = match policy.min_available {
        0 => "the balancers' own floor".to_owned(),
        number => format!("at least {number} in service"),
    };
    let deadline = span(policy.drain_deadline_s);
    [
        format!("canary {}, batches of {}, {floor}", policy.canary, policy.batch),
        format!(
            "a drain ends after {deadline} ({}), any other step after {}, bake {}",
            policy.on_drain_deadline,
            span(policy.step_deadline_s),
            span(policy.bake_s)
        ),
    ]
}

/// `rollout 7 (restart) is running, 1 of 3 done`.
fn head(rollout: &RolloutInfo) -> String {
    let phase = match rollout.phase.as_str() {
        "aborting" => "is being aborted",
        "aborted" => "was aborted",
        "incomplete" => "ended incomplete",
        "paused" => "is paused",
        "done" => "is done",
        _ => "is running",
    };
    format!(
        "rollout {} ({}) {phase}, {} of {} done",
        rollout.id, rollout.action, rollout.done, rollout.compilers
    )
}

fn wave_of(rollout: &RolloutInfo, turn: &TurnInfo) -> String {
    let wave = rollout.waves.iter().position(|wave| wave.nodes.contains(&turn.node));
    wave.map_or("-".to_owned(), |wave| (wave + 1).to_string())
}

fn lasted(turn: &TurnInfo) -> String {
    if turn.phase == "waiting" { "-".to_owned() } else { since(turn.since_ms) }
}

/// What a turn waits for, until when, and what comes then; else how it ended.
fn standing(turn: &TurnInfo) -> String {
    // What can be done about one that failed is told once, for the rollout.
    if turn.waits_for.is_empty() || turn.phase == "failed" {
        return one_paragraph(&turn.reason);
    }
    let mut out = format!("waits {}", one_paragraph(&turn.waits_for));
    if turn.waits_until_ms != 0 {
        let left = span(turn.waits_until_ms.saturating_sub(wall_ms()).div_ceil(1000));
        out.push_str(&format!(", at most {left}; then {}", one_paragraph(&turn.then)));
    }
    out
}

fn one_paragraph(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// For a terminal, where they are replaced all the time: the rollout, its waves, and below each a line for each compiler.
pub(crate) fn lines(rollout: &RolloutInfo) -> Vec<String> {
    let mut out = vec![head(rollout)];
    if !rollout.reason.is_empty() {
        out.push(format!("  {}", one_paragraph(&rollout.reason)));
    }
    if !rollout.waits_for.is_empty() {
        out.push(format!("  waits {}", rollout.waits_for));
    }
    let width = rollout.turns.iter().map(|turn| turn.node.chars().count()).max().unwrap_or(0);
    for (index, wave) in rollout.waves.iter().enumerate() {
        let of_wave: Vec<&TurnInfo> =
            rollout.turns.iter().filter(|turn| wave.nodes.contains(&turn.node)).collect();
        let canary = if wave.canary { " (canary)" } else { "" };
        // Of waves that are over or have not begun the compilers need no line each.
        match of_wave.first().map(|turn| turn.phase.as_str()) {
            Some(phase @ ("waiting" | "done")) if of_wave.iter().all(|turn| turn.phase == phase) => {
                let who = match of_wave.as_slice() {
                    [only] => only.node.clone(),
                    more => count(more.len() as u64, "compiler"),
                };
                out.push(format!("  wave {}{canary}: {who} {phase}", index + 1));
            }
            _ => {
                out.push(format!("  wave {}{canary}", index + 1));
                out.extend(of_wave.into_iter().flat_map(|turn| turn_lines(turn, width)));
            }
        }
    }
    out
}

fn turn_lines(turn: &TurnInfo, width: usize) -> Vec<String> {
    let lasted = if turn.phase == "waiting" { String::new() } else { lasted(turn) };
    let line = format!("    {:<width$}  {:<9}  {lasted:<6}  {}", turn.node, turn.phase, standing(turn));
    let says = (!turn.says.is_empty()).then(|| format!("      says: {}", one_paragraph(&turn.says)));
    [line.trim_end().to_owned()].into_iter().chain(says).collect()
}

/// For a log: printed when it changes, so times are told by the clock.
pub(crate) fn one_line(rollout: &RolloutInfo) -> String {
    let under_way = rollout.turns.iter().filter(|turn| is_under_way(&turn.phase) || turn.phase == "failed");
    let under_way = under_way.map(|turn| {
        // An end that is computed anew each time may differ by a moment.
        let until = clock_time(turn.waits_until_ms.saturating_add(500) / 1000);
        match (turn.phase.as_str(), turn.waits_until_ms) {
            ("failed", _) => format!("{} failed: {}", turn.node, one_paragraph(&turn.reason)),
            (phase, 0) => format!("{} is {phase}", turn.node),
            (phase, _) => {
                format!("{} is {phase}, until {until}; then {}", turn.node, one_paragraph(&turn.then))
            }
        }
    });
    std::iter::once(head(rollout)).chain(under_way).collect::<Vec<_>>().join("; ")
}

fn is_under_way(phase: &str) -> bool {
    !matches!(phase, "waiting" | "done" | "failed" | "skipped")
}

/// Below `going on` in `bunraku status`.
pub(crate) fn status_lines(rollout: &RolloutInfo) -> String {
    let mut out = format!("  {}\n", head(rollout));
    if !rollout.waits_for.is_empty() {
        out.push_str(&format!("    waits {}\n", rollout.waits_for));
    }
    for turn in rollout.turns.iter().filter(|turn| is_under_way(&turn.phase) || turn.drained) {
        out.push_str(&format!("    {}: {}, {}\n", turn.node, turn.phase, standing(turn)));
    }
    out
}

/// How it ended, or why nothing goes on any more.
pub(crate) fn ending(rollout: &RolloutInfo) -> String {
    let mut out = head(rollout);
    if rollout.ended_ms != 0 {
        out.push_str(&format!(" in {}", span(rollout.ended_ms.saturating_sub(rollout.requested_ms) / 1000)));
    }
    let why = one_paragraph(&rollout.reason);
    out.push_str(&if why.is_empty() { "\n".to_owned() } else { format!(": {why}\n") });
    let told = rollout.turns.iter().filter(|turn| turn.phase != "done");
    for line in columns(told.map(|turn| [turn.node.clone(), turn.phase.clone(), one_paragraph(&turn.reason)]))
    {
        out.push_str(&format!("{line}\n"));
    }
    out.push_str(&remarks(rollout));
    if !rollout.next.is_empty() {
        out.push_str(&format!("next: {}\n", rollout.next));
    }
    out
}
