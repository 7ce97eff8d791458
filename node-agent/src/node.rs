//! What the node agent holds, opened once at its start: configuration, memory, versions, the Puppet beside it.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File, Permissions, set_permissions},
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs},
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bunraku_balancer::Keeper;
use bunraku_common::{Alone, Chain, Digest, EnvironmentName, NodeName};
use bunraku_puppetserver::{
    Places as ServerPlaces, Puppet, PuppetServer, Settings, SettingsError, places::PlacesError,
};
use bunraku_versions::{Layout, Policy, Versions};
use tokio::sync::Notify;

use crate::{
    accounts::group_id,
    balancer,
    certificate::{copies::Copies, kept::Certificate},
    config::{CodeConfig, Config},
    crl::kept::Crl,
    error::AgentError,
    helpers,
    memory::Memory,
    turn::kept::Turns,
};

/// What the agent holds.
#[derive(Debug)]
pub(crate) struct Node {
    pub name: NodeName,
    pub config: Config,
    /// Random, of this process: tells a reconnect from a second host with the same identity.
    pub instance: String,
    pub started: Instant,
    pub memory: Mutex<Memory>,
    /// What this node does as a compiler; `None`: its configuration grants no code.
    pub compiler: Option<Compiler>,
    /// What this node does as a load balancer; `None`: its configuration names none.
    pub balancer: Option<Arc<Keeper>>,
    /// Puppet's CRLs and their files here; `None`: its configuration grants none.
    pub crl: Option<Crl>,
    /// This compiler's Puppet certificate; `None`: it is no compiler.
    pub certificate: Option<Certificate>,
    /// Copies of the certificate; `None`: its configuration grants none.
    pub copies: Option<Copies>,
    /// What this node does when its turn in a rollout has come.
    pub turns: Turns,
    pub puppet: Puppet,
    /// Wakes the connection: the identity is renewed before its time.
    pub renew: Notify,
    /// The mesh CAs for which that was done last: once for each list, unless it failed.
    pub heard_anchors: Mutex<Vec<String>>,
    /// How far this host's clock was ahead of the controller's at the last hello, in milliseconds.
    pub clock_ahead_ms: Mutex<Option<i64>>,
    /// Released when the agent ends, however it ends.
    _lock: Alone,
}

#[derive(Debug)]
pub(crate) struct Compiler {
    pub config: CodeConfig,
    pub versions: Arc<Versions>,
    pub locks: PathBuf,
    pub scratch: PathBuf,
    pub group: Option<u32>,
    /// Why an environment is not proven yet.
    pub owed: Mutex<BTreeMap<EnvironmentName, String>>,
    /// Environments of which a commit order is under way: it settles its own debt.
    pub ordered: Mutex<Vec<EnvironmentName>>,
    /// When a version stopped being live: its successor was proven at that time (monotonic, this process only).
    pub left: Mutex<BTreeMap<(EnvironmentName, Digest), Instant>>,
    /// Wakes the background: something was committed.
    pub committed: Notify,
    /// Puppet's settings with the time at which puppet.conf had last changed.
    settings: tokio::sync::Mutex<Option<(Stamp, Settings)>>,
}

type Stamp = Option<std::time::SystemTime>;

impl Node {
    pub(crate) async fn open(config: Config) -> Result<Self, AgentError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| AgentError::Io { doing, path, source }
        };
        let data_dir = &config.data_dir;
        DirBuilder::new().recursive(true).mode(0o711).create(data_dir).map_err(io("make", data_dir))?;
        let lock = only_one(&data_dir.join("agent.lock"))?;
        let puppet = puppet(&config);
        let name = match &config.name {
            Some(name) => name.clone(),
            None => NodeName::parse(&puppet.settings().await?.certname)?,
        };
        let memory = Memory::open(&data_dir.join("memory.json"))?;
        let compiler = match &config.code {
            Some(code) => Some(Compiler::open(code, &config, &puppet).await?),
            None => None,
        };
        let balancer =
            config.balancer.as_ref().map(|balancer| balancer::kept::open(balancer, data_dir)).transpose()?;
        let crl = Crl::open(&config)?;
        let certificate = Certificate::open(&config)?;
        let copies = Copies::open(&config)?;
        let turns = Turns::open(&config, data_dir).map_err(|error| AgentError::Memory(Box::new(error)))?;
        Ok(Self {
            name,
            instance: format!("{:016x}", crate::random()),
            started: Instant::now(),
            memory: Mutex::new(memory),
            compiler,
            balancer,
            crl,
            certificate,
            copies,
            turns,
            puppet,
            renew: Notify::new(),
            heard_anchors: Mutex::default(),
            clock_ahead_ms: Mutex::new(None),
            config,
            _lock: lock,
        })
    }

    /// The renewal failed: the next hello that names those CAs asks for it again.
    pub(crate) fn forget_anchors(&self) {
        self.heard_anchors.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Monotonic milliseconds since the agent started.
    pub(crate) fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Puppet's settings as puppet.conf has them now; asked again (a second of Ruby) only when the file changed.
    pub(crate) async fn settings(&self, compiler: &Compiler) -> Result<Settings, SettingsError> {
        let mut known = compiler.settings.lock().await;
        if let Some((stamp, settings)) = &*known
            && *stamp == changed(&settings.config)
        {
            return Ok(settings.clone());
        }
        let settings = self.puppet.ask().await?;
        *known = Some((changed(&settings.config), settings.clone()));
        Ok(settings)
    }

    /// The same on a node that need not be a compiler; there they are asked once.
    pub(crate) async fn puppet_settings(&self) -> Result<Settings, SettingsError> {
        match &self.compiler {
            Some(compiler) => self.settings(compiler).await,
            None => self.puppet.settings().await.cloned(),
        }
    }

    /// The Puppet Server beside this agent.
    pub(crate) fn server(&self, settings: &Settings) -> Result<PuppetServer, String> {
        let address = self.server_address(settings)?;
        Ok(PuppetServer::new(settings, address))
    }

    /// Where Puppet Server's own configuration lies.
    pub(crate) fn server_places(&self, settings: &Settings) -> Result<ServerPlaces, PlacesError> {
        ServerPlaces::find(settings, self.config.puppet.conf_d.as_deref())
    }

    pub(crate) fn server_address(&self, settings: &Settings) -> Result<SocketAddr, String> {
        if let Some(named) = &self.config.puppet.server {
            return resolve(named).ok_or_else(|| AgentError::Server(named.clone()).to_string());
        }
        let places = self.server_places(settings).map_err(|error| Chain(&error).to_string())?;
        places.address().map_err(|error| format!("could not read where Puppet Server listens: {error}"))
    }

    /// Where callers reach Puppet Server on this host: at one address, or at all.
    pub(crate) fn server_listens(&self, settings: &Settings) -> Result<SocketAddr, String> {
        let listens = self.server_places(settings).ok().and_then(|places| places.listens().ok());
        let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let own = self.server_address(settings)?;
        // The name of the agent's own door says nothing about the others.
        Ok(SocketAddr::new(listens.unwrap_or(all).ip(), own.port()))
    }
}

