//! Runs named tests one after the other against something that is costly to build, such as a real stack.
//!
//! It takes a name filter as libtest does; flags of libtest are accepted and ignored.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use anyhow::{Result, bail, ensure};

/// A sentence about behaviour, and the test of it.
pub type Test<S> = (&'static str, fn(&mut S) -> Result<()>);

/// Whether the command line selects any of `tests`; `--list` only prints them.
pub fn selects_any<S>(tests: &[Test<S>]) -> bool {
    if std::env::args().any(|argument| argument == "--list") {
        for (name, _) in tests {
            println!("{name}: test");
        }
        return false;
    }
    tests.iter().any(|(name, _)| is_selected(name))
}

/// Runs the selected tests; one that fails does not keep the others from running.
pub fn run<S>(subject: &mut S, tests: &[Test<S>]) -> Result<()> {
    let selected: Vec<&Test<S>> = tests.iter().filter(|(name, _)| is_selected(name)).collect();
    ensure!(!selected.is_empty(), "no test is selected");
    let mut failed = Vec::new();
    for (name, test) in &selected {
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| test(subject)));
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(Ok(())) => println!("test {name} ... ok ({seconds:.1} s)"),
            Ok(Err(error)) => {
                println!("test {name} ... FAILED ({seconds:.1} s): {error:#}");
                failed.push(*name);
            }
            Err(_) => {
                println!("test {name} ... FAILED ({seconds:.1} s): it panicked, see above");
                failed.push(*name);
            }
        }
    }
    if failed.is_empty() {
        println!("{} tests passed", selected.len());
        return Ok(());
    }
    bail!("{} of {} tests failed: {}", failed.len(), selected.len(), failed.join(", "))
}

fn is_selected(name: &str) -> bool {
    let mut filters = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    filters.peek().is_none() || filters.any(|filter| name.contains(&filter))
}
