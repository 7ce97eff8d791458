//! A third compiler, from a machine with Debian's Puppet Server and our package as they are installed, by one command and
//! one pasted line: its certificate is signed by the real CA, its unit is started for the first time, and HAProxy sends it
//! agents when all of it is proven. Then it gets another certificate, is removed, its certificate revoked, and added again.
//! Under load no request fails.

use std::{fs, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{
    installed::{Bunraku, Said},
    load::{allow_slow_catalogs, under_load},
    machine::Machine,
    namespace,
    packages::Packages,
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
const PATIENCE: Duration = Duration::from_secs(240);
const SLOW: usize = 4;

const SERVER: &str = "puppetserver.service";
const AGENT: &str = "bunraku-agent.service";

const TESTS: &[Test<Site>] = &[
    ("a_machine_with_the_packages_becomes_a_compiler_by_one_line_under_load", added),
    ("its_certificate_is_replaced_over_debians_unit_under_load", certified),
    ("it_is_removed_with_its_certificate_revoked_and_added_again", removed_and_added),
];

struct Site {
    stack: Stack,
    bunraku: Bunraku,
    c3: Machine,
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
        let agent = Packages::create(directory)?.add_agent("0.1.0~first")?;
        let bare = stack.bare.first().context("no c3")?;
        let c3 = Machine::boot(bare.name(), directory, |root| bare.furnish_as_packaged(root))?;
        c3.run(&["dpkg", "--install", &agent.display().to_string()])?;
        let runtime = Runtime::new()?;
        let mut site = Site { stack, bunraku, c3, progress, runtime };
        site.join()?;
        suite::run(&mut site, TESTS)?;
        site.c3.stop()?;
        site.bunraku.stop()?;
        site.stack.stop()
    })
}

fn added(site: &mut Site) -> Result<()> {
    ensure!(site.has_ca_service()?, "the CA is on");
    let (counted, said) = under_load(&site.stack, SLOW, |load| {
        load.wait_until_all_are_busy()?;
        let said = site.runtime.block_on(site.add())?;
        site.progress.say(said.out.trim());
        ensure!(site.stack.balancer.server("c3")?.status == "UP", "in service means that HAProxy says so");
        gets_agents(&site.stack)?;
        Ok(said)
    })?;
    counted.report("a compiler is added", &site.progress);
    ensure!(counted.failed.is_empty(), "{:#?}", counted.failed);
    ensure!(counted.fewest >= 2, "I3: {} compilers were in service at the least", counted.fewest);
    ensure!(said.out.contains("3/5 certificate  done: serial "), "{}", said.out);
    ensure!(!site.has_ca_service()?, "the CA is off");
    for unit in [SERVER, AGENT] {
        ensure!(site.c3.property(unit, "ActiveState")? == "active", "{}", site.c3.journal(unit)?);
    }
    ensure!(site.c3.property(AGENT, "UnitFileState")? == "enabled", "it runs again after a reboot");
    let again = site.bunraku.tell(&ADD)?;
    ensure!(again.out.matches("already so").count() == 4, "{}", again.out);
    Ok(())
}

fn certified(site: &mut Site) -> Result<()> {
    let starts = site.c3.starts(SERVER)?;
    let (counted, said) = under_load(&site.stack, SLOW, |load| {
        load.wait_until_all_are_busy()?;
        let words = ["cert", "request", C3, "--dns-alt-names", "puppet.stack.test,third.stack.test"];
        site.bunraku.tell(&words).with_context(|| site.why())
    })?;
    site.progress.say(said.out.trim());
    counted.report("its certificate is replaced", &site.progress);
    ensure!(counted.failed.is_empty(), "{:#?}", counted.failed);
    ensure!(counted.fewest >= 2, "I3: {} compilers were in service at the least", counted.fewest);
    ensure!(site.c3.starts(SERVER)? == starts + 1, "I5: {starts} became {}", site.c3.starts(SERVER)?);
    let shown = site.bunraku.json(&["cert", "list"])?.to_string();
    ensure!(shown.contains("third.stack.test"), "{shown}");
    Ok(())
}

