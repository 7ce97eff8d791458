//! What is measured, in which order, how often.

use std::time::Duration;

use anyhow::Result;

use super::{
    Bench, DISTRIBUTION, Task, WHOLE, compare,
    figures::bytes,
    input::{LARGE, MEASURED, Shape},
    machine,
    rivals::{DISTRIBUTORS, RIVALS, Rival},
    rolling, single,
    site::Site,
};

pub(super) const NO_CHANGE: &str = "no change";
pub(super) const ONE_FILE: &str = "one file";
const ONE_PERCENT: &str = "1 % of the files";
const MODULE: &str = "a whole module";
const LARGE_ONE_FILE: &str = "one file, environment of 30,000 files";
const TWENTY: &str = "one file in each of 20 environments";
const TWENTY_ROUNDS: usize = 3;

/// Under three minutes: three nodes, one environment, few rounds.
pub(super) fn quick(bench: &mut Bench) -> Result<()> {
    let production = add(bench, "production", MEASURED, 1)?;
    cold(bench, "one environment from nothing", &production, 3, 1)?;
    everyday(bench, &production, 3, [2, 3, 2, 2])?;
    single::figures(bench, &production[0], Duration::from_secs(5))?;
    rolling::figures(bench, 3)
}

/// Under twenty minutes: 1, 3 and 10 nodes, up to twenty environments.
pub(super) fn full(bench: &mut Bench) -> Result<()> {
    let all = add(bench, "production", MEASURED, 20)?;
    let (production, five) = (&all[..1], &all[..5]);
    bench.task(one_file(production, 1, 3))?;
    cold(bench, "five environments from nothing", five, 3, 2)?;
    everyday(bench, production, 3, [3, 5, 3, 3])?;
    single::figures(bench, &production[0], Duration::from_secs(20))?;
    let large = add(bench, "large", LARGE, 1)?;
    bench.task(Task { name: LARGE_ONE_FILE, rivals: &DISTRIBUTORS, ..one_file(&large, 10, 3) })?;
    bench.task(Task { rivals: &DISTRIBUTORS, ..one_file(production, 10, 3) })?;
    twenty(bench, &all)?;
    single::memory(bench, "after deploys of 21 environments")?;
    rolling::figures(bench, 7)
}

/// Pushes so many new environments of one shape.
fn add(bench: &mut Bench, first: &str, shape: Shape, count: usize) -> Result<Vec<String>> {
    let others = (2..=count).map(|number| format!("e{number:02}"));
    let names: Vec<String> = std::iter::once(first.to_owned()).chain(others).collect();
    for name in &names {
        bench.site.add(name, shape)?;
    }
    bench.rivals.build(&names[..1])?;
    let (files, directories, size) = compare::measure(&bench.rivals.built(first))?;
    bench.figures.fact(
        format!("input: {count} × {first}"),
        format!("{files} files, {directories} directories, {} each", bytes(size)),
        "",
    );
    bench.progress.say(format_args!("{count} environments of {files} files are pushed"));
    Ok(names)
}

/// Targets without anything. For Bunraku: compilers that are new, and snapshots that are ready.
fn cold(bench: &mut Bench, name: &str, environments: &[String], targets: usize, rounds: usize) -> Result<()> {
    bench.rivals.build(environments)?;
    bench.bunraku.grow_to(targets)?;
    let first = bench.bunraku.deploy(environments)?;
    for round in 0..rounds {
        bench.figures.load(machine::load());
        bench.quiet()?;
        let took = bench.bunraku.begin_anew(environments)?;
        bench.figures.time(name, targets, DISTRIBUTION, took);
        bench.quiet()?;
        // The builders take minutes from nothing; once is enough.
        let rivals: &[Rival] = if round == 0 { &RIVALS } else { &DISTRIBUTORS };
        if round == 0 {
            bench.figures.time(name, targets, WHOLE, first.whole);
        }
        for rival in rivals {
            bench.rivals.begin_anew(*rival)?;
            let took = bench.rivals.deploy(*rival, environments, targets)?;
            bench.figures.time(name, targets, rival.name(), took);
            machine::sync();
        }
        bench.compare(environments, targets, &RIVALS)?;
        bench.progress.say(format_args!(
            "{name}: round {} of {rounds}, load {:.1}",
            round + 1,
            machine::load()
        ));
    }
    Ok(())
}

/// Nothing, a file, a hundredth, a module; so many rounds of each.
fn everyday(bench: &mut Bench, environments: &[String], targets: usize, rounds: [usize; 4]) -> Result<()> {
    let base = one_file(environments, targets, rounds[1]);
    bench.task(Task { name: NO_CHANGE, rounds: rounds[0], change: |_, _| Ok(()), ..base })?;
    bench.task(base)?;
    bench.task(Task { name: ONE_PERCENT, rounds: rounds[2], change: Site::change_one_percent, ..base })?;
    bench.task(Task { name: MODULE, rounds: rounds[3], change: Site::change_module, ..base })
}

fn one_file(environments: &[String], targets: usize, rounds: usize) -> Task<'_> {
    Task { name: ONE_FILE, environments, targets, rivals: &RIVALS, rounds, change: Site::change_one_file }
}

/// Many environments at once, beside the fairest rival only: the others would take most of the run's time. Bunraku's
/// distribution is measured apart from the builds, which take longer.
fn twenty(bench: &mut Bench, all: &[String]) -> Result<()> {
    let (targets, rival) = (10, Rival::Git);
    bench.bunraku.grow_to(targets)?;
    bench.make_ready(all, targets, &[rival])?;
    for round in 1..=TWENTY_ROUNDS {
        bench.figures.load(machine::load());
        for environment in all {
            bench.site.change_one_file(environment)?;
        }
        bench.rivals.build(all)?;
        bench.quiet()?;
        let took = bench.bunraku.deploy_when_all_are_built(all)?;
        bench.figures.time(TWENTY, targets, DISTRIBUTION, took);
        bench.quiet()?;
        let took = bench.rivals.deploy(rival, all, targets)?;
        bench.figures.time(TWENTY, targets, rival.name(), took);
        machine::sync();
        bench.compare(all, targets, &[rival])?;
        bench.progress.say(format_args!("{TWENTY}: round {round}, load {:.1}", machine::load()));
    }
    Ok(())
}
