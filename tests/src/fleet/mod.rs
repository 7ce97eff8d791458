//! A controller and node agents in one process, over real mTLS, with faults that a test switches on and off.
//!
//! Real: git, g10k, the controller with its journal, the agents, TLS, every byte on the wire. Stand-ins: Puppet Server
//! ([`PuppetServer`]) and the `puppet` program. Each agent dials through a [`Link`] of its own that can be cut, held,
//! slowed or made to flip bits. Times never decide: a test waits for conditions, with deadlines ([`until`]).
//!
//! Every stand-in watches the live links of its node all the time and fails the test when one ever resolves to
//! something else than a whole, sealed tree (I1); [`Fleet::end`] checks that all of them were committed (I1, I2).

#![expect(
    clippy::unwrap_used,
    reason = "what helps tests, outside of the functions that clippy knows as tests"
)]

mod actor;
mod authority;
mod balancer;
mod bare;
mod disk;
mod granted;
mod host;
mod link;
mod main_server;
mod nginx;
mod node;
mod puppet_server;
mod repository;
mod revocation;
mod rollouts;
mod tree;

use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use bunraku_agent::BalancerConfig;
use bunraku_common::Digest;
use bunraku_proto::v1::DeployInfo;
use tempfile::TempDir;

pub use actor::{Actor, Ordered};
pub use balancer::Balancer;
pub use disk::SmallDisk;
pub use granted::{end_services, grant, left};
pub use link::{Flow, Link};
pub use main_server::{CA_PHASES, MAIN_CERTNAME, MainServer, digest_of};
pub use node::Node;
pub use puppet_server::{Mood, PuppetServer};
pub use repository::ControlRepository;
pub use revocation::Observed;
pub use rollouts::{restart, three_actors, turn};

use authority::Authority;
use balancer::{Port, Program};
use nginx::Nginx;

/// How long a condition may take on a loaded machine before the test says that it never came.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The address of a cloned host ends with this; nodes count from 11.
const CLONE_HOST: u8 = 200;
/// Addresses of balancers, and of what they balance.
const FIRST_BALANCER: u8 = 210;
const FIRST_PORT: u8 = 220;

/// A controller, its control repository, and its nodes `c1`, `c2`, …
#[derive(Debug)]
pub struct Fleet {
    nodes: Vec<Node>,
    balancers: Vec<Balancer>,
    /// Where the balancers reach the compilers.
    ports: Vec<Port>,
    main: MainServer,
    repository: ControlRepository,
    authority: Authority,
    change_agents: fn(&mut bunraku_agent::Config),
    dir: TempDir,
}

/// What a fleet should be like; [`FleetPlan::up`] starts it.
#[derive(Debug)]
pub struct FleetPlan {
    nodes: usize,
    change: fn(&mut bunraku::config::Config),
    change_agents: fn(&mut bunraku_agent::Config),
    puppet_door: bool,
}

impl FleetPlan {
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Changes the controller's configuration before its first start.
    #[must_use]
    pub fn controller(mut self, change: fn(&mut bunraku::config::Config)) -> Self {
        self.change = change;
        self
    }

    /// Changes each agent's configuration before its first start.
    #[must_use]
    pub fn agents(mut self, change: fn(&mut bunraku_agent::Config)) -> Self {
        self.change_agents = change;
        self
    }

    /// Opens the door for holders of a Puppet certificate, to compilers of any name.
    #[must_use]
    pub fn puppet_door(mut self) -> Self {
        self.puppet_door = true;
        self
    }

    /// Starts everything: every node is enrolled by a token and connected when this returns.
    pub async fn up(self) -> Fleet {
        show_logs_if_asked();
        let dir = tempfile::tempdir().unwrap();
        // Only to be passed through: the build user lists nothing here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let repository = ControlRepository::make(&dir.path().join("git"));
        let network = free_network();
        let mut main = MainServer::found(&dir.path().join("main"), network, &repository, self.change);
        let authority = Authority::new();
        if self.puppet_door {
            main.open_puppet_door(&authority);
        }
        main.start().await.unwrap();
        let (nodes, balancers, ports) = (Vec::new(), Vec::new(), Vec::new());
        let change_agents = self.change_agents;
        let mut fleet = Fleet { nodes, balancers, ports, main, repository, authority, change_agents, dir };
        for number in 1..=self.nodes {
            fleet.add_node(&format!("c{number}")).await;
        }
        for node in &fleet.nodes {
            fleet.main.until_connected(node.name()).await;
        }
        fleet
    }
}

impl Fleet {
    #[expect(clippy::new_ret_no_self, reason = "a test reads `Fleet::new().nodes(3).up()`")]
    pub fn new() -> FleetPlan {
        FleetPlan { nodes: 1, change: |_| (), change_agents: |_| (), puppet_door: false }
    }

