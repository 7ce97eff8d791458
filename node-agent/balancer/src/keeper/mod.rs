//! Keeps what is wanted of each compiler at this balancer, whatever balancer it is.
//!
//! Called by the node agent's service (`balance`, `status`) and by its background (`watch`). A wish is on disk before it
//! is done; the floor is held against everybody; a server that was not ready before we came is never enabled by us.

mod corrections;
mod floor;
mod grow;
mod runtime;
mod status;
mod watch;
mod wishes;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bunraku_common::{Chain, Fence, NodeName, crash};

pub use self::{
    floor::BelowFloor,
    status::{Asked, BackendStatus, ServerStatus, Status},
    wishes::WishesError,
};
use self::{
    grow::Growth,
    wishes::{Part, Record, Wishes},
};
use crate::{
    config::{BalancerConfig, Misconfigured},
    driver::{Admin, Driver, Observed, Trouble, Wanted},
    name::ServerName,
};

/// What one compiler is wanted to be, and by whose order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub compiler: NodeName,
    pub wanted: Wanted,
    pub owner: String,
    pub reason: String,
    pub fence: Fence,
    /// Servers that must stay in service in each backend; the larger of this and the own floor rules.
    pub min_available: u32,
    /// Ready: the weight grows over so long, where the balancer can.
    pub slow_start: Duration,
}