pub(crate) fn resolve(text: &str) -> Option<SocketAddr> {
    text.to_socket_addrs().ok()?.next()
}

fn changed(path: &Path) -> Stamp {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

impl Compiler {
    async fn open(code: &CodeConfig, config: &Config, puppet: &Puppet) -> Result<Self, AgentError> {
        let environments_dir = match &code.environments_dir {
            Some(dir) => dir.clone(),
            None => puppet.settings().await?.environmentpath.clone(),
        };
        let group = match code.group.as_str() {
            "" => None,
            name => Some(group_id(name).ok_or_else(|| AgentError::Group(name.to_owned()))?),
        };
        let mut layout = Layout::new(code.versions_dir.clone(), environments_dir.clone(), group);
        layout.reserve_bytes = code.reserve_mib << 20;
        let places = helpers::Places {
            environments_dir,
            versions: code.versions_dir.join("versions"),
            locks: locks(config),
        };
        let scratch = config.data_dir.join("scratch");
        // Also when they are there already: the group may have been configured anew.
        let locks = if group.is_some() { 0o750 } else { 0o755 };
        for (dir, mode) in [(&places.locks, locks), (&scratch, 0o711)] {
            let made = DirBuilder::new().recursive(true).mode(mode).create(dir);
            let owned = made.and_then(|()| chown(dir, None, group));
            owned
                .and_then(|()| set_permissions(dir, Permissions::from_mode(mode)))
                .map_err(|source| AgentError::Io { doing: "make", path: dir.clone(), source })?;
        }
        helpers::install(&config.data_dir, &places).map_err(|source| AgentError::Io {
            doing: "make the helpers below",
            path: config.data_dir.clone(),
            source,
        })?;
        let versions = tokio::task::spawn_blocking(move || Versions::open(layout));
        let versions = versions.await.map_err(|_| AgentError::Server("the versions".into()))??;
        Ok(Self {
            config: code.clone(),
            versions: Arc::new(versions),
            locks: places.locks,
            scratch,
            group,
            owed: Mutex::default(),
            ordered: Mutex::default(),
            left: Mutex::default(),
            committed: Notify::new(),
            settings: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy {
            newest: self.config.keep_versions,
            window: Duration::from_secs(self.config.keep_minutes * 60),
            longest_compile: Duration::from_secs(self.config.longest_compile_minutes * 60),
            ..Policy::default()
        }
    }

    /// Whether that is news: a debt is tried every other second, and told once.
    pub(crate) fn set_owed(&self, environment: &EnvironmentName, why: Option<String>) -> bool {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &why {
            Some(why) => owed.insert(environment.clone(), why.clone()),
            None => owed.remove(environment),
        };
        before != why
    }

    pub(crate) fn owed(&self, environment: &EnvironmentName) -> Option<String> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner).get(environment).cloned()
    }
}

pub(crate) fn puppet(config: &Config) -> Puppet {
    Puppet::new(&config.puppet.program, config.puppet.arguments.iter().map(Into::into))
}

/// Where the locks stand that `code-id` shares with commits.
pub(crate) fn locks(config: &Config) -> PathBuf {
    config.data_dir.join("locks")
}

/// Two agents over one directory would remove each other's unfinished work.
fn only_one(path: &Path) -> Result<Alone, AgentError> {
    let opened = File::options().create(true).truncate(false).write(true).open(path);
    let file = opened.map_err(|source| AgentError::Io { doing: "open", path: path.into(), source })?;
    let taken = Alone::try_take(file).map_err(|source| AgentError::Io {
        doing: "lock",
        path: path.into(),
        source,
    })?;
    taken.ok_or_else(|| AgentError::Running { path: path.into() })
}
