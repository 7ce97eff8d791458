//! `cargo xtask`: what people and CI call. Each subcommand is one file, and most of them only run cargo in the
//! right order.
//!
//! The real Puppet stack lives in the crate `bunraku-tests`; this program installs what that needs and starts it.

mod apt;
mod cargo;
mod check;
mod package;
mod policy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install the Debian packages that the tests and the demo need; services do not start.
    Install,
    /// Formatting, lints and every test: the fast ones first, the real Puppet stack last.
    Test,
    /// Show Bunraku on a real Puppet stack: a CA, two compilers, HAProxy, r10k and agents.
    Demo {
        /// Leave the stack running at the end, and say how to look at it and how to end it.
        #[arg(long)]
        keep: bool,
    },
    /// Make a .deb of the controller and one of the node agent, in target/debian.
    Package,
    /// Check licences, banned crates and sources of all dependencies.
    Audit,
    /// Measure against git, rsync, r10k and g10k, and write docs/benchmarks.md.
    Bench {
        /// Fewer rounds, for daily use.
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Install => apt::install(apt::STACK),
        Task::Test => check::run(),
        Task::Demo { keep } => demo(keep),
        Task::Package => package::debian_packages(),
        Task::Audit => package::audit(),
        Task::Bench { quick } => bench(quick),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(keep: bool) -> anyhow::Result<()> {
    apt::install(apt::STACK)?;
    cargo::run(&["build", "--workspace", "--bins"])?;
    let mut demo = cargo::program(cargo::built("debug", "demo")?);
    cargo::succeed(if keep { demo.arg("--keep") } else { &mut demo })
}

fn bench(quick: bool) -> anyhow::Result<()> {
    apt::install(apt::BENCH)?;
    cargo::run(&["build", "--release", "--workspace", "--bins"])?;
    let mut bench = cargo::program(cargo::built("release", "bench")?);
    cargo::succeed(if quick { bench.arg("--quick") } else { &mut bench })
}
