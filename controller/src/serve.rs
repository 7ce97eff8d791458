//! `bunraku serve`: opens the journal, begins a term, opens the doors, and runs until it is told to stop.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bunraku_builder::{BuildError, Builder, ObjectStore};
use bunraku_common::{Chain, Digest, EnvironmentName, Fence, Generation, NodeName, Term, crash};
use bunraku_engine::{Event, Fact, NodeRecord, Presence, Settings, State, crl::CrlNode};
use bunraku_proto::{
    Door, FleetName, PROTOCOL, Peer,
    accept::{self, Accepted, Caller, Limits},
    link, serve,
    v1::{HelloReply, HelloRequest},
};
use bunraku_store::{Keep, LocalStore, Lost, Store, StoreError};
use futures_util::StreamExt;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;

use crate::{
    api::Api,
    audit::record,
    balancers::Balancers,
    certificates::MainCa,
    clock::{Clock, wall_ms, wall_s},
    config::Config,
    driver::{Driver, Hands, Superseded, prune, random_id},
    identities::Identities,
    identity::{CaError, MeshCa, PuppetFiles},
    nodes::{About, Connections},
    provenance::Provenance,
    report::Reporter,
    revocation::{CrlFiles, CrlWatch, Stock, StockError},
    turns::Turns,
    watchdog, words,
};

/// Nodes are asked what they serve this often: drift, and what a node settled by itself, show within it.
const ASK_NODES: Duration = Duration::from_secs(30);
/// Nodes that owe something, mostly because their Puppet Server is down, are asked more often: somebody is looking.
const ASK_OWING: Duration = Duration::from_secs(3);
/// The clocks of all nodes are compared with this host's this often.
const COMPARE_CLOCKS: Duration = Duration::from_secs(120);
const SAID_HELLO_AT_ONCE: usize = 32;
/// Old tokens, snapshots, segments and objects are looked for this often.
const HOUSEKEEPING: Duration = Duration::from_secs(600);
/// The oldest protocol number that is still spoken.
const OLDEST_PROTOCOL: u32 = if PROTOCOL > 2 { PROTOCOL - 2 } else { 1 };
/// Terms rise by one at a start and by a thousand at a takeover. A node that claims more must not drive this
/// controller's term, by takeovers, to where no higher one is left.
const FARTHEST_TERM: u64 = 1 << 32;
/// Nodes that lost their controller come back spread over this.
const REDIAL_SPREAD: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the journal's newest checkpoint cannot be read\nhint: it was written by another version; install that version"
    )]
    Checkpoint(#[source] serde_json::Error),
    #[error(
        "record {sequence} of the journal cannot be read\nhint: it was written by another version; install that version"
    )]
    Record {
        sequence: u64,
        #[source]
        source: serde_json::Error,
    },
    #[error("the mesh CA is not usable\nhint: bunraku init makes one")]
    Ca(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the builder is not usable")]
    Builder(#[from] BuildError),
    #[error("could not {doing} {what}")]
    Io {
        doing: &'static str,
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("canaries for Puppet's CRL cannot be made")]
    Canaries(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the driver ended: what the journal holds is safe, the process must start again")]
    Halted,
}

impl ServeError {
    /// Whether only a change of the configuration helps: then starting again is of no use.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Builder(error) => error.is_configuration(),
            Self::Store(_)
            | Self::Checkpoint(_)
            | Self::Record { .. }
            | Self::Ca(_)
            | Self::Canaries(_)
            | Self::Io { .. }
            | Self::Halted => false,
        }
    }
}

impl From<CaError> for ServeError {
    fn from(error: CaError) -> Self {
        Self::Ca(Box::new(error))
    }
}

impl From<StockError> for ServeError {
    fn from(error: StockError) -> Self {
        Self::Canaries(Box::new(error))
    }
}

fn io_error(doing: &'static str, what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> ServeError {
    let what = what.to_string();
    move |source| ServeError::Io { doing, what, source }
}

/// A controller that runs in this process. `bunraku serve` runs one; tests run several.
#[derive(Debug)]
pub struct Controller {
    driver: Driver,
    identities: Arc<Identities>,
    thread: std::thread::JoinHandle<()>,
    connections: Arc<Connections>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    address: std::net::SocketAddr,
    socket: PathBuf,
}

