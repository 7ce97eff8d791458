//! `cargo xtask demo`: Bunraku on a real Puppet stack, step by step.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use bunraku_tests::{
    namespace,
    progress::Progress,
    stack::{self, BALANCER_NAME, Options, Stack},
};
use clap::Parser;

/// A real main Puppet Server with CA, two compilers, HAProxy, r10k and agents, all on loopback addresses.
#[derive(Debug, Parser)]
struct Arguments {
    /// Leave everything running at the end.
    #[arg(long)]
    keep: bool,
}

/// A heading, and what is shown under it.
type Step = (&'static str, fn(&mut Stack, &Progress) -> Result<()>);

const STEPS: &[Step] = &[
    ("code is placed on both compilers by hand", place_code),
    ("a real Puppet agent applies it through the load balancer", agent_run),
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    namespace::run(&stack::world(arguments.keep), |directory| {
        let progress = Progress::default();
        progress.heading("a Puppet stack on this machine");
        let mut stack = Stack::up(directory, &namespace::cache(), &Options::default(), &progress)?;
        for (heading, step) in STEPS {
            progress.heading(heading);
            step(&mut stack, &progress)?;
        }
        if arguments.keep {
            show_what_to_try(&stack);
            stack.leave_running();
            return Ok(());
        }
        progress.timed("everything is stopped", || stack.stop())
    })
}

fn place_code(stack: &mut Stack, progress: &Progress) -> Result<()> {
    progress.timed("r10k deployed production and testing", || {
        stack.place_by_hand("production")?;
        stack.place_by_hand("testing")
    })
}

fn agent_run(stack: &mut Stack, progress: &Progress) -> Result<()> {
    let run = stack.agent_run("a1")?;
    ensure!(run.succeeded(), "the agent failed with exit code {}:\n{}", run.exit, run.output);
    progress.say(format_args!("the agent a1 ran in {:.1} s", run.took.as_secs_f64()));
    let applied = std::fs::read_to_string(stack.applied().join("a1.stack.test-motd.txt"))?;
    progress.say(format_args!("it wrote: {}", applied.trim()));
    Ok(())
}

fn show_what_to_try(stack: &Stack) {
    let directory = stack.directory().display();
    println!("\nEverything runs on, in namespaces of its own. Inside them, try:");
    println!("  curl --cacert {directory}/balancer/ca.pem https://{BALANCER_NAME}:8140/status/v1/simple");
    println!("  puppet agent --test --config {directory}/agents/a1/puppet.conf");
    println!("  git clone {}", stack.repository.control.url());
}
