//! What the node agent asks of the Puppet Server beside it: rehearse, flush, prove, and its state.
//!
//! An error says whether the request is *owed* (nobody answered: do it as soon as somebody does) or was *refused*
//! (somebody must change something first).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bunraku_common::EnvironmentName;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Settings,
    identity::Identity,
    request::{Answer, Door, Trouble},
};
pub use crate::{identity::IdentityError, request::Silence};

/// A flush takes 40 to 230 ms (measured), the list of environments seconds on a loaded machine that must load them first.
const DEADLINE: Duration = Duration::from_secs(30);

/// An environment that cannot exist beside ours: names of environments have no upper case here.
const REHEARSAL: &str = "BunrakuRehearsal";

const CACHE: &str = "/puppet-admin-api/v1/environment-cache";
const ENVIRONMENTS: &str = "/puppet/v3/environments";

/// The Puppet Server on this host, seen through its own HTTPS door with the node's Puppet certificate.
#[derive(Debug)]
pub struct PuppetServer {
    pub(crate) door: Door,
}

/// The answer of `/status/v1/simple`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Running,
    Starting,
    Stopping,
    /// It answers, and one of its services has failed or does not say.
    Ailing(String),
    /// It does not answer.
    Down(String),
}

/// That Puppet Server has loaded a version: the paths below it that it named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    pub paths: Vec<PathBuf>,
}

/// An environment as the running server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveEnvironment {
    pub modulepath: Vec<PathBuf>,
    pub manifest: Option<PathBuf>,
    /// `unlimited`, or a number of seconds.
    pub environment_timeout: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("Puppet Server at {address} does not answer ({doing})")]
    NotAnswering {
        doing: String,
        address: SocketAddr,
        #[source]
        source: Silence,
    },
    #[error(
        "Puppet Server at {address} forbids it ({doing}) to {certname} \
         (hint: {} a rule to auth.conf that allows \"{certname}\" method {method} on path {path}, \
         then reload Puppet Server)",
        if *method == "delete" { "run `bunraku-agent doctor --fix`, or add" } else { "add" }
    )]
    Forbidden { doing: String, address: SocketAddr, certname: String, method: &'static str, path: Box<str> },
    #[error("Puppet Server at {address} answered {status} ({doing}): {body}")]
    Refused { doing: String, address: SocketAddr, status: StatusCode, body: String },
    #[error(
        "Puppet Server at {address} and {certname} do not trust each other's certificates ({doing}) \
         (hint: `puppet ssl verify` names what is wrong)"
    )]
    Untrusted {
        doing: String,
        address: SocketAddr,
        certname: String,
        #[source]
        source: std::io::Error,
    },
    #[error("what answers at {address} is not a Puppet Server that can be understood ({doing})")]
    Garbled {
        doing: String,
        address: SocketAddr,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the node's Puppet certificate cannot be used ({doing})")]
    Identity {
        doing: String,
        #[source]
        source: IdentityError,
    },
    #[error("Puppet Server has not loaded {version}: environment {environment} is {found}")]
    NotProven { environment: EnvironmentName, version: PathBuf, found: String },
    #[error(
        "versioned_environment_dirs is {found} in {config}: a swap would mix old and new files \
         (hint: run `bunraku-agent doctor --fix`, then reload Puppet Server)"
    )]
    NotVersioned { config: PathBuf, found: &'static str },
}

impl ServerError {
    /// Whether nobody answered: what was asked is still to be done, and may be asked again unchanged.
    pub fn is_owed(&self) -> bool {
        match self {
            Self::NotAnswering { .. } => true,
            Self::Forbidden { .. }
            | Self::Refused { .. }
            | Self::Untrusted { .. }
            | Self::Garbled { .. }
            | Self::Identity { .. }
            | Self::NotProven { .. }
            | Self::NotVersioned { .. } => false,
        }
    }
}

impl PuppetServer {
    /// `address` is where the server listens on this host (see [`crate::Places::address`]).
    pub fn new(settings: &Settings, address: SocketAddr) -> Self {
        let identity = Identity::new(&settings.hostcert, &settings.hostprivkey, &settings.localcacert);
        let certname = settings.certname.clone();
        Self { door: Door { address, certname, identity, deadline: DEADLINE } }
    }