impl Controller {
    /// Makes a mesh CA in a data directory that has none, as `bunraku init` does, and answers its pin.
    pub fn found(data_dir: &Path, fleet: &FleetName) -> Result<Digest, ServeError> {
        let ca = MeshCa::create(&data_dir.join("ca"), fleet, SystemTime::now())?;
        ca.pin().map_err(|error| ServeError::Ca(Box::new(error)))
    }

    /// Opens everything and starts serving.
    pub async fn start(config: Config) -> Result<Self, ServeError> {
        let config = Arc::new(config);
        let settings = settings(&config);
        let (mut store, state, clock, lost) = recover(&config.data_dir.join("state"))?;
        let state = begin_term(&mut store, state, &clock, settings)?;
        let identities = Arc::new(Identities::open(&config, state.authority())?);
        let objects = config.data_dir.join("objects");
        let objects = ObjectStore::open(&objects).map_err(io_error("open", objects.display()))?;
        let provenance =
            Provenance::open(&config.data_dir).map_err(io_error("open", config.data_dir.display()))?;
        let provenance = Arc::new(provenance);
        let puppet_ca = Arc::new(MainCa::new(config.puppet.clone()));
        let stock = Stock::open(puppet_ca.clone(), &config.data_dir)?;
        let crls = CrlFiles::open(&config.data_dir).map_err(io_error("open", config.data_dir.display()))?;
        let builder = Arc::new(Builder::new(config.build.clone(), objects.clone())?);
        let connections = Arc::new(Connections::default());
        let balancers = Arc::new(Balancers::default());
        let turns = Arc::new(Turns::default());
        let (driver, thread) = Driver::start(state, Box::new(store), clock, |shared| Hands {
            runtime: tokio::runtime::Handle::current(),
            connections: connections.clone(),
            balancers: balancers.clone(),
            turns: turns.clone(),
            builder: builder.clone(),
            store: objects.clone(),
            provenance: provenance.clone(),
            crls: crls.clone(),
            stock,
            puppet_ca: puppet_ca.clone(),
            stage_deadline: config.deploy.stage_deadline(),
            shared: Arc::downgrade(shared),
        });
        identities.open_mesh_doors(&driver.shared)?;
        let reporter = Reporter {
            shared: driver.shared.clone(),
            connections: connections.clone(),
            store: objects,
            provenance,
        };
        let one_at_a_time = || Arc::new(tokio::sync::Semaphore::new(1));
        let (verifying, looking) = (one_at_a_time(), one_at_a_time());
        let api = Api {
            driver,
            reporter,
            connections,
            balancers,
            turns,
            crls,
            puppet_ca,
            builder,
            identities,
            config,
            lost,
            verifying,
            looking,
        };
        api.open(thread).await
    }

    /// The address that the port really has (a port of 0 in the config picks a free one).
    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// As after a month: the doors show a fresh certificate from now on. Connections stay.
    pub fn renew_certificate(&self) -> Result<(), ServeError> {
        Ok(self.identities.open_mesh_doors(&self.driver.shared)?)
    }

    /// Runs until the driver ends (then the process must end too) or `stop` resolves.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let mut head = self.driver.shared.head.subscribe();
        let halted = async {
            let _sender_lives_in_the_driver = head.wait_for(|head| *head == u64::MAX).await;
        };
        let result = tokio::select! {
            () = stop => Ok(()),
            () = halted => Err(ServeError::Halted),
        };
        self.stop().await;
        result
    }

    /// Ends everything at once; orders under way go on by themselves or are asked about at the next start.
    pub async fn stop(self) {
        self.driver.halt();
        for task in &self.tasks {
            task.abort();
        }
        self.connections.cut_nodes();
        // The journal is closed when the thread has ended: the next start may open it.
        let thread = self.thread;
        let _ended = tokio::task::spawn_blocking(move || thread.join()).await;
        let _best_effort = fs::remove_file(&self.socket);
    }
}