fn removed_and_added(site: &mut Site) -> Result<()> {
    let (counted, said) = under_load(&site.stack, SLOW, |load| {
        load.wait_until_all_are_busy()?;
        site.bunraku.tell(&["compiler", "remove", C3, "--revoke-certificate", "--yes"])
    })?;
    site.progress.say(said.out.trim());
    counted.report("it is removed", &site.progress);
    ensure!(counted.failed.is_empty(), "{:#?}", counted.failed);
    ensure!(site.stack.balancer.server("c3")?.status != "UP", "it gets no agents");
    let nodes = site.bunraku.json(&["nodes", "list"])?.to_string();
    let mut two = site.stack.compilers.iter().map(PuppetServer::certname);
    ensure!(!nodes.contains(C3) && two.all(|node| nodes.contains(&node)), "{nodes}");

    let said = site.runtime.block_on(site.add())?;
    site.progress.say(said.out.trim());
    // Regression: the one before was shown as the new one.
    let shown = said.out.lines().find(|line| line.starts_with("3/5 certificate  done: serial "));
    let shown = shown.context("the old one is revoked")?;
    ensure!(shown.ends_with(", for c3.stack.test, puppet.stack.test"), "{shown}");
    let catalog = site.stack.catalog(C3, "a1", "production")?;
    ensure!(catalog["resources"].is_array(), "c3 compiles");
    let (counted, ()) = under_load(&site.stack, SLOW, |_| gets_agents(&site.stack))?;
    ensure!(counted.failed.is_empty(), "{:#?}", counted.failed);
    Ok(())
}

/// Under load: the balancer has sent it some.
fn gets_agents(stack: &Stack) -> Result<()> {
    let before = stack.balancer.server("c3")?.total_sessions;
    wait_for("agents at c3", Duration::from_secs(60), || {
        Ok((stack.balancer.server("c3")?.total_sessions > before + 5).then_some(()))
    })
}

impl Site {
    /// The controller, two compilers, the balancer and the first deploy.
    fn join(&mut self) -> Result<()> {
        self.bunraku.start_controller()?;
        for compiler in &mut self.stack.compilers {
            self.bunraku.configure_compiler(compiler)?;
            self.bunraku.grant_rollouts(compiler)?;
            self.bunraku.start_agent(compiler.name())?;
        }
        let lb = self.bunraku.join_balancer(&self.stack)?;
        let nodes = self.stack.compilers.iter().map(PuppetServer::certname).chain([lb]);
        self.bunraku.wait_for_nodes(&nodes.collect::<Vec<_>>())?;
        self.bunraku.tell(&["deploy", "production"])?;
        self.bunraku.wait_until_proven("production").map(drop)
    }

    /// The command, with its line pasted on c3.
    async fn add(&self) -> Result<Said> {
        let mut command = self.bunraku.command()?;
        let add = Running::start(command.args(ADD)).with_patience(PATIENCE);
        let line = add.line("echo ").await;
        let pasted = self.c3.run(&["sh", "-c", line.trim()])?;
        ensure!(pasted.contains("bunraku-agent is enabled and runs"), "{pasted}");
        let said = add.end().await;
        ensure!(said.succeeded(), "{}{}\n{}", said.out, said.err, self.c3.journal(AGENT)?);
        Ok(said)
    }

    /// By c3's own configuration.
    fn has_ca_service(&self) -> Result<bool> {
        let path = self.c3.root().join("etc/puppet/puppetserver/services.d/ca.cfg");
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        Ok(text.contains("\npuppetlabs.services.ca.certificate-authority-service/"))
    }

    /// What its Puppet Server says.
    fn why(&self) -> String {
        let log = self.c3.run(&["tail", "-n", "60", "/var/log/puppetserver/puppetserver.log"]);
        format!("{}\n{}", self.c3.journal(SERVER).unwrap_or_default(), log.unwrap_or_default())
    }
}