    /// Enrols one more compiler by a token and starts its agent.
    pub async fn add_node(&mut self, name: &str) -> &Node {
        let node = self.join(name).await;
        self.nodes.push(node);
        self.nodes.last().unwrap()
    }

    async fn join(&self, name: &str) -> Node {
        let number = self.nodes.len() + 1;
        let from = host_in(self.main.network(), u8::try_from(number + 10).unwrap());
        let dir = self.dir.path().join(name);
        let node = Node::make(&dir, name, &self.main, &self.authority, from, self.change_agents).await;
        node.enrol(&self.main).await;
        node.start().await.unwrap();
        node
    }

    /// A compiler that plays its part; no deploy may be asked for while there is one.
    pub async fn add_actor(&self, name: &str) -> Actor {
        self.add_able_actor(name, &["services"]).await
    }

    /// One that says at hello that it grants this.
    pub async fn add_able_actor(&self, name: &str, abilities: &[&str]) -> Actor {
        let actor = Actor::enter(name, &self.main, abilities).await;
        self.main.until_connected(name).await;
        actor
    }

    /// Starts a HAProxy before these compilers, and a node agent of the load balancer's role beside it.
    pub async fn add_balancer(&mut self, name: &str, compilers: &[&str]) {
        let number = u8::try_from(self.balancers.len()).unwrap();
        let from = host_in(self.main.network(), FIRST_BALANCER + number);
        self.open_ports(compilers);
        let servers: Vec<&Port> = compilers.iter().filter_map(|name| self.port(name)).collect();
        let dir = self.dir.path().join(name).join("haproxy");
        let haproxy = balancer::Haproxy::start(&dir, from, &servers).await;
        let node = self.join_balancer(name, from, haproxy.mapping()).await;
        self.balancers.push(Balancer { node, program: Program::Haproxy(haproxy) });
        self.until_in_service(compilers).await;
    }

    /// The same with nginx, before actors that count the connections that they have: nginx tells nobody.
    pub async fn add_nginx(&mut self, name: &str, compilers: &[&Actor]) {
        let number = u8::try_from(self.balancers.len()).unwrap();
        let from = host_in(self.main.network(), FIRST_BALANCER + number);
        let names: Vec<&str> = compilers.iter().map(|actor| actor.name()).collect();
        self.open_ports(&names);
        for actor in compilers {
            actor.counts(self.port(actor.name()).unwrap().held());
        }
        let servers: Vec<&Port> = names.iter().filter_map(|name| self.port(name)).collect();
        let dir = self.dir.path().join(name).join("nginx");
        let mut nginx = Nginx::prepare(&dir, from, &servers, &self.authority.pem);
        let node = self.join_balancer(name, from, nginx.mapping()).await;
        nginx.run().await;
        self.balancers.push(Balancer { node, program: Program::Nginx(nginx) });
        self.until_in_service(&names).await;
    }

    fn open_ports(&mut self, compilers: &[&str]) {
        for compiler in compilers {
            if self.port(compiler).is_none() {
                let at = u8::try_from(self.ports.len()).unwrap();
                let ip = host_in(self.main.network(), FIRST_PORT + at);
                self.ports.push(Port::open(compiler, ip, &self.authority));
            }
        }
    }

    async fn join_balancer(&self, name: &str, from: Ipv4Addr, mapping: BalancerConfig) -> Node {
        let change = |config: &mut bunraku_agent::Config| {
            config.code = None;
            config.balancer = Some(mapping);
        };
        let dir = self.dir.path().join(name);
        let node = Node::make(&dir, name, &self.main, &self.authority, from, change).await;
        let node = node.with_role("load-balancer");
        node.enrol(&self.main).await;
        node.start().await.unwrap();
        self.main.until_connected(name).await;
        node
    }

    async fn until_in_service(&self, compilers: &[&str]) {
        for compiler in compilers {
            self.main.until_balanced(compiler, "in service").await;
        }
    }

    /// Connections that a compiler's port holds now.
    pub fn held(&self, compiler: &str) -> u32 {
        self.port(compiler).map_or(0, |port| port.held().load(Ordering::Relaxed))
    }