fn settings(config: &Config) -> Settings {
    let deploy = &config.deploy;
    Settings {
        policy: deploy.policy,
        on_stale_ruby: deploy.stale_ruby,
        stage_deadline: deploy.stage_deadline_s * 1000,
        commit_deadline: deploy.commit_deadline_s * 1000,
        unreachable: deploy.unreachable_s * 1000,
        parallel_builds: config.build.parallel,
        retained: deploy.retained,
        // The builder ends by its own, shorter deadline and says more.
        build_deadline: (config.build.deadline_s + 60) * 1000,
        balance_deadline: config.balancers.agree_s * 1000,
        slow_start_s: config.balancers.slow_start_s,
        crl_proof: config.crl.proof && config.puppet.is_some(),
        crl_canaries: config.crl.canaries,
        crl_drain: config.crl.drain,
        crl_deadline: config.crl.drain_after_s * 1000,
        renew_grace_s: config.identity.expired_renewal_days * 86_400,
        ..Settings::default()
    }
}

/// Reads the newest checkpoint and what follows. Acknowledged records that are gone are an alarm until the next start.
fn recover(dir: &Path) -> Result<(LocalStore, State, Clock, Option<Lost>), ServeError> {
    if let Some(above) = dir.parent() {
        fs::create_dir_all(above).map_err(io_error("make", above.display()))?;
    }
    let (store, recovered) = LocalStore::open(dir)?;
    let mut state: State = match &recovered.checkpoint {
        Some(bytes) => serde_json::from_slice(bytes).map_err(ServeError::Checkpoint)?,
        None => State::default(),
    };
    for record in &recovered.records {
        let fact: Fact = crate::audit::fact(record)
            .map_err(|source| ServeError::Record { sequence: record.sequence, source })?;
        state.apply(&fact, record.at_ms);
    }
    let last = match recovered.records.last() {
        Some(record) => Some((record.at_ms, record.wall_ms)),
        None => store.after(store.head().sequence.saturating_sub(1), 1)?.last().map(|r| (r.at_ms, r.wall_ms)),
    };
    Ok((store, state, Clock::continuing(last), recovered.lost))
}

/// One run of one controller: journalled before anything else happens.
fn begin_term(
    store: &mut LocalStore,
    mut state: State,
    clock: &Clock,
    settings: Settings,
) -> Result<State, ServeError> {
    let number = state.term().map_or(0, |term| term.number) + 1;
    let term = Term { number, id: random_id() };
    let now = clock.now();
    let mut facts = vec![Fact::TermBegan { term, takeover: None }];
    facts.extend(state.observe(Event::Configured { settings }, &Presence::new(now)));
    crash::point("before:term-began");
    store.append(facts.iter().map(|fact| record(fact, "controller", now)).collect())?;
    crash::point("after:term-began");
    for fact in &facts {
        state.apply(fact, now);
    }
    Ok(state)
}

impl Api {
    async fn open(self, thread: std::thread::JoinHandle<()>) -> Result<Controller, ServeError> {
        let listener =
            TcpListener::bind(self.config.listen).await.map_err(io_error("listen on", self.config.listen))?;
        let address = listener.local_addr().map_err(io_error("listen on", self.config.listen))?;
        let socket = self.config.socket.clone();
        let local = listen_for_root(&socket).map_err(io_error("listen on", socket.display()))?;
        let mut tasks = vec![self.serve_root(local), self.serve_doors(listener)];
        tasks.push(tokio::spawn({
            let (identities, driver) = (self.identities.clone(), self.driver.clone());
            let puppet = self.config.puppet.as_ref().map(|puppet| PuppetFiles {
                ca: puppet.ca.clone(),
                crl: puppet.crl.clone(),
                certificate: puppet.certificate.clone(),
                key: puppet.key.clone(),
            });
            async move { identities.keep_fresh(driver, puppet).await }
        }));
        if let Some(puppet) = &self.config.puppet {
            let (crl, ca) = (puppet.crl.clone(), puppet.ca.clone());
            let watch = CrlWatch::new(crl, ca, self.crls.clone(), self.driver.clone());
            tasks.push(tokio::spawn(watch.run()));
        }
        tasks.push(tokio::spawn(self.clone().ask_nodes_now_and_then()));
        let (driver, connections) = (self.driver.clone(), self.connections.clone());
        tasks.push(tokio::spawn(self.balancers.clone().watch(driver.clone(), connections.clone())));
        let trials = self.turns.clone().watch_trials(driver.clone(), connections.clone());
        tasks.push(tokio::spawn(trials));
        tasks.push(tokio::spawn(self.turns.clone().watch(driver, connections)));
        tasks.push(tokio::spawn(self.clone().housekeep()));
        tasks.push(tokio::spawn(watchdog::keep_fed(self.driver.clone())));
        Ok(Controller {
            driver: self.driver,
            identities: self.identities,
            thread,
            connections: self.connections,
            tasks,
            address,
            socket,
        })
    }

