//! The benchmark: Bunraku beside the tools that it replaces, on the same input and targets, in one run.
//!
//! The program `bench` calls [`run`] in namespaces of its own. Tools take turns (A B C, A B C, …), every target is
//! compared with what was pushed after every run, and what a tool does in the background afterwards is waited for
//! before the next one begins. It prints one table and writes it to docs/benchmarks.md; no figure there comes from
//! elsewhere.

mod account;
mod compare;
mod disk;
mod figures;
mod input;
mod machine;
mod ours;
mod plan;
mod rivals;
mod rolling;
mod single;
mod site;
mod stand_in;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use self::{
    compare::Comparison,
    disk::Disk,
    figures::Figures,
    ours::Bunraku,
    rivals::{Rival, Rivals},
    site::Site,
};
use crate::progress::Progress;

/// How Bunraku's two figures are called: beside tools that only distribute, and beside those that build, too.
const DISTRIBUTION: &str = "Bunraku, snapshot ready → proven";
const WHOLE: &str = "Bunraku, command → proven (g10k builds)";

/// Measures in `directory`, which is empty and goes afterwards; writes the table to `report`.
pub fn run(directory: &Path, quick: bool, report: &Path) -> Result<()> {
    let progress = Progress::default();
    let disk = Disk::mount(directory)?;
    progress.say(format_args!("measuring on {}; load {:.1}", disk.kind, machine::load()));
    let logs = directory.join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("could not make {}", logs.display()))?;
    let site = Site::create(&disk.path("site"))?;
    let bunraku = Bunraku::start(&disk, &logs, &site.url())?;
    let rivals = Rivals::new(&disk, &site.url())?;
    let (figures, comparison) = (Figures::default(), Comparison::default());
    let mut bench = Bench { site, bunraku, rivals, figures, comparison, progress, disk };
    if quick {
        plan::quick(&mut bench)?;
    } else {
        plan::full(&mut bench)?;
    }
    let text = bench.report(quick)?;
    println!("\n{text}");
    fs::write(report, text).with_context(|| format!("could not write {}", report.display()))?;
    bench.progress.say(format_args!("written to {}", report.display()));
    Ok(())
}

/// Everything that takes part. Programs end before the disk goes.
#[derive(Debug)]
struct Bench {
    site: Site,
    bunraku: Bunraku,
    rivals: Rivals,
    figures: Figures,
    comparison: Comparison,
    progress: Progress,
    disk: Disk,
}

/// What happens to the control repository before the tools run.
type Change = fn(&mut Site, &str) -> Result<()>;

/// One line of the plan: a change that every tool brings to so many targets, several times.
#[derive(Clone, Copy, Debug)]
struct Task<'a> {
    name: &'a str,
    environments: &'a [String],
    targets: usize,
    rivals: &'a [Rival],
    rounds: usize,
    change: Change,
}

impl Bench {
    /// Lets every tool do the task, in turns.
    fn task(&mut self, task: Task<'_>) -> Result<()> {
        let Task { name, environments, targets, rivals, rounds, change } = task;
        self.bunraku.grow_to(targets)?;
        self.make_ready(environments, targets, rivals)?;
        let (mut wire, mut skew) = (0, Duration::ZERO);
        for _ in 0..rounds {
            self.figures.load(machine::load());
            for environment in environments {
                change(&mut self.site, environment)?;
            }
            self.rivals.build(environments)?;
            let before = self.quiet()?;
            let deployed = self.bunraku.deploy(environments)?;
            wire += self.bunraku.bytes_on_the_wire()?.saturating_sub(before) / targets as u64;
            skew = skew.max(deployed.skew);
            if deployed.distribution > Duration::ZERO {
                self.figures.time(name, targets, DISTRIBUTION, deployed.distribution);
            }
            self.figures.time(name, targets, WHOLE, deployed.whole);
            self.quiet()?;
            for rival in rivals {
                let took = self.rivals.deploy(*rival, environments, targets)?;
                self.figures.time(name, targets, rival.name(), took);
                machine::sync();
            }
            self.compare(environments, targets, rivals)?;
        }
        let each = format!("{name}, {targets} nodes: on the wire for each node");
        let rsync = if rivals.contains(&Rival::Rsync) {
            format!(" (rsync {})", figures::bytes(self.rivals.rsync_bytes()))
        } else {
            String::new()
        };
        self.figures.fact(
            each,
            format!("{}{rsync}", figures::bytes(wire / rounds as u64)),
            goal_on_the_wire(name),
        );
        if skew > Duration::ZERO {
            self.figures.fact(
                format!("{name}, {targets} nodes: first to last swap, at most"),
                figures::shown(skew),
                "",
            );
        }
        self.progress
            .say(format_args!("{name}, {targets} nodes: {rounds} rounds, load {:.1}", machine::load()));
        Ok(())
    }

