//! A fleet whose controller and agents are processes, and what must be true of it when a case is over.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use bunraku_common::Digest;
use bunraku_proto::v1;
use bunraku_tests::{
    fleet::{Fleet, MainServer, Node, PATIENCE, digest_of, found, grant, until},
    installed::program,
    own_apt::allow,
    process::{Service, tail},
};
use tokio::net::TcpStream;

use super::{clock::Clock, journal::Journal, witness::Witness};

pub(crate) const ENVIRONMENT: &str = "production";
pub(crate) const NODES: [&str; 2] = ["c1", "c2"];
pub(crate) const BALANCER: &str = "lb1";

/// Two compilers and a main server.
pub(crate) struct World {
    controller: Option<Service>,
    agents: [Option<Service>; 2],
    /// The agent beside HAProxy, where there is one.
    balancer: Option<Service>,
    /// Of those whose clock is not the machine's.
    clocks: BTreeMap<String, Clock>,
    pub(crate) witness: Witness,
    /// What is live everywhere at the beginning.
    pub(crate) old: Option<Digest>,
    flushes: [usize; 2],
    _logs: Logs,
    fleet: Fleet,
}

/// Shows what the processes said last, when a case fails.
struct Logs([PathBuf; 3]);

impl Drop for Logs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in &self.0 {
                eprintln!("--- {}\n{}", log.display(), tail(log, 30));
            }
        }
    }
}

impl World {
    /// Everything is enrolled and stopped; `A` is live everywhere.
    pub(crate) async fn with_a_live() -> Self {
        let mut world = Self::empty().await;
        for who in ["controller", "c1", "c2"] {
            world.start(who, None).await;
        }
        let old = world.deploy("A").await;
        world.until_all_serve(old).await;
        world.old = Some(old);
        world.flushes = world.flushes_now();
        world
    }

    /// Everything is enrolled and stopped; no environment is there.
    pub(crate) async fn empty() -> Self {
        let fleet = Fleet::new().nodes(NODES.len()).up().await;
        Self::of(fleet).await
    }

    /// Two compilers whose services rollouts may restart, behind a real HAProxy; everything runs, `A` is live.
    pub(crate) async fn balanced() -> Self {
        let granted = |config: &mut bunraku_agent::Config| {
            grant(config);
            allow(config);
        };
        let plan = Fleet::new().nodes(NODES.len()).agents(granted);
        let mut fleet = plan.controller(|config| config.balancers.agree_s = 8).up().await;
        fleet.push(ENVIRONMENT, &[("manifests/site.pp", "# A\n")]);
        assert_eq!(fleet.deploy(ENVIRONMENT).await.phase, "live");
        fleet.add_balancer(BALANCER, &NODES).await;
        fleet.balancer(BALANCER).node().stop().await;
        let mut world = Self::of(fleet).await;
        for who in ["controller", BALANCER, "c1", "c2"] {
            world.start(who, None).await;
        }
        for node in NODES {
            world.main().until_balanced(node, "in service").await;
        }
        world
    }

