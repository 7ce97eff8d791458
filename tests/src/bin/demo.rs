//! `cargo xtask demo`: Bunraku on a real Puppet stack, step by step.

use std::{
    fs,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{
    installed::{Bunraku, Said, program},
    load::under_load,
    namespace,
    process::wait_for,
    progress::Progress,
    stack::{self, BALANCER_NAME, BUILD_USER, DOMAIN, Options, Stack},
    visitor::Visitor,
    watch::watched,
};
use clap::Parser;

/// A real main Puppet Server with CA, two compilers, HAProxy, r10k and agents, all on loopback addresses.
#[derive(Debug, Parser)]
struct Arguments {
    /// Leave everything running at the end.
    #[arg(long)]
    keep: bool,
}

/// What the steps are shown on.
struct Demo {
    stack: Stack,
    bunraku: Bunraku,
    progress: Progress,
}

/// A heading, and what is shown under it.
type Step = (&'static str, fn(&mut Demo) -> Result<()>);

const STEPS: &[Step] = &[
    ("today: r10k on every compiler, by hand", place_code),
    ("Bunraku is installed: a controller, and three nodes join", nodes_join),
    ("the doctor mends what the compilers lack", doctor),
    ("the first deploy adopts the directories that are there", adopt),
    ("a push is deployed, and a real Puppet agent applies it through the load balancer", push),
    ("a bad commit changes nothing anywhere", bad_commit),
    ("a rollback takes seconds, and holds the environment", rollback),
    ("kill -9 of the controller in the middle of a deploy ends well", killed_controller),
    ("every Puppet Server is restarted, one after the other, and no agent notices", rolling_restart),
    ("an agent's certificate is revoked, and every compiler refuses it", revoked_agent),
    ("what an operator sees", status),
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    namespace::run(&stack::world(arguments.keep), |directory| {
        let progress = Progress::default();
        progress.heading("a Puppet stack on this machine: CA, two compilers, HAProxy");
        let stack = Stack::up(directory, &namespace::cache(), &Options::default(), &progress)?;
        let bunraku = Bunraku::install(&stack, "r10k")?;
        let mut demo = Demo { stack, bunraku, progress };
        for (heading, step) in STEPS {
            demo.progress.heading(heading);
            step(&mut demo).with_context(|| format!("in the step \"{heading}\""))?;
        }
        if arguments.keep {
            show_what_to_try(&demo)?;
            demo.bunraku.leave_running();
            demo.stack.leave_running();
            return Ok(());
        }
        demo.progress.timed("everything is stopped", || {
            demo.bunraku.stop()?;
            demo.stack.stop()
        })
    })
}

fn place_code(demo: &mut Demo) -> Result<()> {
    demo.progress.timed("r10k deployed production and testing on both compilers", || {
        demo.stack.place_by_hand("production")?;
        demo.stack.place_by_hand("testing")
    })
}

fn nodes_join(demo: &mut Demo) -> Result<()> {
    let (bunraku, progress) = (&mut demo.bunraku, &demo.progress);
    bunraku.start_controller()?;
    progress.say(format_args!("the controller runs; CA pin {}…", &bunraku.pin[..16]));

    let lb = bunraku.join_balancer(&demo.stack)?;
    progress.say(format_args!("{lb} joins with a one-time token"));

    for compiler in &mut demo.stack.compilers {
        bunraku.configure_compiler(compiler)?;
        bunraku.grant_rollouts(compiler)?;
        bunraku.start_agent(compiler.name())?;
        progress.say(format_args!("{} joins with its Puppet certificate", compiler.certname()));
    }
    let nodes: Vec<String> =
        demo.stack.compilers.iter().map(stack::PuppetServer::certname).chain([lb]).collect();
    progress.timed("all three are connected", || bunraku.wait_for_nodes(&nodes))
}

fn doctor(demo: &mut Demo) -> Result<()> {
    for compiler in &demo.stack.compilers {
        let fixed = demo.bunraku.agent_command(compiler.name(), &["doctor", "--fix"], None)?;
        succeeded("doctor --fix", &fixed)?;
        let changed = fixed.out.lines().filter(|line| line.starts_with("due:")).count();
        demo.progress
            .say(format_args!("{}: {changed} files mended, a copy of each is kept", compiler.certname()));
    }
    let compilers = &mut demo.stack.compilers;
    demo.progress.timed("the compilers are reloaded, as the doctor asks", || {
        thread::scope(|scope| {
            let reloads: Vec<_> =
                compilers.iter_mut().map(|c| scope.spawn(|| c.reload(Duration::from_secs(120)))).collect();
            reloads
                .into_iter()
                .try_for_each(|reload| reload.join().map_err(|_| anyhow::anyhow!("a reload panicked"))?)
        })
    })?;
    let said = demo.bunraku.ask(&["doctor"])?;
    demo.progress.say(said.out.trim());
    ensure!(said.succeeded(), "the doctor still finds errors:\n{}{}", said.out, said.err);
    Ok(())
}

fn adopt(demo: &mut Demo) -> Result<()> {
    deploy(demo, &["deploy", "--all"])?;
    show_served(demo, "production")?;
    show_served(demo, "testing").map(drop)
}

fn push(demo: &mut Demo) -> Result<()> {
    let commit = demo.stack.repository.set_message("production", "hello from Bunraku")?;
    demo.progress.say(format_args!("pushed {}", &commit[..12]));
    deploy(demo, &["deploy", "production"])?;
    show_served(demo, "production")?;
    agent_run(demo, "hello from Bunraku")
}

fn agent_run(demo: &Demo, message: &str) -> Result<()> {
    let run = demo.stack.agent_run("a1")?;
    ensure!(run.succeeded(), "the agent failed with exit code {}:\n{}", run.exit, run.output);
    let applied = fs::read_to_string(demo.stack.applied().join("a1.stack.test-motd.txt"))?;
    ensure!(applied.contains(message), "the agent applied other code: {applied}");
    demo.progress.say(format_args!(
        "puppet agent ran in {:.1} s and wrote: {}",
        run.took.as_secs_f64(),
        applied.trim()
    ));
    Ok(())
}

fn bad_commit(demo: &mut Demo) -> Result<()> {
    let before = demo.bunraku.proven_everywhere("production")?;
    let broken = b"Puppet::Type.newtype(:broken) do\n  this is no Ruby\n";
    demo.stack.repository.add_file("production", "site/broken/lib/puppet/type/broken.rb", broken)?;
    let said = demo.bunraku.ask(&["deploy", "production"])?;
    ensure!(said.code == 1, "a broken type was deployed:\n{}{}", said.out, said.err);
    for line in said.out.lines().take(3) {
        demo.progress.say(line.chars().take(150).collect::<String>());
    }
    ensure!(demo.bunraku.proven_everywhere("production")? == before, "a failed deploy changed something");
    demo.progress.say(format_args!("both compilers still serve {}", &before[..12]));
    demo.stack.repository.control.revert("production")?;
    Ok(())
}

fn rollback(demo: &mut Demo) -> Result<()> {
    deploy(demo, &["rollback", "production"])?;
    show_served(demo, "production")?;
    let refused = demo.bunraku.ask(&["deploy", "production"])?;
    ensure!(refused.code == 6, "a held environment was deployed:\n{}{}", refused.out, refused.err);
    demo.progress.say(format_args!("a deploy now is refused: {}", refused.err.trim().replace('\n', "; ")));
    demo.bunraku.tell(&["release", "production"])?;
    demo.progress.say("released");
    deploy(demo, &["deploy", "production"])
}

/// Killed while both compilers stage: the decision has not fallen, and the next run of the controller takes it.
fn killed_controller(demo: &mut Demo) -> Result<()> {
    let before = demo.bunraku.proven_everywhere("production")?;
    demo.stack.repository.set_message("production", "survived")?;
    // A new type: what it needs is generated on each compiler by a Ruby, so that staging takes seconds.
    let new_type = b"Puppet::Type.newtype(:survivor) do\n  newparam(:name)\nend\n";
    demo.stack.repository.add_file("production", "site/survivor/lib/puppet/type/survivor.rb", new_type)?;
    let id = demo.bunraku.begin_deploy("production")?;
    let staging = wait_for("the compilers to stage", Duration::from_secs(60), || {
        let shown = demo.bunraku.deploy_shown(id)?;
        ensure!(shown["ended_ms"] == 0, "deploy {id} has ended before it was seen to stage: {shown}");
        Ok((shown["phase"] == "staging").then_some(shown))
    })?;
    demo.bunraku.kill_controller()?;
    let nodes = staging["nodes"].as_array().context("no nodes")?;
    let nodes: Vec<_> = nodes.iter().filter_map(|node| node["node"].as_str()).collect();
    demo.progress
        .say(format_args!("killed the controller while deploy {id} was staging on {}", nodes.join(" and ")));
    demo.stack.catalog("c1.stack.test", "a1", "production")?;
    demo.progress.say(format_args!("the compilers go on serving {}: nothing was decided", &before[..12]));
    demo.bunraku.start_controller()?;
    let began = Instant::now();
    let ended = demo.bunraku.wait_for_end(id)?;
    ensure!(ended["phase"] == "live", "after the restart the deploy ended so: {ended}");
    demo.progress.say(format_args!(
        "started again: deploy {id} went on with staging and is live after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    show_served(demo, "production")?;
    agent_run(demo, "survived")
}

/// Catalogs and real agent runs go through the balancer all the while.
fn rolling_restart(demo: &mut Demo) -> Result<()> {
    let pids = |demo: &Demo| -> Result<Vec<u32>> {
        demo.stack.compilers.iter().map(stack::PuppetServer::handed_over_pid).collect()
    };
    let before = pids(demo)?;
    let began = Instant::now();
    let (counted, said) = under_load(&demo.stack, 0, |_| {
        demo.bunraku.tell(&["rollout", "start", "restart", "--yes", "--bake", "2s"])
    })?;
    for line in said.out.lines() {
        demo.progress.say(line);
    }
    let after = pids(demo)?;
    ensure!(before.iter().zip(&after).all(|(before, after)| before != after), "a compiler was not restarted");
    let (catalogs, failed) = (counted.answered.len(), counted.failed.len());
    demo.progress.say(format_args!(
        "meanwhile, in {:.0} s: {catalogs} catalogs and {} agent runs through the balancer, {failed} failed; {} of {} \
         compilers in service at the least",
        began.elapsed().as_secs_f64(),
        counted.runs,
        counted.fewest,
        after.len()
    ));
    ensure!(failed == 0 && catalogs > 0 && counted.fewest > 0, "{:#?}", counted.failed);
    Ok(())
}

/// Its holder asks every compiler, and the balancer, all the while, each time on a new connection.
fn revoked_agent(demo: &mut Demo) -> Result<()> {
    let agent = demo.stack.agent("a3")?;
    let certname = agent.certname();
    let visitor = Visitor::from_ssldir(&agent.ssldir(), &certname)?;
    let certnames: Vec<String> = demo.stack.compilers.iter().map(stack::PuppetServer::certname).collect();
    let hosts = certnames.iter().map(String::as_str).chain([BALANCER_NAME]);
    let visits: Vec<(&str, &Visitor)> = hosts.map(|host| (host, &visitor)).collect();
    let before = demo.bunraku.json(&["crl", "status"])?["changed_ms"].clone();
    let main = &demo.stack.main;
    let watched = watched(&main.crl_file(), &visits, || {
        demo.progress
            .timed(format_args!("puppetserver ca revoke --certname {certname}"), || main.revoke(&certname))?;
        wait_for("every compiler to be proven", Duration::from_secs(60), || {
            let status = demo.bunraku.json(&["crl", "status"])?;
            let nodes = status["nodes"].as_array().context("no nodes")?;
            let proven = nodes.iter().all(|node| node["state"] == "proven");
            Ok((proven && status["changed_ms"] != before).then_some(()))
        })
    })?;
    let written = *watched.writes.first().context("the CA wrote nothing")?;
    for door in &watched.doors {
        let after = door.closed_at()?.duration_since(written)?;
        demo.progress.say(format_args!(
            "{} refuses {certname} {:.2} s after the CA wrote it",
            door.host,
            after.as_secs_f64()
        ));
    }
    print!("{}", demo.bunraku.tell(&["crl", "status"])?.out);
    let run = agent.run("production")?;
    ensure!(run.exit == 1, "a revoked agent was served:\n{}", run.output);
    demo.progress.say(format_args!("puppet agent as {certname}: exit code 1, no catalog"));
    Ok(())
}

fn status(demo: &mut Demo) -> Result<()> {
    print!("{}", demo.bunraku.tell(&["status"])?.out);
    demo.progress.say(demo.bunraku.tell(&["audit", "verify"])?.out.trim());
    Ok(())
}

/// Runs a command that deploys, and shows how it ended.
fn deploy(demo: &Demo, arguments: &[&str]) -> Result<()> {
    let began = Instant::now();
    let said = demo.bunraku.tell(arguments)?;
    for line in said.out.lines() {
        demo.progress.say(line);
    }
    demo.progress.say(format_args!(
        "bunraku {}: {:.1} s in all",
        arguments.join(" "),
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn show_served(demo: &Demo, environment: &str) -> Result<()> {
    let digest = demo.bunraku.proven_everywhere(environment)?;
    let nodes = demo.bunraku.served(environment)?.len();
    demo.progress.say(format_args!("{nodes} compilers prove {} of {environment}", &digest[..12]));
    Ok(())
}

fn succeeded(what: &str, said: &Said) -> Result<()> {
    ensure!(said.succeeded(), "{what} ended with {}:\n{}{}", said.code, said.out, said.err);
    Ok(())
}

/// Lines to type as they stand, inside the namespaces.
fn show_what_to_try(demo: &Demo) -> Result<()> {
    let bunraku = program("bunraku")?;
    let programs = Path::new(bunraku.get_program()).parent().context("bunraku is in no directory")?.display();
    let socket = demo.bunraku.socket();
    let directory = demo.stack.directory().display();
    println!("\nEverything runs on, in namespaces of its own. Inside them (the command is below), first");
    println!("  export PATH={programs}:$PATH BUNRAKU_SOCKET={}", socket.display());
    println!("and then try");
    println!("  bunraku status");
    println!("  bunraku deploy production --plan");
    println!("  bunraku nodes show c1.{DOMAIN}");
    println!("  bunraku events");
    println!("  puppet agent --test --config {directory}/agents/a1/puppet.conf");
    // git refuses a repository that belongs to another user.
    println!("  runuser -u {BUILD_USER} -- git clone {} /tmp/control", demo.stack.repository.control.url());
    Ok(())
}
