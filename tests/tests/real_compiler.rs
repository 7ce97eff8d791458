//! A third compiler, from a Puppet Server as its package leaves it, by one command: its certificate is signed by the real
//! CA, its Puppet Server is started for the first time, and HAProxy sends it agents when all of it is proven. Under load no
//! request fails. Then it is removed, its certificate revoked, and it is added again.

use std::{fs, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{
    installed::{Bunraku, Said},
    load::{allow_slow_catalogs, under_load},
    namespace,
    process::wait_for,
    progress::Progress,
    running::Running,
    stack::{self, BALANCER_NAME, Options, PuppetServer, Setup, Stack},
    suite::{self, Test},
};
use tokio::runtime::Runtime;

const C3: &str = "c3.stack.test";
const ADD: [&str; 5] = ["compiler", "add", C3, "--dns-alt-names", BALANCER_NAME];
/// A first start on a loaded machine, and everything after it.
const PATIENCE: Duration = Duration::from_secs(400);
const SLOW: usize = 4;

const TESTS: &[Test<Site>] =
    &[("a_bare_puppet_server_becomes_a_compiler_under_load_is_removed_and_added_again", added)];

struct Site {
    stack: Stack,
    bunraku: Bunraku,
    progress: Progress,
    runtime: Runtime,
}

fn main() -> ExitCode {
    if !suite::selects_any(TESTS) {
        return ExitCode::SUCCESS;
    }
    namespace::run(&stack::world(false), |directory| {
        let progress = Progress::default();
        let options = Options { bare: 1, setup: Setup::Prepared, interpreters: 3, ..Options::default() };
        let stack = Stack::up(directory, &namespace::cache(), &options, &progress)?;
        allow_slow_catalogs(&stack, "production")?;
        stack.place_by_hand("production")?;
        stack.compilers.iter().try_for_each(PuppetServer::flush)?;
        let bunraku = Bunraku::install(&stack, "r10k")?;
        let runtime = Runtime::new()?;
        let mut site = Site { stack, bunraku, progress, runtime };
        suite::run(&mut site, TESTS)?;
        site.bunraku.stop()?;
        site.stack.stop()
    })
}

fn added(site: &mut Site) -> Result<()> {
    let two = join(site)?;
    site.bunraku.configure_bare(site.stack.bare("c3")?)?;
    ensure!(
        services(site)?.contains("\npuppetlabs.services.ca.certificate-authority-service/"),
        "the CA is on"
    );

    let Site { stack, bunraku, progress, runtime } = site;
    let (counted, said) = under_load(stack, SLOW, |load| {
        load.wait_until_all_are_busy()?;
        let said = runtime.block_on(add(bunraku))?;
        progress.say(said.out.trim());
        ensure!(stack.balancer.server("c3")?.status == "UP", "in service means that HAProxy says so");
        gets_agents(stack)?;
        Ok(said)
    })?;
    counted.report("a compiler is added", progress);
    ensure!(counted.failed.is_empty(), "{:#?}", counted.failed);
    ensure!(counted.fewest >= 2, "I3: {} compilers were in service at the least", counted.fewest);
    ensure!(said.out.contains("3/5 certificate  done: serial "), "{}", said.out);
    ensure!(
        !services(site)?.contains("\npuppetlabs.services.ca.certificate-authority-service/"),
        "the CA is off"
    );
    let again = site.bunraku.tell(&ADD)?;
    ensure!(again.out.matches("already so").count() == 4, "{}", again.out);

    let Site { stack, bunraku, progress, .. } = site;
    let (counted, said) = under_load(stack, SLOW, |load| {
        load.wait_until_all_are_busy()?;
        bunraku.tell(&["compiler", "remove", C3, "--revoke-certificate", "--yes"])
    })?;
    progress.say(said.out.trim());
    counted.report("it is removed", progress);
    ensure!(counted.failed.is_empty(), "{:#?}", counted.failed);
    ensure!(stack.balancer.server("c3")?.status != "UP", "it gets no agents");
    let nodes = bunraku.json(&["nodes", "list"])?.to_string();
    ensure!(!nodes.contains(C3) && two.iter().all(|node| nodes.contains(node.as_str())), "{nodes}");

    site.bunraku.stop_agent("c3")?;
    let said = site.runtime.block_on(add(&mut site.bunraku))?;
    site.progress.say(said.out.trim());
    ensure!(said.out.contains("3/5 certificate  done: serial "), "the old one is revoked: {}", said.out);
    gets_agents_in_the_end(site)
}

/// The command, with its line pasted on c3.
async fn add(bunraku: &mut Bunraku) -> Result<Said> {
    let mut command = bunraku.command()?;
    let add = Running::start(command.args(ADD)).with_patience(PATIENCE);
    let line = add.line("echo ").await;
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "enroll").context("no line to paste")?;
    let enrolled = bunraku.agent_command("c3", &words[at..], words.get(1).copied())?;
    ensure!(enrolled.succeeded(), "{}{}", enrolled.out, enrolled.err);
    ensure!(enrolled.out.contains("c3.toml is there, and stays as it is\n"), "{}", enrolled.out);
    bunraku.start_agent("c3")?;
    let said = add.end().await;
    ensure!(said.succeeded(), "{}{}", said.out, said.err);
    Ok(said)
}

/// Under load: the balancer has sent it some.
fn gets_agents(stack: &Stack) -> Result<()> {
    let before = stack.balancer.server("c3")?.total_sessions;
    wait_for("agents at c3", Duration::from_secs(60), || {
        Ok((stack.balancer.server("c3")?.total_sessions > before + 5).then_some(()))
    })
}

fn gets_agents_in_the_end(site: &Site) -> Result<()> {
    let catalog = site.stack.catalog(C3, "a1", "production")?;
    ensure!(catalog["resources"].is_array(), "c3 compiles");
    let (counted, ()) = under_load(&site.stack, SLOW, |_| gets_agents(&site.stack))?;
    ensure!(counted.failed.is_empty(), "{:#?}", counted.failed);
    Ok(())
}

fn services(site: &Site) -> Result<String> {
    let conf_d = site.stack.bare[0].conf_d();
    let path = conf_d.with_file_name("services.d").join("ca.cfg");
    fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
}

/// The controller, two compilers, the balancer and the first deploy.
fn join(site: &mut Site) -> Result<Vec<String>> {
    site.bunraku.start_controller()?;
    for compiler in &mut site.stack.compilers {
        site.bunraku.configure_compiler(compiler)?;
        site.bunraku.grant_rollouts(compiler)?;
        site.bunraku.start_agent(compiler.name())?;
    }
    let lb = site.bunraku.join_balancer(&site.stack)?;
    let two: Vec<String> = site.stack.compilers.iter().map(PuppetServer::certname).collect();
    site.bunraku.wait_for_nodes(&two.iter().cloned().chain([lb]).collect::<Vec<_>>())?;
    site.bunraku.tell(&["deploy", "production"])?;
    site.bunraku.wait_until_proven("production")?;
    Ok(two)
}