    fn port(&self, compiler: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.compiler() == compiler)
    }

    /// Nothing answers there any more.
    pub fn close_port(&mut self, compiler: &str) {
        self.ports.retain(|port| port.compiler() != compiler);
    }

    pub fn balancer_mut(&mut self, name: &str) -> &mut Balancer {
        self.balancers.iter_mut().find(|balancer| balancer.node().name() == name).unwrap()
    }

    pub fn balancer(&self, name: &str) -> &Balancer {
        self.balancers.iter().find(|balancer| balancer.node().name() == name).unwrap()
    }

    /// A second host with a node's identity, as a cloned machine is; not started, and no part of the fleet.
    pub async fn clone_host(&self, name: &str) -> Node {
        let dir = self.dir.path().join(format!("{name}-clone"));
        let from = host_in(self.main.network(), CLONE_HOST);
        let clone = Node::make(&dir, name, &self.main, &self.authority, from, self.change_agents).await;
        clone.copy_data_of(self.node(name));
        clone
    }

    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name() == name).unwrap()
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The main server has a fresh Puppet certificate, as after its renewal.
    pub fn renew_puppet_certificate(&self) {
        self.main.write_puppet_files(&self.authority);
    }

    pub fn main(&self) -> &MainServer {
        &self.main
    }

    /// To stop and start the controller.
    pub fn main_mut(&mut self) -> &mut MainServer {
        &mut self.main
    }

    pub fn repository(&self) -> &ControlRepository {
        &self.repository
    }

    /// A place for what a test needs beside the fleet; goes with it.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Writes files on a branch of the control repository, as a git push does; answers the commit.
    pub fn push(&self, branch: &str, files: &[(&str, &str)]) -> String {
        self.repository.commit(branch, files)
    }

    /// `bunraku deploy ENV`: asks, waits for the end, and answers how it ended.
    pub async fn deploy(&self, environment: &str) -> DeployInfo {
        let id = self.main.ask_deploy(environment).await.unwrap();
        self.main.until_ended(id).await
    }

    /// Pushes a change that nothing was before, deploys it, and insists that it goes live everywhere.
    pub async fn deploy_change(&self, environment: &str, text: &str) -> Digest {
        self.push(environment, &[("manifests/site.pp", &format!("# {text}\n"))]);
        let deploy = self.deploy(environment).await;
        assert_eq!(deploy.phase, "live", "{deploy:#?}");
        digest_of(&deploy)
    }

    /// Waits until every node's Puppet Server serves this snapshot, and the controller knows.
    pub async fn until_all_serve(&self, environment: &str, snapshot: Digest) {
        for node in &self.nodes {
            node.until_serves(environment, snapshot).await;
        }
        self.main.until_all_proven(environment, snapshot).await;
    }

    /// What is true of every fleet at the end of a test, then a proper stop of everything.
    pub async fn end(mut self) {
        if self.main.is_running() {
            self.check_what_was_served().await;
            let verified = self.main.verify_audit().await;
            assert_eq!(verified.error, "", "I12: the chain is unbroken");
        }
        for balancer in &self.balancers {
            balancer.node().stop().await;
        }
        for node in &self.nodes {
            node.stop().await;
            node.puppet_server().check();
        }
        self.main.stop().await;
    }

    /// I1, I5: whatever a node ever served, somebody had decided to commit it, and never did an older decision come
    /// after a newer one.
    async fn check_what_was_served(&self) {
        for environment in self.main.status().await.environments {
            let decided = self.main.decided(&environment.name).await;
            for node in &self.nodes {
                let served = node.puppet_server().history(&environment.name);
                assert!(
                    is_in_order(&served, &decided),
                    "I1, I5: {} served {served:#?} of {}, decided was {decided:#?}",
                    node.name(),
                    environment.name
                );
            }
        }
    }
}

/// Whether `served` is what remains of `decided` when some are left out.
fn is_in_order(served: &[Digest], decided: &[Digest]) -> bool {
    let mut decided = decided.iter();
    served.iter().all(|served| decided.any(|decided| decided == served))
}

/// Waits for a condition and says what was waited for when it does not come within [`PATIENCE`].
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As [`until`], for something that is looked at and not asked; answers what was found.
pub async fn found<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Text of so many bytes that no compression makes small.
pub fn noise(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).unwrap();
    random.iter().map(|byte| char::from(b' ' + byte % 95)).collect()
}

/// A /24 of loopback addresses: ports and source addresses are this fleet's own. No other fleet of this process gets it,
/// and another process most likely does not.
fn free_network() -> [u8; 3] {
    static GIVEN: Mutex<BTreeSet<[u8; 3]>> = Mutex::new(BTreeSet::new());
    loop {
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        let network = [127, 64 + random[0] % 128, random[1]];
        if GIVEN.lock().unwrap().insert(network) {
            return network;
        }
    }
}

fn host_in(network: [u8; 3], host: u8) -> Ipv4Addr {
    Ipv4Addr::new(network[0], network[1], network[2], host)
}

fn write_executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// `RUST_LOG=bunraku=info,bunraku_agent=info` shows what both programs say.
fn show_logs_if_asked() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let _another_test_did = logs.try_init();
    }
}
