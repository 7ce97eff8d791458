//! Rollouts over machines with a systemd of their own: Debian's puppetserver.service, our own package of the node agent,
//! real apt and dpkg, under the same load as in `real_rolling`.

use std::{fs, process::ExitCode, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{
    installed::{Bunraku, Said, balancer_node},
    load::{Counted, allow_slow_catalogs, under_load},
    machine::Machine,
    namespace,
    packages::Packages,
    process::{Service, output_of, wait_for},
    progress::Progress,
    stack::{self, Options, PuppetServer, Setup, Stack},
    suite::{self, Test},
};

const UNIT: &str = "puppetserver.service";
const AGENT: &str = "bunraku-agent.service";
const STARTS_WITHIN: Duration = Duration::from_secs(120);
/// So many that one is under way on every compiler whenever its turn comes.
const SLOW: usize = 4;

/// See `bunraku_common::crash`.
const PHASE_BEGUN: &str = "after:turn-moved";
/// Preparing, settling, draining, acting, verifying, enabling, releasing, baking, done.
const PHASES: usize = 9;

/// Puppet as it is, but for a pause in every compile.
const SLOW_COMPILER: &str = "require '/usr/lib/ruby/vendor_ruby/puppet.rb'
require 'puppet/parser/compiler'
Puppet::Parser::Compiler.prepend(Module.new do
  def compile
    sleep 2.5
    super
  end
end)
";

const TESTS: &[Test<Site>] = &[
    ("i3_debians_unit_is_restarted_once_on_each_machine_and_no_request_fails", restarted),
    ("i3_debians_unit_is_reloaded_under_load_and_no_request_fails", reloaded),
    ("i5_a_puppet_run_asks_the_main_server_and_a_command_runs_once_each_in_a_unit_of_its_own", commanded),
    ("f3_i5_an_agent_that_is_killed_while_the_unit_starts_does_not_restart_it_again", killed),
    (
        "f3_i5_i7_controller_and_agent_are_killed_in_every_phase_and_the_unit_is_restarted_once",
        killed_in_every_phase,
    ),
    ("f16_an_update_of_puppetserver_under_load_fails_no_request", updated),
    ("f16_an_update_of_puppetserver_that_fails_is_brought_back_and_serves", failed),
    ("an_updated_puppetserver_that_compiles_slower_than_its_sibling_is_brought_back", worse),
    ("agent_update_replaces_the_agent_that_carries_it_out", agent_updated),
];

struct Site {
    stack: Stack,
    bunraku: Bunraku,
    packages: Packages,
    machines: Vec<Machine>,
    progress: Progress,
}

fn main() -> ExitCode {
    if !suite::selects_any(TESTS) {
        return ExitCode::SUCCESS;
    }
    namespace::run(&stack::world(false), |directory| {
        let progress = Progress::default();
        let options = Options { setup: Setup::Prepared, interpreters: 3, ..Options::default() };
        let mut stack = Stack::up(directory, &namespace::cache(), &options, &progress)?;
        allow_slow_catalogs(&stack, "production")?;
        stack.place_by_hand("production")?;
        let mut bunraku = Bunraku::install(&stack, "r10k")?;
        bunraku.start_controller()?;
        let packages = Packages::create(directory)?;
        let agent = packages.add_agent("0.1.0~first")?;
        let mut machines = Vec::new();
        for compiler in &mut stack.compilers {
            compiler.stop()?;
            let machine = Machine::boot(compiler.name(), directory, |root| {
                compiler.furnish(root)?;
                packages.serve(root)?;
                bunraku.configure_machine(compiler, root, &["puppetserver", "bunraku-agent"])
            })?;
            machine.run(&["dpkg", "--install", &agent.display().to_string()])?;
            machines.push(machine);
        }
        let mut site = Site { stack, bunraku, packages, machines, progress };
        site.join()?;
        suite::run(&mut site, TESTS)?;
        site.machines.into_iter().try_for_each(Machine::stop)?;
        site.bunraku.stop()?;
        site.stack.balancer.stop()?;
        site.stack.main.stop()
    })
}

impl Site {
    fn join(&mut self) -> Result<()> {
        let pairs = || self.stack.compilers.iter().zip(&self.machines);
        thread::scope(|scope| {
            let starting: Vec<_> =
                pairs().map(|(compiler, machine)| scope.spawn(|| compiler.start_in(machine))).collect();
            let ended = starting.into_iter().map(|thread| thread.join());
            ended.into_iter().try_for_each(|it| it.map_err(|_| anyhow::anyhow!("starting panicked"))?)
        })?;
        for machine in &self.machines {
            machine.run(&["systemctl", "enable", "--now", AGENT])?;
        }
        let lb = self.bunraku.join_balancer(&self.stack)?;
        let nodes = self.stack.compilers.iter().map(PuppetServer::certname).chain([lb]);
        self.bunraku.wait_for_nodes(&nodes.collect::<Vec<_>>())?;
        self.stack.balancer.wait_until_all_up(STARTS_WITHIN)?;
        self.bunraku.tell(&["deploy", "production"])?;
        self.bunraku.wait_until_proven("production").map(drop)
    }

    fn of_units(&self, property: &str) -> Result<Vec<String>> {
        self.machines.iter().map(|machine| machine.property(UNIT, property)).collect()
    }

    /// How often each unit has been started since its machine was booted.
    fn starts(&self) -> Result<Vec<usize>> {
        self.machines.iter().map(|machine| machine.starts(UNIT)).collect()
    }

    fn refresh(&self) -> Result<()> {
        self.machines.iter().try_for_each(|machine| machine.run(&["apt-get", "update"]).map(drop))
    }

    fn versions(&self, package: &str) -> Result<Vec<String>> {
        let version = |machine: &Machine| {
            machine.run(&["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package])
        };
        self.machines.iter().map(version).collect()
    }

    fn rolled(&self, action: &[&str]) -> Result<Counted> {
        let words =
            [&["rollout", "start"], action, &["--yes", "--bake", "2s", "--verdict", "health"]].concat();
        let (counted, said) = under_load(&self.stack, SLOW, |load| {
            load.wait_until_all_are_busy()?;
            self.bunraku.tell(&words)
        })?;
        self.progress.say(said.out.trim());
        Ok(counted)
    }
}

fn restarted(site: &mut Site) -> Result<()> {
    let (before, starts) = (site.of_units("InvocationID")?, site.starts()?);
    let counted = site.rolled(&["restart"])?;
    let after = site.of_units("InvocationID")?;
    ensure!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    let once: Vec<usize> = starts.iter().map(|starts| starts + 1).collect();
    ensure!(site.starts()? == once, "each was started once more than {starts:?}: {:?}", site.starts()?);
    counted.ensure_nobody_noticed("rolling restart of units", &site.stack, &site.progress)
}

fn reloaded(site: &mut Site) -> Result<()> {
    let (invocations, pids) = (site.of_units("InvocationID")?, site.of_units("MainPID")?);
    let counted = site.rolled(&["reload"])?;
    let after = (site.of_units("InvocationID")?, site.of_units("MainPID")?);
    ensure!(after == (invocations, pids), "a reload is no restart: {after:?}");
    counted.ensure_nobody_noticed("rolling reload of units", &site.stack, &site.progress)
}

fn commanded(site: &mut Site) -> Result<()> {
    let asked = |site: &Site| site.stack.main.catalogs_asked();
    let before = asked(site)?;
    let start = ["rollout", "start"];
    let policy = ["--yes", "--bake", "1s", "--verdict", "health"];
    let said = site.bunraku.tell(&[&start[..], &["puppet-run"], &policy].concat())?;
    site.progress.say(said.out.trim());
    ensure!(
        asked(site)? == before + 2,
        "{} catalogs of the main server, before it was {before}",
        asked(site)?
    );
    site.bunraku.tell(&[&start[..], &["exec", "mark"], &policy].concat())?;
    for machine in &site.machines {
        let marks = machine.run(&["sh", "-c", "cat /var/tmp/mark.*"])?;
        let units: std::collections::BTreeSet<&str> = marks
            .lines()
            .filter_map(|line| line.rsplit('/').next())
            .filter(|unit| unit.contains("bunraku"))
            .collect();
        ensure!(units.iter().any(|unit| unit.starts_with("bunraku-order-")), "it ran in {marks}");
        let files = machine.run(&["sh", "-c", "ls /var/tmp/mark.* | wc -l"])?;
        ensure!(files.trim() == "1", "I5: it ran {files} times");
    }
    Ok(())
}

fn killed(site: &mut Site) -> Result<()> {
    let starts = site.starts()?;
    let c1 = site.stack.compilers.first().context("c1")?.certname();
    let machine = site.machines.first().context("c1")?;
    let words =
        ["rollout", "start", "restart", "--yes", "--bake", "2s", "--verdict", "health", "--nodes", &c1];
    let rolled = thread::scope(|scope| {
        let rolling = scope.spawn(|| site.bunraku.tell(&words));
        wait_for("c1's unit to be starting", STARTS_WITHIN, || {
            ensure!(!rolling.is_finished(), "the rollout ended before that");
            Ok((machine.property(UNIT, "ActiveState")? == "activating").then_some(()))
        })?;
        let before = machine.property(AGENT, "MainPID")?;
        machine.run(&["kill", "-KILL", &before])?;
        let said = rolling.join().map_err(|_| anyhow::anyhow!("the rollout panicked"))??;
        let after = machine.property(AGENT, "MainPID")?;
        ensure!(before != after && after != "0", "systemd has started the agent again: {before}, {after}");
        anyhow::Ok(said)
    })?;
    site.progress.say(rolled.out.trim());
    ensure!(site.starts()? == [starts[0] + 1, starts[1]], "{starts:?} became {:?}", site.starts()?);
    Ok(())
}

/// Both at once, after each decision that begins a phase, in one rollout.
fn killed_in_every_phase(site: &mut Site) -> Result<()> {
    let starts = site.starts()?;
    let c1 = site.stack.compilers.first().context("c1")?.certname();
    let machine = site.machines.first().context("c1")?;
    let mut start = site.bunraku.command()?;
    start.args([
        "rollout",
        "start",
        "restart",
        "--yes",
        "--bake",
        "1s",
        "--verdict",
        "health",
        "--nodes",
        &c1,
    ]);
    site.bunraku.stop_controller()?;
    site.bunraku.start_controller_with(Some(PHASE_BEGUN))?;
    let nodes = site.stack.compilers.iter().map(PuppetServer::certname).chain([balancer_node()]);
    site.bunraku.wait_for_nodes(&nodes.collect::<Vec<_>>())?;
    site.bunraku.wait_until_in_service(&[&c1])?;
    // The first crash comes before it is answered: that nobody knows is what it says.
    let log = site.stack.directory().join("killed-in-every-phase.log");
    let mut asking = Service::spawn("bunraku rollout start", &mut start, &log)?;
    for left in (0..PHASES).rev() {
        site.bunraku.wait_for_crash_of_controller()?;
        machine.run(&["systemctl", "kill", "--signal=KILL", AGENT])?;
        site.bunraku.start_controller_with((left > 0).then_some(PHASE_BEGUN))?;
    }
    let status = wait_for("the end of the command", STARTS_WITHIN, || asking.ended())?;
    let said = fs::read_to_string(&log)?;
    ensure!(status.code() == Some(8) && said.contains("bunraku rollout list"), "{status}: {said}");
    wait_for("the end of the rollout", STARTS_WITHIN, || {
        let listed = site.bunraku.json(&["rollout", "list"])?;
        ensure!(listed["rollouts"][0]["phase"] != "paused", "it halted: {listed:#}");
        Ok((listed["rollouts"][0]["phase"] == "done").then_some(()))
    })?;
    ensure!(site.starts()? == [starts[0] + 1, starts[1]], "I5: {starts:?} became {:?}", site.starts()?);
    site.bunraku.wait_until_in_service(&[&c1])
}

/// What the packages of this host are, and what comes after them.
fn next(site: &Site, step: &str) -> Result<(String, String)> {
    let installed = site.versions("puppetserver")?;
    let own =
        output_of(std::process::Command::new("dpkg-query").args(["-W", "-f", "${Version}", "puppetserver"]))?;
    Ok((installed.first().context("c1")?.clone(), format!("{own}+bunraku{step}")))
}

fn updated(site: &mut Site) -> Result<()> {
    let (_, version) = next(site, "1")?;
    site.packages.add_again("puppetserver", &version, |_| Ok(()))?;
    site.refresh()?;
    let starts = site.starts()?;
    let counted = site.rolled(&["update", &format!("puppetserver={version}")])?;
    let installed = site.versions("puppetserver")?;
    ensure!(installed.iter().all(|it| *it == format!("installed {version}")), "{installed:?}");
    ensure!(site.starts()?.iter().zip(&starts).all(|(after, before)| after > before), "{starts:?}");
    counted.ensure_nobody_noticed("rolling update of puppetserver", &site.stack, &site.progress)
}

fn failed(site: &mut Site) -> Result<()> {
    let (before, version) = next(site, "2")?;
    site.packages.add_again("puppetserver", &version, |tree| {
        Ok(fs::write(tree.join("DEBIAN/postinst"), "#!/bin/sh\necho 'no such luck' >&2\nexit 1\n")?)
    })?;
    site.refresh()?;
    let package = format!("puppetserver={version}");
    let words = ["rollout", "start", "update", &package, "--yes", "--bake", "2s", "--verdict", "health"];
    let said: Said = site.bunraku.ask(&words)?;
    let told = format!("{}{}", said.out, said.err);
    site.progress.say(told.trim());
    ensure!(!said.succeeded() && told.contains("no such luck"), "{told}");
    ensure!(told.contains("it was brought back to what was before"), "{told}");
    ensure!(!told.contains("Reading database"), "what apt says every time is no reason: {told}");
    let installed = site.versions("puppetserver")?;
    ensure!(installed.iter().all(|it| *it == before), "{installed:?}");
    given_up(site)
}

/// What waits for a person is aborted, and all is as it was.
fn given_up(site: &Site) -> Result<()> {
    let listed = site.bunraku.json(&["rollout", "list"])?;
    let open = listed["rollouts"].as_array().context("no list")?.iter().find(|it| it["phase"] == "paused");
    let id = open.context("it waits for a person")?["id"].to_string();
    site.bunraku.tell(&["rollout", "abort", &id, "--reason", "the package is broken"])?;
    for machine in &site.machines {
        ensure!(machine.run(&["dpkg", "--audit"])?.is_empty(), "dpkg has open ends");
    }
    site.stack.balancer.wait_until_all_up(Duration::from_secs(10))
}

/// It is healthy, answers everything, and takes longer for it: only the comparison finds that out.
fn worse(site: &mut Site) -> Result<()> {
    let (before, version) = next(site, "3")?;
    site.packages.add_again("puppetserver", &version, |tree| {
        // A link to Puppet's own file, as installed.
        let loaded = tree.join("usr/lib/puppetserver/ruby/vendor_ruby/puppet.rb");
        fs::remove_file(&loaded)?;
        Ok(fs::write(loaded, SLOW_COMPILER)?)
    })?;
    site.refresh()?;
    let package = format!("puppetserver={version}");
    let words = ["rollout", "start", "update", &package, "--yes", "--bake", "10s", "--bake-max", "3m"];
    let (counted, said) = under_load(&site.stack, 0, |_| site.bunraku.ask(&words))?;
    let told = format!("{}{}", said.out, said.err);
    counted.report("an update that compiles slower", &site.progress);
    site.progress.say(told.trim());
    ensure!(!said.succeeded() && told.contains("a catalog takes"), "{told}");
    ensure!(told.contains("it was brought back to what was before"), "{told}");
    ensure!(counted.failed.is_empty() && counted.fewest == 1, "{:#?}", counted.failed);
    let installed = site.versions("puppetserver")?;
    ensure!(installed.iter().all(|it| *it == before), "{installed:?}");
    given_up(site)
}

fn agent_updated(site: &mut Site) -> Result<()> {
    let version = "0.1.0~second";
    site.packages.add_agent(version)?;
    site.refresh()?;
    let (agents, servers) = (pids(site)?, site.of_units("InvocationID")?);
    let words = ["rollout", "start", "agent-update", version, "--yes", "--bake", "2s", "--verdict", "health"];
    site.progress.say(site.bunraku.tell(&words)?.out.trim());
    let installed = site.versions("bunraku-agent")?;
    ensure!(installed.iter().all(|it| *it == format!("installed {version}")), "{installed:?}");
    let after = pids(site)?;
    ensure!(agents.iter().zip(&after).all(|(before, after)| before != after), "{agents:?} {after:?}");
    ensure!(site.of_units("InvocationID")? == servers, "Puppet Server goes on serving meanwhile");
    Ok(())
}

fn pids(site: &Site) -> Result<Vec<String>> {
    site.machines.iter().map(|machine| machine.property(AGENT, "MainPID")).collect()
}