/// Why a compiler is not what it is wanted to be.
#[derive(Debug, thiserror::Error)]
pub enum BalanceError {
    #[error(
        "{0} is mapped to no server of this balancer\nhint: add it to [balancer.compilers] in agent.toml, and restart bunraku-agent"
    )]
    Unmapped(NodeName),
    #[error(
        "the balancer has no server {0}\nhint: bunraku-agent doctor compares its servers with [balancer.compilers]"
    )]
    Missing(ServerName),
    #[error(transparent)]
    BelowFloor(#[from] BelowFloor),
    #[error("a newer order came before this one's turn")]
    Overtaken,
    #[error(transparent)]
    Trouble(#[from] Trouble),
    #[error("what is wanted could not be remembered")]
    NotRemembered(#[from] WishesError),
}

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error(transparent)]
    Config(#[from] Misconfigured),
    #[error(transparent)]
    Wishes(#[from] WishesError),
}

/// The balancer's side of every compiler.
#[derive(Debug)]
pub struct Keeper {
    config: BalancerConfig,
    driver: Arc<dyn Driver>,
    wishes: Mutex<Wishes>,
    /// One change at a time.
    turn: tokio::sync::Mutex<Turn>,
    told: Mutex<Told>,
}

/// What only the one whose turn it is knows.
#[derive(Debug, Default)]
struct Turn {
    /// The last look of this process.
    seen: Option<Observed>,
    /// The newest incarnation that the log names.
    noticed: String,
    growing: BTreeMap<ServerName, Growth>,
}

/// What was found at the last look, told once in the log.
#[derive(Debug, Default)]
struct Told {
    trouble: Option<String>,
    alarms: Vec<String>,
}

impl Keeper {
    /// `file` holds what must not be forgotten.
    pub fn open(config: BalancerConfig, driver: Arc<dyn Driver>, file: &Path) -> Result<Self, KeeperError> {
        config.check()?;
        Ok(Self {
            config,
            driver,
            wishes: Mutex::new(Wishes::open(file)?),
            turn: tokio::sync::Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// Makes one compiler what it is wanted to be, and answers what was observed afterwards. `still`: whether no newer
    /// order has come, asked when it is this one's turn.
    pub async fn balance(
        &self,
        wish: Wish,
        still: impl Fn() -> bool + Send,
    ) -> Result<Vec<ServerStatus>, BalanceError> {
        let servers = self.servers(&wish.compiler)?;
        let mut turn = self.turn.lock().await;
        if !still() {
            return Err(BalanceError::Overtaken);
        }
        let observed = self.reconcile(&mut turn).await?;
        let observed = match wish.wanted {
            Wanted::Drained => self.drain(&wish, servers, &observed, &mut turn).await?,
            Wanted::Ready => self.enable(&wish, servers, &observed, &mut turn).await?,
        };
        // An older look, of before a reload, still has something to correct.
        if turn.seen.as_ref().is_none_or(|seen| seen.incarnation == observed.incarnation) {
            turn.seen = Some(observed.clone());
        }
        Ok(status::servers(&wish.compiler, servers, &observed, self.wishes().kept()))
    }

    /// Ends the sessions that a compiler still has. Only while it is wanted drained, and seen to be; `still` as in
    /// `balance`. Answers why they could not be closed; empty: they were.
    pub async fn close(
        &self,
        compiler: &NodeName,
        still: impl Fn() -> bool + Send,
    ) -> Result<String, BalanceError> {
        let servers = self.servers(compiler)?;
        let mut turn = self.turn.lock().await;
        let drained = self.wishes().of(compiler).is_some_and(|record| record.wanted == Wanted::Drained);
        if !still() || !drained {
            return Err(BalanceError::Overtaken);
        }
        let observed = self.reconcile(&mut turn).await?;
        let is_out =
            |name: &&ServerName| observed.server(name).is_some_and(|server| server.admin != Admin::Ready);
        let out: Vec<ServerName> = servers.iter().filter(is_out).cloned().collect();
        match self.driver.close(&out).await {
            Ok(()) => {
                tracing::info!(%compiler, servers = ?out, "sessions closed");
                Ok(String::new())
            }
            // Whoever asked goes on without.
            Err(cannot @ (Trouble::CannotDo { .. } | Trouble::Refused { .. })) => {
                tracing::warn!(%compiler, "{cannot}");
                Ok(Chain(&cannot).to_string())
            }
            Err(trouble) => Err(trouble.into()),
        }
    }

    async fn drain(
        &self,
        wish: &Wish,
        servers: &[ServerName],
        observed: &Observed,
        turn: &mut Turn,
    ) -> Result<Observed, BalanceError> {
        if let Some(missing) = servers.iter().find(|name| observed.server(name).is_none()) {
            return Err(BalanceError::Missing(missing.clone()));
        }
        let is = |name: &ServerName, admin| observed.server(name).is_some_and(|server| server.admin == admin);
        let leaving: Vec<ServerName> =
            servers.iter().filter(|name| is(name, Admin::Ready)).cloned().collect();
        self.permits(observed, &leaving, wish.min_available)?;
        let mut record = self.record(wish);
        // Those that we took out earlier are still owed; all others that are out are somebody else's.
        record.ours.retain(|name, part| *part == Part::Out && !is(name, Admin::Maint));
        record.ours.extend(leaving.iter().map(|name| (name.clone(), Part::Out)));
        self.wishes().set(&wish.compiler, record)?;
        crash::point("balance-remembered");
        turn.growing.retain(|name, _| !servers.contains(name));
        let observed = self.tell(&leaving, Wanted::Drained, observed).await?;
        crash::point("balance-done");
        tracing::info!(compiler = %wish.compiler, owner = wish.owner, reason = wish.reason, ?leaving, "drained");
        Ok(observed)
    }

    async fn enable(
        &self,
        wish: &Wish,
        servers: &[ServerName],
        observed: &Observed,
        turn: &mut Turn,
    ) -> Result<Observed, BalanceError> {
        let mut record = self.record(wish);
        let grows = !wish.slow_start.is_zero() && self.driver.weighs();
        let due = corrections::due(servers, &record, observed, None);
        record.ours = due.ours;
        if grows {
            record.growing.extend(due.enable.iter().cloned());
        }
        self.wishes().set(&wish.compiler, record)?;
        crash::point("balance-remembered");
        if grows {
            self.begin_to_grow(&due.enable, wish.slow_start, turn).await?;
        } else {
            self.full_weight(&wish.compiler, servers, turn).await?;
        }
        let observed = self.tell(&due.enable, Wanted::Ready, observed).await?;
        crash::point("balance-done");
        self.given_back(&wish.compiler, &due.enable)?;
        tracing::info!(compiler = %wish.compiler, owner = wish.owner, enabled = ?due.enable, "ready");
        Ok(observed)
    }

    /// What is on record of the compiler, with the new wish.
    fn record(&self, wish: &Wish) -> Record {
        let known = self.wishes().of(&wish.compiler).cloned();
        let (ours, growing) = known.map(|record| (record.ours, record.growing)).unwrap_or_default();
        Record {
            wanted: wish.wanted,
            owner: wish.owner.clone(),
            reason: wish.reason.clone(),
            fence: wish.fence,
            min_available: wish.min_available,
            slow_start_s: wish.slow_start.as_secs(),
            ours,
            growing,
        }
    }

    fn given_back(&self, compiler: &NodeName, servers: &[ServerName]) -> Result<(), WishesError> {
        self.wishes().change(|kept| {
            if let Some(record) = kept.compilers.get_mut(compiler) {
                record.ours.extend(servers.iter().map(|name| (name.clone(), Part::In)));
            }
        })
    }

    /// Tells the balancer, and looks whether it is so.
    async fn tell(
        &self,
        servers: &[ServerName],
        wanted: Wanted,
        before: &Observed,
    ) -> Result<Observed, Trouble> {
        if servers.is_empty() {
            // What an earlier attempt could not finish (a file that could not be written) belongs to this one.
            self.driver.settle().await?;
            return Ok(before.clone());
        }
        // A reload in between may forget what the worker before it was told.
        const ATTEMPTS: usize = 3;
        let mut shown = String::new();
        for _ in 0..ATTEMPTS {
            self.driver.set(servers, wanted).await?;
            let observed = self.driver.observe().await?;
            let wrong = servers.iter().find_map(|name| {
                let admin = observed.server(name).map(|server| server.admin);
                let right = match wanted {
                    Wanted::Ready => admin == Some(Admin::Ready),
                    Wanted::Drained => admin.is_some_and(|admin| admin != Admin::Ready),
                };
                (!right).then(|| format!("{name} {}", admin.map_or("missing", Admin::as_str)))
            });
            match wrong {
                None => return Ok(observed),
                Some(wrong) => shown = wrong,
            }
        }
        Err(Trouble::Unconfirmed { who: self.driver.kind().to_owned(), wanted: wanted.as_str(), shown })
    }

    /// Everything mapped, as observed now.
    pub async fn status(&self) -> Status {
        let (observed, trouble) = match self.driver.observe().await {
            Ok(observed) => (observed, None),
            Err(trouble) => (Observed::default(), Some(Chain(&trouble).to_string())),
        };
        let wishes = self.wishes();
        let servers = self.config.compilers.iter();
        let servers =
            servers.flat_map(|(node, names)| status::servers(node, names, &observed, wishes.kept()));
        Status {
            driver: self.driver.kind(),
            servers: servers.collect(),
            unmapped: status::unmapped(&self.config, &observed),
            backends: status::backends(&self.config, &observed),
            trouble,
            alarms: self.told().alarms.clone(),
        }
    }

    fn permits(
        &self,
        observed: &Observed,
        leaving: &[ServerName],
        min_available: u32,
    ) -> Result<(), BelowFloor> {
        let floor = |backend: &str| self.config.floor(backend).max(min_available);
        floor::permits(observed, &self.config.mapped(), leaving, floor)
    }

    /// Whether this balancer carries the compiler at all.
    pub fn carries(&self, compiler: &NodeName) -> bool {
        self.config.compilers.contains_key(compiler)
    }

    fn servers(&self, compiler: &NodeName) -> Result<&[ServerName], BalanceError> {
        let servers = self.config.compilers.get(compiler).map(Vec::as_slice);
        servers.ok_or_else(|| BalanceError::Unmapped(compiler.clone()))
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
