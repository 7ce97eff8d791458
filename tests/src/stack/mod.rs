//! A real load-balanced Puppet stack on loopback addresses: a main Puppet Server with the CA, compilers, HAProxy before
//! them, git repositories, and Puppet agents. No systemd, no containers.
//!
//! Everything lives in one directory; Debian's own /etc/puppet and /var/lib/puppet are only read.

mod agent;
mod aot;
mod balancer;
mod ca;
mod certificates;
mod layout;
mod puppet_server;
mod repository;
mod unit;
mod users;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

pub use self::{
    agent::{Agent, AgentRun},
    balancer::{BACKEND, Balancer, ServerState, SetState},
    ca::request,
    layout::{
        BALANCER_ADDRESS, BALANCER_NAME, BUILD_USER, CA_NAME, DOMAIN, MAIN_ADDRESS, compiler_address, world,
    },
    puppet_server::{PuppetServer, Setup},
    repository::{ControlRepository, Repository},
    users::User,
};
use crate::progress::Progress;

/// How long a Puppet Server may take to start on a loaded machine.
const STARTS_WITHIN: Duration = Duration::from_secs(240);

/// What the stack is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many compilers: c1, c2, …
    pub compilers: usize,
    /// How many more HAProxy carries, numbered on, where there is nothing yet.
    pub bare: usize,
    /// How the compilers are configured.
    pub setup: Setup,
    /// Catalogs that each compiler can compile at once.
    pub interpreters: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { compilers: 2, bare: 0, setup: Setup::AsInstalled, interpreters: 1 }
    }
}

/// The running stack. Dropping it kills everything that it started.
#[derive(Debug)]
pub struct Stack {
    directory: PathBuf,
    pub main: PuppetServer,
    /// c1 is the first.
    pub compilers: Vec<PuppetServer>,
    /// Machines to be.
    pub bare: Vec<PuppetServer>,
    pub balancer: Balancer,
    pub repository: ControlRepository,
}

impl Stack {
    /// Builds and starts everything below `directory`, which is empty and seen by Puppet's user.
    ///
    /// What takes long is done once per machine and kept in `cache`: the compiled Puppet Server, and the CA with the
    /// certificates of the servers and of the agents a1 and a2. Each stack gets its own copy of the CA.
    pub fn up(directory: &Path, cache: &Path, options: &Options, progress: &Progress) -> Result<Self> {
        let start = Instant::now();
        let jar = aot::jar(cache, progress)?;
        let names: Vec<String> = (1..=options.compilers).map(|number| format!("c{number}")).collect();
        let authority = certificates::authority(cache, &directory.join("making-ca"), &names, &jar, progress)?;

        let mut main = PuppetServer::main(directory, &jar);
        main.configure(Setup::AsInstalled)?;
        authority.give_main(&main)?;
        let mut compilers = Vec::new();
        for (number, name) in (1..).zip(&names) {
            let compiler = PuppetServer::compiler(directory, number, &jar, options.interpreters);
            compiler.configure(options.setup)?;
            authority.give_server(name, &compiler)?;
            compilers.push(compiler);
        }
        let numbers = (options.compilers + 1)..=(options.compilers + options.bare);
        let mut bare = Vec::new();
        for number in numbers {
            let number = u8::try_from(number)?;
            bare.push(PuppetServer::compiler(directory, number, &jar, options.interpreters));
        }
        authority.give_agents(directory)?;

        let (repository, balancer) = start_servers(&mut main, &mut compilers, progress, |compilers| {
            let repository = ControlRepository::create(&directory.join("git"), &applied(directory))?;
            let carried: Vec<&PuppetServer> = compilers.iter().chain(&bare).collect();
            let balancer = Balancer::start(&directory.join("balancer"), &carried)?;
            Ok((repository, balancer))
        })?;
        let stack = Self { directory: directory.to_owned(), main, compilers, bare, balancer, repository };
        stack.balancer.wait_until_up(&stack.compilers, Duration::from_secs(60))?;
        progress.say(format_args!(
            "HAProxy: {} compilers UP; the stack is ready after {:.1} s",
            stack.compilers.len(),
            start.elapsed().as_secs_f64()
        ));
        Ok(stack)
    }