    fn serve_root(&self, local: UnixListener) -> tokio::task::JoinHandle<()> {
        let routes = self.control_routes();
        tokio::spawn(async move {
            let served = tonic::transport::Server::builder()
                .max_concurrent_streams(bunraku_common::limits::STREAMS)
                .add_routes(routes)
                .serve_with_incoming(UnixListenerStream::new(local));
            if let Err(error) = served.await {
                tracing::error!(error = %Chain(&error), "the unix socket is no longer served");
            }
        })
    }

    fn serve_doors(&self, listener: TcpListener) -> tokio::task::JoinHandle<()> {
        let api = self.clone();
        let (control, enrollment) = (self.control_routes(), self.enrollment_routes());
        let handler = move |accepted: Accepted| {
            let (api, control, enrollment) = (api.clone(), control.clone(), enrollment.clone());
            async move {
                match accepted.caller.door {
                    Door::Node => api.node_door(accepted).await,
                    Door::H2 => api.h2_door(accepted, control).await,
                    Door::Enroll | Door::EnrollPuppet => api.enroll_door(accepted, enrollment).await,
                }
            }
        };
        tokio::spawn(accept::accept(listener, self.identities.doors(), Limits::default(), handler))
    }

    async fn h2_door(&self, accepted: Accepted, routes: Routes) {
        let Some(peer) = accepted.caller.peer.clone() else { return };
        let (address, key) = (accepted.caller.address.ip().to_string(), peer.key.to_string());
        let (cut, served) = serve::serve_h2(accepted.stream, accepted.caller, routes, std::future::pending());
        let Some(id) = self.connections.started(&peer.serial, &key, cut) else {
            tracing::warn!(peer = %peer.peer, address, "connection refused: this key has too many open");
            return;
        };
        self.connections.cut_if_denied(&self.driver.shared.state(), &key);
        let ended = served.await;
        self.connections.ended(&id, None);
        tracing::debug!(peer = %peer.peer, why = ?ended, "connection ended");
    }

    async fn enroll_door(&self, accepted: Accepted, routes: Routes) {
        let (_cut, served) =
            serve::serve_h2(accepted.stream, accepted.caller, routes, std::future::pending());
        // Enrolling is one call: nobody stays at this door.
        let _ended = tokio::time::timeout(Duration::from_secs(30), served).await;
    }

    /// The life of one node's connection: hello, orders, the end.
    async fn node_door(&self, accepted: Accepted) {
        let Some(peer) = accepted.caller.peer.clone() else { return };
        let Peer::Node(node) = peer.peer.clone() else { return };
        let Caller { address, .. } = accepted.caller;
        let key = peer.key.to_string();
        let (node_link, cut, connection) = match link::link(accepted.stream).await {
            Ok(linked) => linked,
            Err(error) => {
                tracing::info!(%node, error = %Chain(&error), "the connection broke before hello");
                return;
            }
        };
        let Some(id) = self.connections.started(&peer.serial, &key, cut.clone()) else {
            tracing::warn!(%node, %address, "connection refused: this key has too many open");
            return;
        };
        // A revocation between the handshake and this line found nothing to cut.
        self.connections.cut_if_denied(&self.driver.shared.state(), &key);
        let end = tokio::spawn(connection);
        if let Some(hello) = self.greet(&node, node_link.clone()).await {
            let observed = hello.observed.clone().unwrap_or_default();
            let now = wall_ms();
            let about = About { hello, address: address.ip().to_string(), since_ms: now, compared_ms: now };
            tracing::info!(%node, %address, version = about.hello.version, "node connected");
            let anchors = anchors_seen(&node, &about.hello);
            self.connections.registered(&id, &node, node_link, cut.clone(), about);
            // After it, so that no older connection's word comes later.
            self.driver.event(anchors);
            for event in crate::api::observed(&node, &observed) {
                self.driver.event(event);
            }
            self.driver.connected(node.clone());
            self.balancers.look_at(&node);
            tokio::select! {
                _ended = end => {}
                () = expired(peer.not_after) => tracing::info!(%node, "the connection ends with its certificate"),
            }
        }
        if self.connections.ended(&id, Some(&node)) {
            tracing::info!(%node, "node gone");
            self.driver.gone(node);
        }
        cut.cut();
    }