    /// Waits for each answer at most this long, from connecting to the last byte.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.door.deadline = deadline;
        self
    }

    /// Marks the environment expired in every interpreter: each lets go of it at its next lookup.
    pub async fn flush(&self, environment: &EnvironmentName) -> Result<(), ServerError> {
        self.flush_named(environment.as_str()).await
    }

    /// Asks everything that a commit will ask, without an effect on what is served.
    ///
    /// An owed error means that Puppet Server is down, which a commit allows.
    pub async fn rehearse(&self, settings: &Settings) -> Result<(), ServerError> {
        let not_versioned = |found| ServerError::NotVersioned { config: settings.config.clone(), found };
        match settings.versioned_environment_dirs {
            Some(true) => {}
            Some(false) => return Err(not_versioned("off")),
            None => return Err(not_versioned("not known to this Puppet")),
        }
        self.try_flush().await?;
        self.environments().await.map(drop)
    }

    /// A flush of an environment that does not exist: shows that a real one would be accepted.
    pub(crate) async fn try_flush(&self) -> Result<(), ServerError> {
        self.flush_named(REHEARSAL).await
    }

    /// That an environment is loaded from `version`, shown by a path below it in the modulepath or manifest of the
    /// environment that the server holds in its cache.
    pub async fn prove(&self, environment: &EnvironmentName, version: &Path) -> Result<Proof, ServerError> {
        let environments = self.environments().await?;
        proof(&environments, environment, version).map_err(|found| not_proven(environment, version, found))
    }

    /// The same of several, asked once.
    pub async fn prove_all(&self, wanted: &BTreeMap<EnvironmentName, PathBuf>) -> Result<(), ServerError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let environments = self.environments().await?;
        for (name, version) in wanted {
            proof(&environments, name, version).map_err(|found| not_proven(name, version, found))?;
        }
        Ok(())
    }

    /// Every environment, as the server has it loaded.
    pub async fn environments(&self) -> Result<BTreeMap<String, LiveEnvironment>, ServerError> {
        let doing = "listing environments";
        let answer = self.ask(doing, Method::GET, ENVIRONMENTS).await?;
        if answer.status != StatusCode::OK {
            return Err(self.refusal(doing, ("get", ENVIRONMENTS), &answer));
        }
        let listing: Listing =
            serde_json::from_slice(&answer.body).map_err(|error| self.garbled(doing, error.into()))?;
        Ok(listing.environments.into_iter().map(|(name, it)| (name, it.settings.into())).collect())
    }

    pub async fn status(&self) -> Status {
        match self.ask("asking its status", Method::GET, "/status/v1/simple").await {
            Ok(answer) => match (answer.status, answer.excerpt().as_str()) {
                (StatusCode::OK, "running") => Status::Running,
                (_, "starting") => Status::Starting,
                (_, "stopping") => Status::Stopping,
                _ => Status::Ailing(answer.to_string()),
            },
            Err(ServerError::NotAnswering { source: Silence::Unavailable(body), .. }) => {
                match body.as_str() {
                    "starting" => Status::Starting,
                    "stopping" => Status::Stopping,
                    _ => Status::Ailing(body),
                }
            }
            Err(error) => Status::Down(bunraku_common::Chain(&error).to_string()),
        }
    }

    async fn flush_named(&self, environment: &str) -> Result<(), ServerError> {
        let doing = format!("flushing environment {environment}");
        let answer = self.ask(&doing, Method::DELETE, &format!("{CACHE}?environment={environment}")).await?;
        if answer.status == StatusCode::NO_CONTENT {
            Ok(())
        } else {
            Err(self.refusal(&doing, ("delete", CACHE), &answer))
        }
    }

    pub(crate) async fn ask(&self, doing: &str, method: Method, path: &str) -> Result<Answer, ServerError> {
        let Door { address, certname, .. } = &self.door;
        let (doing, address) = (doing.to_owned(), *address);
        match self.door.ask(method, path).await {
            Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                let source = Silence::Unavailable(answer.excerpt());
                Err(ServerError::NotAnswering { doing, address, source })
            }
            Ok(answer) => Ok(answer),
            Err(Trouble::Silent(source)) => Err(ServerError::NotAnswering { doing, address, source }),
            Err(Trouble::Untrusted(source)) => {
                let source = std::io::Error::other(source);
                Err(ServerError::Untrusted { doing, address, certname: certname.clone(), source })
            }
            Err(Trouble::Garbled(source)) => Err(ServerError::Garbled { doing, address, source }),
            Err(Trouble::Identity(source)) => Err(ServerError::Identity { doing, source }),
        }
    }

    pub(crate) fn garbled(
        &self,
        doing: &str,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> ServerError {
        ServerError::Garbled { doing: doing.into(), address: self.door.address, source }
    }

    /// `method` and `path`: what a rule must allow.
    pub(crate) fn refusal(
        &self,
        doing: &str,
        (method, path): (&'static str, &str),
        answer: &Answer,
    ) -> ServerError {
        let (doing, address) = (doing.to_owned(), self.door.address);
        if answer.status == StatusCode::FORBIDDEN {
            let (certname, path) = (self.door.certname.clone(), path.into());
            return ServerError::Forbidden { doing, address, certname, method, path };
        }
        ServerError::Refused { doing, address, status: answer.status, body: answer.excerpt() }
    }
}

fn not_proven(environment: &EnvironmentName, version: &Path, found: String) -> ServerError {
    ServerError::NotProven { environment: environment.clone(), version: version.into(), found }
}

/// `Err`: what it is instead.
fn proof(
    environments: &BTreeMap<String, LiveEnvironment>,
    environment: &EnvironmentName,
    version: &Path,
) -> Result<Proof, String> {
    let live = environments.get(environment.as_str()).ok_or("not known to it")?;
    let all = live.modulepath.iter().chain(&live.manifest);
    let paths: Vec<PathBuf> = all.clone().filter(|path| path.starts_with(version)).cloned().collect();
    if paths.is_empty() {
        let shown: Vec<_> = all.map(|path| path.display().to_string()).collect();
        return Err(format!("loaded from {}", shown.join(":")));
    }
    Ok(Proof { paths })
}

#[derive(Deserialize)]
struct Listing {
    environments: BTreeMap<String, Listed>,
}

#[derive(Deserialize)]
struct Listed {
    settings: ListedSettings,
}

#[derive(Deserialize)]
struct ListedSettings {
    modulepath: Vec<PathBuf>,
    /// A path, or a word such as `no_manifest`.
    manifest: Option<Value>,
    environment_timeout: Value,
}

impl From<ListedSettings> for LiveEnvironment {
    fn from(listed: ListedSettings) -> Self {
        let manifest = listed.manifest.as_ref().and_then(Value::as_str).map(PathBuf::from);
        let timeout = listed.environment_timeout;
        let environment_timeout = timeout.as_str().map_or_else(|| timeout.to_string(), str::to_owned);
        Self { modulepath: listed.modulepath, manifest, environment_timeout }
    }
}
