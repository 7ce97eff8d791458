//! A stand-in for the Puppet Server of one node: HTTPS with a Puppet-like CA, the three requests that the agent makes,
//! and the one thing that matters: it remembers what it has loaded, until it is flushed.
//!
//! It is also the witness of I1: it follows the live links all the time and verifies every tree they ever name.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bunraku_common::Digest;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{authority::Authority, tree::digest_on_disk};

/// How often the witness looks where the links point.
const LOOK: Duration = Duration::from_millis(5);
/// Longer than an agent waits between two looks at what it owes, shorter than it waits for a flush.
const LATE: Duration = Duration::from_secs(3);

/// How it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Running,
    /// Connections end without an answer.
    Down,
    /// 503 to everything.
    Starting,
    /// auth.conf lets nobody flush.
    Forbidding,
    /// Accepts a flush and goes on with what it has loaded, as one that runs without versioned directories.
    Stubborn,
    /// Reads requests and never answers.
    Stuck,
    /// Flushes at once, and says so three seconds later.
    Late,
    /// Runs, and compiles nothing.
    Failing,
}

const CATALOGS: &str = "/puppet/v3/catalog/";

/// Something that a node served at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub at: Instant,
    pub environment: String,
    pub snapshot: Digest,
}

/// Ends with its owner.
#[derive(Debug)]
pub struct PuppetServer {
    address: SocketAddr,
    inner: Arc<Inner>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Inner {
    environments_dir: PathBuf,
    /// Where each link pointed at the last look. Held during a look, so that what is seen is recorded in order.
    links: Mutex<BTreeMap<String, PathBuf>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mood: Mood,
    /// What the interpreters have in their caches: the real path of each loaded environment.
    loaded: BTreeMap<String, PathBuf>,
    flushes: usize,
    pools_flushed: usize,
    served: Vec<Served>,
    violations: Vec<String>,
    damage_allowed: bool,
}

impl PuppetServer {
    pub(super) async fn start(
        environments_dir: &Path,
        ip: IpAddr,
        certname: &str,
        authority: &Authority,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(authority.server_config(&authority.issue(certname))));
        let inner = Arc::new(Inner {
            environments_dir: environments_dir.into(),
            links: Mutex::default(),
            state: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, acceptor, inner.clone()));
        tasks.spawn(watch_links(inner.clone()));
        Self { address, inner, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set_mood(&self, mood: Mood) {
        self.inner.state().mood = mood;
    }

    /// As a restart does: nothing is loaded any more.
    pub fn forget(&self) {
        self.inner.state().loaded.clear();
    }

    /// As agents' runs do: every environment that a link names is loaded, unless it is already.
    pub fn compile(&self) {
        self.inner.look(true);
    }

    /// Flushes of real environments that were accepted.
    pub fn flushes(&self) -> usize {
        self.inner.state().flushes
    }

    /// How often its JRuby pool was thrown away.
    pub fn pools_flushed(&self) -> usize {
        self.inner.state().pools_flushed
    }

    /// The snapshot that the interpreters have loaded.
    pub fn serves(&self, environment: &str) -> Option<Digest> {
        snapshot_of(self.inner.state().loaded.get(environment)?)
    }

    /// Everything that a live link named or an interpreter loaded, oldest first.
    pub fn ever_served(&self) -> Vec<Served> {
        self.inner.state().served.clone()
    }

    /// What the live link of an environment has named, without repetitions side by side.
    pub fn history(&self, environment: &str) -> Vec<Digest> {
        let mut all: Vec<Digest> = Vec::new();
        for served in self.ever_served().iter().filter(|served| served.environment == environment) {
            if all.last() != Some(&served.snapshot) {
                all.push(served.snapshot);
            }
        }
        all
    }

    /// For tests that damage live files by hand.
    pub fn allow_damage(&self) {
        self.inner.state().damage_allowed = true;
    }

    /// Fails when I1 was ever broken.
    pub(super) fn check(&self) {
        self.inner.look(false);
        let violations = self.inner.state().violations.clone();
        assert!(violations.is_empty(), "I1: {violations:#?}");
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows every link: verifies what it names when that is new, and when an interpreter is about to load it.
    fn look(&self, load: bool) {
        let mut known = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        for (environment, target) in self.links_now() {
            let is_new = known.get(&environment) != Some(&target);
            if is_new || (load && !self.state().loaded.contains_key(&environment)) {
                self.verify(&environment, &target);
            }
            if load {
                self.state().loaded.entry(environment.clone()).or_insert_with(|| target.clone());
            }
            known.insert(environment, target);
        }
    }

    fn links_now(&self) -> Vec<(String, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.environments_dir) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        // Puppet's own rule for names of environments: the agent's temporary names are none.
        let names = names.filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        names
            .filter_map(|name| Some((name.clone(), fs::read_link(self.environments_dir.join(name)).ok()?)))
            .collect()
    }

    /// I1: what is served is a whole and sealed tree, of the snapshot that its name says.
    fn verify(&self, environment: &str, target: &Path) {
        let Some(snapshot) = snapshot_of(target) else {
            self.violated(format!("{environment} leads to {}", target.display()));
            return;
        };
        self.state().served.push(Served { at: Instant::now(), environment: environment.into(), snapshot });
        if !target.with_file_name(format!("{environment}_{snapshot}.seal")).exists() {
            self.violated(format!("{environment} leads to {}, which is not sealed", target.display()));
        }
        match digest_on_disk(target) {
            Ok(found) if found == snapshot => {}
            Ok(found) => self.violated(format!("{} holds {found}", target.display())),
            Err(error) => self.violated(format!("{} cannot be read: {error}", target.display())),
        }
    }

    fn violated(&self, what: String) {
        let mut state = self.state();
        if !state.damage_allowed {
            state.violations.push(what);
        }
    }

    /// `None`: no answer.
    fn answer(&self, request: &str) -> Option<String> {
        self.look(false);
        let mood = self.state().mood;
        match (mood, request.split(['?', ' ']).take(2).collect::<Vec<_>>().as_slice()) {
            (Mood::Down | Mood::Stuck, _) => None,
            (Mood::Starting, _) => Some(http("503 Service Unavailable", "starting")),
            (Mood::Failing, ["GET", path]) if path.starts_with(CATALOGS) => {
                Some(http("500 Internal Server Error", "Evaluation Error: no such luck"))
            }
            (_, ["GET", path]) if path.starts_with(CATALOGS) => Some(http("200 OK", "{}")),
            (_, ["GET", "/status/v1/simple"]) => Some(http("200 OK", "running")),
            (_, ["GET", "/status/v1/services/jruby-metrics"]) => Some(http("200 OK", &idle_pool())),
            (Mood::Forbidding, ["DELETE", _]) => Some(http("403 Forbidden", "Forbidden request")),
            (_, ["DELETE", "/puppet-admin-api/v1/jruby-pool"]) => {
                self.state().pools_flushed += 1;
                Some(http("204 No Content", ""))
            }
            (_, ["GET", "/puppet/v3/environments"]) => {
                self.look(true);
                Some(http("200 OK", &self.listing()))
            }
            (_, ["DELETE", "/puppet-admin-api/v1/environment-cache"]) => {
                let environment = request.split(['=', ' ']).nth(2).unwrap_or_default();
                self.flush(environment, mood);
                Some(http("204 No Content", ""))
            }
            (_, _) => Some(http("404 Not Found", request)),
        }
    }

    fn flush(&self, environment: &str, mood: Mood) {
        let mut state = self.state();
        // The rehearsal's environment cannot exist.
        if environment.bytes().any(|b| b.is_ascii_uppercase()) {
            return;
        }
        state.flushes += 1;
        if mood != Mood::Stubborn {
            state.loaded.remove(environment);
        }
    }

    fn listing(&self) -> String {
        let state = self.state();
        let environments = state.loaded.iter().map(|(name, path)| {
            let settings = json!({
                "modulepath": [path.join("modules")],
                "manifest": path.join("manifests"),
                "environment_timeout": "unlimited",
                "config_version": "",
            });
            (name.clone(), json!({ "settings": settings }))
        });
        let environments: serde_json::Map<_, _> = environments.collect();
        json!({ "search_paths": [self.environments_dir], "environments": environments }).to_string()
    }
}

/// Two interpreters that nobody uses.
fn idle_pool() -> String {
    let metrics = json!({
        "num-jrubies": 2, "num-free-jrubies": 2, "requested-instances": [], "borrowed-instances": [],
        "borrow-count": 0, "borrow-timeout-count": 0, "average-borrow-time": 0.0, "average-wait-time": 0.0,
    });
    json!({ "status": { "experimental": { "metrics": metrics } } }).to_string()
}

async fn watch_links(inner: Arc<Inner>) {
    loop {
        inner.look(false);
        tokio::time::sleep(LOOK).await;
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, inner: Arc<Inner>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        if inner.state().mood == Mood::Down {
            continue;
        }
        let (acceptor, inner) = (acceptor.clone(), inner.clone());
        connections.spawn(async move {
            let _the_agent_sees_what_broke = serve(tcp, acceptor, inner).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(tcp: tokio::net::TcpStream, acceptor: TlsAcceptor, inner: Arc<Inner>) -> io::Result<()> {
    let mut tls = acceptor.accept(tcp).await?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(tls.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
    match inner.answer(&line) {
        Some(answer) => {
            if line.starts_with("DELETE") && inner.state().mood == Mood::Late {
                tokio::time::sleep(LATE).await;
            }
            tls.write_all(answer.as_bytes()).await?;
            tls.shutdown().await
        }
        None if inner.state().mood == Mood::Stuck => std::future::pending().await,
        None => Ok(()),
    }
}

fn http(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// `…/production/production_<digest>`
fn snapshot_of(version: &Path) -> Option<Digest> {
    version.file_name()?.to_str()?.rsplit_once('_')?.1.parse().ok()
}