    /// The first call on every connection. `None`: this controller will not give orders on it.
    async fn greet(&self, node: &NodeName, node_link: link::NodeLink) -> Option<HelloReply> {
        let term = self.driver.shared.state().term()?;
        let hello = match link::client(node_link).hello(self.hello_of(term)).await {
            Ok(reply) => words::hello(reply.into_inner()),
            Err(status) => {
                tracing::warn!(%node, reason = status.message(), "no hello from the node");
                return None;
            }
        };
        if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&hello.protocol) {
            tracing::error!(%node, protocol = hello.protocol, "the node speaks another protocol\nhint: upgrade bunraku-agent there");
            return None;
        }
        let highest = hello.highest_term.as_ref().and_then(bunraku_proto::v1::Term::parsed);
        if let Some(highest) =
            highest.filter(|highest| highest.number.saturating_sub(term.number) > FARTHEST_TERM)
        {
            tracing::error!(%node, %highest, own = %term, "the node claims a term that no controller ever had\nhint: bunraku nodes revoke {node}");
            return None;
        }
        if let Some(highest) = highest.filter(|highest| !highest.yields_to(&term)) {
            if highest.number == term.number {
                tracing::error!(%node, %highest, own = %term, "two controllers: the node has obeyed another one with the same number of its term: no orders are given");
            } else {
                tracing::error!(%node, %highest, own = %term, "the node has obeyed a newer controller: no orders are given");
            }
            self.driver.superseded(Superseded { by: highest, node: node.clone(), own: term, unknown: None });
            return None;
        }
        if let Some((environment, by)) = self.unknown_decision(&hello) {
            tracing::error!(%node, %environment, %by, "the node has obeyed a decision that is not in this journal: no orders are given");
            self.driver.superseded(Superseded {
                by,
                node: node.clone(),
                own: term,
                unknown: Some(environment),
            });
            return None;
        }
        Some(hello)
    }

    /// What the node obeyed and the journal does not know. A journal that was restored from a backup begins a term
    /// that every node would obey, and would bring all of them back to yesterday's code.
    fn unknown_decision(&self, hello: &HelloReply) -> Option<(EnvironmentName, Term)> {
        let state = self.driver.shared.state();
        hello.observed.iter().flat_map(|observed| &observed.environments).find_map(|on_node| {
            let environment = EnvironmentName::parse(&on_node.environment).ok()?;
            let term = on_node.term.as_ref().and_then(bunraku_proto::v1::Term::parsed)?;
            let fence = Fence { term, generation: Generation(on_node.generation) };
            (!state.has_decided(&environment, fence)).then_some((environment, term))
        })
    }

    async fn ask_nodes_now_and_then(self) {
        let mut turn = tokio::time::interval(ASK_OWING);
        let mut asked_all = None::<Instant>;
        let mut compared_clocks = Instant::now();
        loop {
            turn.tick().await;
            let all = asked_all.is_none_or(|asked| asked.elapsed() >= ASK_NODES);
            if all {
                asked_all = Some(Instant::now());
            }
            self.ask_nodes(self.nodes_to_ask(all)).await;
            if compared_clocks.elapsed() >= COMPARE_CLOCKS {
                compared_clocks = Instant::now();
                self.greet_again().await;
            }
        }
    }

    /// Says hello again: a clock that was set wrong since a node connected shows within minutes, and so does another
    /// mesh CA to the node.
    pub(crate) async fn greet_again(&self) {
        let Some(term) = self.driver.shared.state().term() else { return };
        let nodes = futures_util::stream::iter(self.connections.nodes());
        nodes
            .for_each_concurrent(SAID_HELLO_AT_ONCE, |node| async move {
                let Some((number, mut client)) = self.connections.numbered_client(&node) else { return };
                match client.hello(self.hello_of(term)).await {
                    Ok(reply) => {
                        let hello = words::hello(reply.into_inner());
                        self.connections.compared(&node, hello.wall_ms, wall_ms());
                        let anchors = anchors_seen(&node, &hello);
                        self.connections.while_current(&node, number, || self.driver.event(anchors));
                    }
                    Err(status) => {
                        tracing::info!(%node, reason = status.message(), "could not compare clocks")
                    }
                }
            })
            .await;
    }

    /// The first call on a connection, and repeated now and then.
    fn hello_of(&self, term: Term) -> tonic::Request<HelloRequest> {
        let anchors = self.identities.authorities().pins().unwrap_or_default();
        let mut request = tonic::Request::new(HelloRequest {
            term: Some(term.into()),
            controller: env!("CARGO_PKG_VERSION").to_owned(),
            protocol_oldest: OLDEST_PROTOCOL,
            protocol_newest: PROTOCOL,
            wall_ms: wall_ms(),
            redial_spread_ms: REDIAL_SPREAD.as_millis() as u32,
            anchors: anchors.iter().map(ToString::to_string).collect(),
        });
        request.set_timeout(bunraku_common::limits::HELLO);
        request
    }

    fn nodes_to_ask(&self, all: bool) -> Vec<NodeName> {
        let state = self.driver.shared.state();
        let owes_code =
            |node: &NodeRecord| node.environments.values().any(|on_node| !on_node.owed.is_empty());
        let crls = &state.revocations().nodes;
        let owes = |node: &CrlNode| !node.holds.owed.is_empty() || !node.holds.unread.is_empty();
        let owes_crl = |name: &NodeName| crls.get(name).is_some_and(owes);
        let certificates = &state.certificates().nodes;
        let now = self.driver.shared.clock.now();
        let is_changed =
            |name: &NodeName| certificates.get(name).is_some_and(|known| known.is_to_be_told(now));
        let nodes = state.fleet().nodes.iter();
        let asked = nodes.filter(|(name, node)| all || owes_code(node) || owes_crl(name) || is_changed(name));
        asked.map(|(name, _)| name.clone()).collect()
    }

    async fn housekeep(self) {
        let mut turn = tokio::time::interval(HOUSEKEEPING);
        loop {
            turn.tick().await;
            if let Some(now_s) = self.driver.shared.clock.trusted_wall_s() {
                let now = self.driver.shared.clock.now();
                self.driver.event(Event::Housekeeping { now_s, now });
            }
            let api = self.clone();
            let swept = tokio::task::spawn_blocking(move || api.sweep()).await;
            if let Ok(Err(error)) = swept {
                tracing::warn!(error = %Chain(&error), "what is no longer needed could not be removed");
            }
        }
    }

    fn sweep(&self) -> io::Result<()> {
        let kept = self.driver.shared.state().snapshots();
        let keep: Vec<_> = kept.iter().copied().collect();
        let swept = self.reporter.store.sweep(&keep)?;
        if swept.removed > 0 {
            tracing::info!(removed = swept.removed, bytes = swept.removed_bytes, "unneeded objects removed");
        }
        self.reporter.provenance.sweep(&kept)?;
        let audit = &self.config.audit;
        // By a clock that jumped nothing is too old; what is too much still goes.
        let now_s = self.driver.shared.clock.trusted_wall_s().unwrap_or(0);
        let since_wall_ms = (now_s * 1000).saturating_sub(audit.keep_days * 86_400_000);
        prune(&self.driver.shared, Keep { bytes: audit.keep_mib << 20, since_wall_ms });
        Ok(())
    }
}

/// Whom the node trusts, as far as it says so.
fn anchors_seen(node: &NodeName, hello: &HelloReply) -> Event {
    let anchors = hello.anchors.iter().filter_map(|anchor| anchor.parse().ok()).collect();
    Event::AnchorsSeen { node: node.clone(), anchors }
}

async fn expired(not_after: u64) {
    tokio::time::sleep(Duration::from_secs(not_after.saturating_sub(wall_s()))).await;
}

/// A socket that only this user (root) can open; what a dead controller left is replaced.
fn listen_for_root(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
