//! `cargo xtask bench`: Bunraku beside git, rsync, r10k and g10k.

use std::{path::Path, process::ExitCode};

use bunraku_tests::{bench, namespace, stack};
use clap::Parser;

/// Measures Bunraku beside the tools that it replaces, and writes docs/benchmarks.md.
#[derive(Debug, Parser)]
struct Arguments {
    /// Three nodes and few rounds: under three minutes.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs").join("benchmarks.md");
    namespace::run(&stack::world(false), |directory| bench::run(directory, arguments.quick, &report))
}