    /// Before the first round every target holds the environments: what is new to it is not measured here.
    fn make_ready(&mut self, environments: &[String], targets: usize, rivals: &[Rival]) -> Result<()> {
        self.rivals.build(environments)?;
        self.bunraku.deploy(environments)?;
        self.bunraku.wait_until_proven(environments)?;
        for rival in rivals {
            self.rivals.deploy(*rival, environments, targets)?;
        }
        self.compare(environments, targets, rivals)
    }

    /// Nothing is left of what came before; answers the bytes that went over the wire so far.
    fn quiet(&self) -> Result<u64> {
        self.bunraku.wait_until_at_rest()?;
        machine::sync();
        self.bunraku.bytes_on_the_wire()
    }

    /// Every file on every target.
    fn compare(&mut self, environments: &[String], targets: usize, rivals: &[Rival]) -> Result<()> {
        for environment in environments {
            let expected = self.site.expected(environment)?;
            for target in self.bunraku.targets(environment) {
                self.comparison.ensure_equal("Bunraku", &target, &expected)?;
            }
            for rival in rivals {
                for number in 0..targets {
                    let target = self.rivals.target(*rival, environment, number);
                    self.comparison.ensure_equal(rival.name(), &target, &expected)?;
                }
            }
        }
        Ok(())
    }

    fn report(&self, quick: bool) -> Result<String> {
        let how = if quick {
            "`cargo xtask bench --quick` (few rounds; `cargo xtask bench` measures more)"
        } else {
            "`cargo xtask bench`"
        };
        Ok(format!(
            "# Benchmarks\n\nMeasured by {how} on {}: {}; {}; load {} while measuring. {}.\n\n{}\n{}\n{}",
            machine::date()?,
            machine::size()?,
            self.disk.kind,
            self.figures.loads(),
            machine::versions()?,
            ABOUT.trim_start(),
            self.figures.table(),
            self.figures.facts(),
        ))
    }
}

fn goal_on_the_wire(task: &str) -> &'static str {
    match task {
        plan::NO_CHANGE => "under 1 kB",
        plan::ONE_FILE => "under 3 × the file + 64 KiB",
        _ => "",
    }
}

/// How to read the tables.
const ABOUT: &str = "
All targets are directories on this one machine, so ten targets share its cores. Puppet Server is a stand-in that
answers at once: a real one takes 40 to 230 ms for a flush. Every target was compared with what was pushed after every
run. Tools took turns; ratios are to the first line of a task.

- *snapshot ready → proven*: stage on all, commit on all, flush, proof; as journalled. It compares with git and rsync,
  which copy what is built already, change the served tree in place, and prove nothing.
- *rolling restart*: three real node agents behind a real HAProxy whose checks run every 100 ms. The service is up at
  once and nobody is served: what remains is what a rollout does besides.
- *command → proven*: `bunraku deploy` from its start to its end, fetch and build by g10k included. It compares with
  r10k and g10k, which run on each target.
";