    /// Ends what runs in this process.
    pub(crate) async fn of(mut fleet: Fleet) -> Self {
        for node in fleet.nodes() {
            node.stop().await;
        }
        fleet.main_mut().stop().await;
        let links = fleet.nodes().iter().map(|node| node.environment(ENVIRONMENT)).collect();
        let versions = fleet.nodes().iter().map(|node| node.code("versions").join(ENVIRONMENT)).collect();
        let witness = Witness::watch(links, versions);
        let logs = Logs(["controller.log", "c1.log", "c2.log"].map(|log| fleet.path(log)));
        Self {
            controller: None,
            agents: [None, None],
            balancer: None,
            clocks: BTreeMap::new(),
            witness,
            old: None,
            flushes: [0, 0],
            _logs: logs,
            fleet,
        }
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    pub(crate) fn main(&self) -> &MainServer {
        self.fleet.main()
    }

    pub(crate) fn main_mut(&mut self) -> &mut MainServer {
        self.fleet.main_mut()
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        match name {
            BALANCER => self.fleet.balancer(BALANCER).node(),
            compiler => self.fleet.node(compiler),
        }
    }

    /// How many compilers HAProxy itself shows in service.
    pub(crate) async fn in_service(&self) -> usize {
        self.fleet.balancer(BALANCER).haproxy().up().await
    }

    /// A Puppet agent's connection through HAProxy: open until it is dropped.
    pub(crate) async fn session(&self) -> TcpStream {
        self.fleet.balancer(BALANCER).haproxy().session().await
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.fleet.path(below)
    }

    /// Starts `controller`, `c1` or `c2` as a process that dies at `crash_at`. Does not wait.
    pub(crate) fn spawn(&mut self, who: &str, crash_at: Option<&str>) {
        let (name, verb, config) = match who {
            "controller" => ("bunraku", "serve", toml::to_string(self.main().config()).unwrap()),
            node => ("bunraku-agent", "run", toml::to_string(&self.node(node).config()).unwrap()),
        };
        let path = self.path(&format!("{who}.toml"));
        fs::write(&path, config).unwrap();
        let mut command = program(name).unwrap();
        command.arg(verb).arg("--config").arg(path);
        if let Some(place) = crash_at {
            command.env("BUNRAKU_CRASH_AT", place);
        }
        if let Some(clock) = self.clocks.get(who) {
            clock.give_to(&mut command);
        }
        let service = Service::spawn(who, &mut command, &self.log(who)).unwrap();
        if let Some(clock) = self.clocks.get_mut(who) {
            clock.is_used_by(service.pid());
        }
        *self.process(who) = Some(service);
    }

    /// As `spawn`, and waits until the controller answers, or the node is connected (if the controller runs).
    pub(crate) async fn start(&mut self, who: &str, crash_at: Option<&str>) {
        self.spawn(who, crash_at);
        if who == "controller" {
            self.until_controller_answers().await;
        } else if self.controller.is_some() {
            self.main().until_connected(who).await;
        }
    }

    /// From the next start on it has a clock of its own, `off` seconds ahead of the machine's; if it has one already,
    /// that jumps now.
    pub(crate) fn set_clock(&mut self, who: &str, off: i64) {
        let file = self.path(&format!("{who}.clock"));
        self.clocks.entry(who.to_owned()).or_insert_with(|| Clock::new(file)).set(off);
    }

    pub(crate) async fn until_controller_answers(&mut self) {
        let controller = Mutex::new(self.controller.as_mut().unwrap());
        let client = self.fleet.main().client();
        until("the controller answers", || async {
            controller.lock().unwrap().ensure_running().unwrap();
            client.clone().status(v1::StatusRequest {}).await.is_ok()
        })
        .await;
    }

    fn process(&mut self, who: &str) -> &mut Option<Service> {
        if who == BALANCER {
            return &mut self.balancer;
        }
        match NODES.iter().position(|node| *node == who) {
            Some(at) => &mut self.agents[at],
            None => &mut self.controller,
        }
    }

    pub(crate) fn log(&self, who: &str) -> PathBuf {
        self.path(&format!("{who}.log"))
    }

    /// Waits until it has killed itself.
    pub(crate) async fn until_dead(&mut self, who: &str) {
        let process = self.process(who);
        let hint = "hint: cargo build --workspace --bins";
        let status = found(&format!("{who} to come to its crash point ({hint})"), || {
            process.as_mut().unwrap().ended().unwrap()
        })
        .await;
        assert_eq!(status.signal(), Some(9), "{who} ended by itself: {status}");
        *process = None;
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, who: &str) {
        self.process(who).take().unwrap().kill().unwrap();
    }

    pub(crate) fn push(&self, text: &str) {
        self.fleet.push(ENVIRONMENT, &[("manifests/site.pp", &format!("# {text}\n"))]);
    }

    /// Pushes and asks; answers the deploy's id when the request was acknowledged.
    pub(crate) async fn ask_for(&self, text: &str) -> Option<u64> {
        self.push(text);
        self.main().ask_deploy(ENVIRONMENT).await.ok()
    }

    /// Pushes, deploys, and insists that it goes live.
    pub(crate) async fn deploy(&self, text: &str) -> Digest {
        let id = self.ask_for(text).await.expect("the controller runs");
        self.until_live(id).await
    }

    pub(crate) async fn until_live(&self, id: u64) -> Digest {
        let ended = self.main().until_ended(id).await;
        assert_eq!(ended.phase, "live", "I7: {ended:#?}");
        digest_of(&ended)
    }

    pub(crate) async fn until_all_serve(&self, snapshot: Digest) {
        self.fleet.until_all_serve(ENVIRONMENT, snapshot).await;
    }

    pub(crate) async fn journal(&self) -> Journal {
        Journal::new(self.main().audit().await)
    }

    fn flushes_now(&self) -> [usize; 2] {
        NODES.map(|node| self.node(node).puppet_server().flushes())
    }

    /// How often each Puppet Server was told to flush since `A` was live.
    pub(crate) fn flushes(&self) -> [usize; 2] {
        let now = self.flushes_now();
        [now[0] - self.flushes[0], now[1] - self.flushes[1]]
    }

    /// I9 and I2: nothing was decided, so every node serves what it served.
    pub(crate) fn nothing_has_changed(&self) {
        for node in NODES {
            assert_eq!(
                self.node(node).live(ENVIRONMENT),
                self.old,
                "I2: nothing was decided, yet {node} changed"
            );
        }
    }

    /// What always holds, asked when all faults are over and `new` was to be live everywhere. Ends the fleet.
    pub(crate) async fn holds(mut self, new: Digest) {
        self.until_all_serve(new).await;
        for node in NODES {
            let served = self.node(node).puppet_server().history(ENVIRONMENT);
            let expected: Vec<Digest> = self.old.into_iter().chain([new]).collect();
            assert_eq!(served, expected, "I5: {node} went from A to B, once, and never back");
        }
        self.ends_whole().await;
        self.end().await;
    }

    /// As `holds`, whatever was served on the way.
    pub(crate) async fn ends_whole(&mut self) {
        self.journal().await.check();
        self.audit_verifies();
        self.nothing_is_left_over().await;
        self.the_same_journal_gives_the_same_state().await;
        self.witness.check();
        for who in ["c1", "c2", "controller"] {
            self.kill(who);
        }
    }

    /// I12, as an operator asks.
    pub(crate) fn audit_verifies(&self) {
        let socket = self.main().config().socket.clone();
        let mut verify = program("bunraku").unwrap();
        let said = verify.args(["audit", "verify", "--socket"]).arg(socket).output().unwrap();
        assert!(said.status.success(), "I12: {said:?}");
    }

    /// I7: what an interrupted step made is gone, on the nodes and on the main server.
    async fn nothing_is_left_over(&self) {
        let mut left = Vec::new();
        found("I7: what was begun to be removed", || {
            let now = self.left_over();
            if now != left {
                println!("left over: {now:#?}");
                left = now;
            }
            left.is_empty().then_some(())
        })
        .await;
    }

    fn left_over(&self) -> Vec<String> {
        let mut left = Vec::new();
        for node in NODES.map(|name| self.node(name)) {
            let environments = node.environment(ENVIRONMENT).with_file_name("");
            left.extend(names_in(&environments).into_iter().filter(|name| name != ENVIRONMENT));
            left.extend(names_in(&node.code("spare")).into_iter().filter(|name| name.ends_with(".dirty")));
            left.extend(names_in(&node.code("tmp")));
            left.extend(names_in(&node.code("trees/tmp")));
            let versions = names_in(&node.code("versions").join(ENVIRONMENT));
            let has_no_twin = |name: &&String| {
                let twin = name.strip_suffix(".seal").map_or_else(|| format!("{name}.seal"), str::to_owned);
                !versions.contains(&twin)
            };
            left.extend(versions.iter().filter(has_no_twin).cloned());
            let data = names_in(&node.config().data_dir);
            left.extend(data.into_iter().filter(|name| name.ends_with(".new")));
        }
        let build = self.main().config().build.root.join("environments").join(ENVIRONMENT).join("g10k");
        left.extend(names_in(&build).into_iter().filter(|name| name == "running"));
        left.extend(names_in(&self.main().config().data_dir.join("objects/tmp")));
        left
    }

    /// Killed while nothing is to do, the controller comes back with the same state, and orders nothing.
    async fn the_same_journal_gives_the_same_state(&mut self) {
        self.until_all_are_connected().await;
        let (before, flushed) = (self.state().await, self.flushes_now());
        self.kill("controller");
        self.start("controller", None).await;
        self.until_all_are_connected().await;
        // Who is connected comes to the state a moment after the connection.
        let mut now = self.state().await;
        let until = Instant::now() + PATIENCE;
        while now != before && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
            now = self.state().await;
        }
        assert_eq!(before, now, "the same journal, the same state");
        assert_eq!(flushed, self.flushes_now(), "I5: an order took effect twice");
    }

    async fn until_all_are_connected(&self) {
        for node in NODES {
            self.main().until_connected(node).await;
        }
    }

    async fn state(&self) -> String {
        let request = v1::ListDeploysRequest::default();
        let mut deploys = self.main().client().list_deploys(request).await.unwrap().into_inner();
        for deploy in &mut deploys.deploys {
            // Controller time, shown by the wall clock: each run has its own difference between the two.
            (deploy.requested_ms, deploy.ended_ms, deploy.live_ms) = (0, 0, 0);
        }
        let environment = self.main().environment(ENVIRONMENT).await;
        format!("{deploys:#?}\n{environment:#?}")
    }

    /// Ends the stand-ins, each of which checks I1 for its node.
    pub(crate) async fn end(self) {
        let Self { fleet, witness, .. } = self;
        drop(witness);
        fleet.end().await;
    }
}

pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A process group's programs that still run, by their working directory.
pub(crate) fn running_below(directory: &Path) -> Vec<String> {
    let below = |pid: &String| {
        let at = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        at.starts_with(directory)
            .then(|| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default())
    };
    names_in(Path::new("/proc")).iter().filter(|name| name.parse::<u32>().is_ok()).filter_map(below).collect()
}