    /// Where the stack lives; callers may make their own directories in it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the modules of the control repository write, on an agent's behalf.
    pub fn applied(&self) -> PathBuf {
        applied(&self.directory)
    }

    /// The compiler `c1`, `c2`, …
    pub fn compiler(&mut self, name: &str) -> Result<&mut PuppetServer> {
        let found = self.compilers.iter_mut().find(|compiler| compiler.name() == name);
        found.with_context(|| format!("there is no compiler {name}"))
    }

    /// The agent `name`; one that is not known yet gets a certificate from the CA (2 to 4 s).
    pub fn agent(&self, name: &str) -> Result<Agent> {
        self.agent_named(name, &[])
    }

    /// The same; a certificate that it gets anew carries these names, too.
    pub fn agent_named(&self, name: &str, aliases: &[String]) -> Result<Agent> {
        let agent = Agent::new(&self.directory, name);
        if !agent.has_certificate() {
            let certname = agent.certname();
            certificates::generate(&self.main, &certname, aliases)?;
            certificates::copy_identity(&self.main.ssldir(), &certname, &agent.ssldir())?;
        }
        agent.configure()?;
        Ok(agent)
    }

    /// A real `puppet agent` run in `production`, through the balancer.
    pub fn agent_run(&self, name: &str) -> Result<AgentRun> {
        self.agent(name)?.run("production")
    }

    /// The catalog that `host` (a compiler or the balancer, by its DNS name) compiles for an agent. 0.1 to 0.4 s.
    pub fn catalog(&self, host: &str, agent: &str, environment: &str) -> Result<Value> {
        self.agent(agent)?.catalog(host, environment)
    }

    /// Deploys as people do without Bunraku: r10k, copied over each compiler's environment directory.
    ///
    /// Compilers must not hold a managed link yet.
    pub fn place_by_hand(&self, environment: &str) -> Result<()> {
        let built = self.repository.build(&self.directory.join("by-hand"), environment)?;
        for compiler in &self.compilers {
            compiler.place(environment, &built)?;
        }
        Ok(())
    }

    /// Stops everything in order: balancer, compilers, main.
    pub fn stop(mut self) -> Result<()> {
        self.balancer.stop()?;
        for compiler in &mut self.compilers {
            compiler.stop()?;
        }
        self.main.stop()
    }

    /// Lets everything run on when this process ends.
    pub fn leave_running(self) {
        self.balancer.leave_running();
        for server in self.compilers.into_iter().chain([self.main]) {
            server.leave_running();
        }
    }
}

/// Starts all servers at once (two cores are busy that way), and does `meanwhile` what needs none of them.
fn start_servers<T>(
    main: &mut PuppetServer,
    compilers: &mut [PuppetServer],
    progress: &Progress,
    meanwhile: impl FnOnce(&[PuppetServer]) -> Result<T>,
) -> Result<T> {
    for server in std::iter::once(&mut *main).chain(&mut *compilers) {
        server.start()?;
    }
    progress.say(format_args!("starting the main Puppet Server (CA) and {} compilers", compilers.len()));
    let made = meanwhile(compilers)?;
    progress.say("git repositories made, HAProxy started");
    thread::scope(|scope| {
        let servers = std::iter::once(main).chain(compilers);
        let waiting: Vec<_> = servers
            .map(|server| scope.spawn(move || server.wait_until_ready(STARTS_WITHIN, progress)))
            .collect();
        for thread in waiting {
            thread.join().map_err(|_| anyhow::anyhow!("waiting for a Puppet Server panicked"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(made)
}

/// A directory that the agents' catalogs may fill.
fn applied(directory: &Path) -> PathBuf {
    directory.join("applied")
}

/// Makes a directory and those above it.
fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("could not make {}", path.display()))
}

/// Writes a file whose directory exists.
fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).with_context(|| format!("could not write {}", path.display()))
}

/// Reads a text file.
fn read_file(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

/// Copies a file.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("could not copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
